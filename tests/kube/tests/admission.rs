//! What the API server refuses through schema and webhook, and what is said of what it takes.
//!
//! The third-party cases are read where they are: `CULVERT_CONFORMANCE` names their folder, or `../shared/conformance` beside
//! the repository.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{fs, path::PathBuf};

use culvert_kube_tests::{Agent, Control, Server, eventually, run};
use culvert_lab::{
    anyhow::{Context as _, Result, bail, ensure},
    in_sandbox,
};
use culvert_wire::{proto::culvert::NodeReport, proto::culvert::status_service_client::StatusServiceClient};
use serde_json::{Value, json};

const NAMESPACE: &str = "culvert-system";
const PORT: u16 = 9443;
const KINDS: [&str; 3] = ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"];

/// The API server with definitions and webhook, and the control plane that answers it.
async fn with_webhook() -> Result<(Server, Control)> {
    let server = Server::start().await?;
    for definition in culvert_policy::istio::definitions() {
        server.apply(&definition).await?;
    }
    for name in ["some-namespace", "shop", "default"] {
        let labels = json!({"culvert.dev/enroll": "true"});
        server
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
            .await?;
    }
    let address = format!("{}:{PORT}", culvert_kube_tests::ADDRESS);
    let control = Control::install_with(&server, &["--webhook", &address]).await?;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "culvert-control", "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "webhook", "port": 443, "targetPort": PORT}]}});
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "culvert-control", "namespace": NAMESPACE},
        "subsets": [{"addresses": [{"ip": culvert_kube_tests::ADDRESS}], "ports": [{"name": "webhook", "port": PORT}]}]});
    server.apply(&service).await?;
    server.apply(&endpoints).await?;
    let plurals = ["authorizationpolicies", "peerauthentications", "requestauthentications"];
    let webhook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "culvert"},
        "webhooks": [{"name": "policies.culvert.dev", "failurePolicy": "Ignore", "timeoutSeconds": 5, "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "culvert-control", "namespace": NAMESPACE, "path": "/validate", "port": 443}},
            "rules": [{"apiGroups": ["security.istio.io"], "apiVersions": ["v1", "v1beta1"], "resources": plurals,
                "operations": ["CREATE", "UPDATE"], "scope": "Namespaced"}]}]});
    server.apply(&webhook).await?;
    let bad = policy("probe", &json!({"action": "DENY"}));
    eventually("the webhook is asked", async || {
        let refused = server.offer(&bad).await.ok()?.is_err_and(|error| error.is(400));
        if !refused {
            let _ = server.delete(&bad).await;
        }
        refused.then_some(())
    })
    .await?;
    Ok((server, control))
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn conformance() -> Result<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
    let folder = std::env::var_os("CULVERT_CONFORMANCE").map_or(beside, PathBuf::from);
    ensure!(
        folder.join("istio/tables").is_dir(),
        "no conformance cases in {}: set CULVERT_CONFORMANCE",
        folder.display()
    );
    Ok(folder)
}

/// Each case: where it is from, the object, and whether it is valid.
fn cases() -> Result<Vec<(String, Value, bool)>> {
    let folder = conformance()?;
    let mut cases = Vec::new();
    for kind in KINDS {
        let name = format!("istio/tables/validate-{}.json", kind.to_lowercase());
        let table: Value = serde_json::from_slice(&fs::read(folder.join(&name))?)?;
        for (index, case) in table["cases"].as_array().context("cases")?.iter().enumerate() {
            let object = json!({"apiVersion": "security.istio.io/v1", "kind": kind,
                "metadata": {"name": format!("table-{index}"), "namespace": "some-namespace",
                    "annotations": case.get("annotations").cloned().unwrap_or(json!({}))},
                "spec": case["in"]});
            cases.push((format!("{name}: {}", case["name"]), object, case["valid"] == true));
        }
    }
    for entry in fs::read_dir(folder.join("istio/crd-validation"))? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?;
        for document in text.split("\n---") {
            let file = entry.file_name();
            let mut object: Value =
                serde_saphyr::from_str(document).with_context(|| format!("{}", file.to_string_lossy()))?;
            if !KINDS.contains(&object["kind"].as_str().unwrap_or_default()) {
                continue;
            }
            let members = object.as_object_mut().context("an object")?;
            let valid = members.remove("_err").is_none();
            object["metadata"]["namespace"] = json!("default");
            let name = format!("{}: {}", file.to_string_lossy(), object["metadata"]["name"]);
            cases.push((name, object, valid));
        }
    }
    Ok(cases)
}

/// Kubernetes 1.20's schema check takes an empty text for null when it is built with a newer Go, whose empty values share
/// one address: no fault of the schema, and of no API server that people run.
fn takes_empty_for_null(object: &Value, error: &str) -> bool {
    let text = object.to_string();
    error.contains("must be of type string: \"null\"") && text.contains(":\"\"") && !text.contains(":null")
}

#[test]
fn every_invalid_case_is_refused_with_a_reason_and_every_valid_one_is_taken() {
    in_sandbox!(std::time::Duration::from_secs(300), || run(async {
        let (server, control) = with_webhook().await?;
        let (mut wrong, mut refused, mut taken, mut skipped) = (Vec::new(), 0, 0, 0);
        for (name, object, valid) in cases()? {
            match (server.offer(&object).await?, valid) {
                (Ok(_), true) => {
                    taken += 1;
                    server.delete(&object).await?;
                }
                (Err(error), false) => {
                    refused += 1;
                    // The schema's reasons are the API server's own words; the webhook's end with its own.
                    if error.to_string().len() < 40 {
                        wrong.push(format!("{name}: refused without a reason: {error}"));
                    }
                }
                (Ok(_), false) => {
                    wrong.push(format!("{name}: taken"));
                    server.delete(&object).await?;
                }
                (Err(error), true) if takes_empty_for_null(&object, &error.to_string()) => {
                    let review = culvert_manifests::review(&object);
                    ensure!(review.errors.is_empty(), "{name}: {:?}", review.errors);
                    skipped += 1;
                    println!("left to the validator alone, since this API server takes \"\" for null: {name}");
                }
                (Err(error), true) => wrong.push(format!("{name}: refused: {error}")),
            }
        }
        println!("{refused} refused, {taken} taken, {skipped} asked of the validator alone");
        ensure!(refused > 0 && taken > 0, "only {refused} and {taken} cases");
        ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
        control.stop().await;
        Ok(())
    }));
}

#[test]
fn a_policys_status_says_what_is_true_of_it() {
    in_sandbox!(|| run(async {
        let (server, control) = with_webhook().await?;
        let pod = |name: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": "backend"}},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
                "status": {"phase": "Running", "podIP": "10.244.1.2"}})
        };
        server.apply(&pod("backend")).await?;
        let mixed = policy(
            "mixed",
            &json!({"selector": {"matchLabels": {"app": "backend"}},
            "rules": [{"from": [{"source": {"namespaces": ["shop"]}}]},
                {"to": [{"operation": {"methods": ["GET"], "paths": ["/a"]}}]}]}),
        );
        server.apply(&mixed).await?;
        let condition = async |object: &Value, kind: &str| -> Option<Value> {
            let held = server.get(object).await.ok()?;
            let generation = held["metadata"]["generation"].clone();
            let conditions = held["status"]["conditions"].as_array()?.clone();
            let found = conditions.into_iter().find(|condition| condition["type"] == kind)?;
            (found["observedGeneration"] == generation).then_some(found)
        };
        let found = eventually("Accepted", async || condition(&mixed, "Accepted").await).await?;
        ensure!(found["status"] == "True", "{found}");
        let found = eventually("Enforced", async || condition(&mixed, "Enforced").await).await?;
        ensure!(found["status"] == "False" && found["reason"] == "NotAllNodes", "no agent has said anything: {found}");
        ensure!(found["message"].as_str().unwrap_or_default().starts_with("0/1 nodes"), "{found}");

        let agent = Agent::join(&server, &control, "agent-1", "n1").await?;
        let mut stream = agent.stream().await?;
        let generation = stream
            .until("the policy", |stream| {
                stream.held.keys().any(|(_, name)| name == "shop/mixed").then_some(stream.generation?)
            })
            .await?;
        let report = NodeReport { enforced_generation: generation, pods: Vec::new() };
        let mut client = StatusServiceClient::new(agent.port.channel(agent.identity.identity()));
        client.report(tokio_stream::iter([report])).await?;
        let found = eventually("all nodes", async || {
            condition(&mixed, "Enforced").await.filter(|found| found["status"] == "True")
        })
        .await?;
        let message = found["message"].as_str().unwrap_or_default();
        ensure!(message.starts_with("1/1 nodes") && found["reason"] == "Inexact", "{found}");
        ensure!(message.contains("rules[1]") && message.contains("methods"), "{message}");
        let held = server.get(&mixed).await?;
        ensure!(held["status"]["ineffectiveRules"][0]["rule"] == 1, "{}", held["status"]);

        let events = eventually("an Event names the rule", async || {
            let events = server.api.get("/api/v1/namespaces/shop/events").await.ok()?;
            let events = events["items"].as_array()?.clone();
            events.into_iter().find(|event| event["reason"] == "IneffectiveRules")
        })
        .await?;
        ensure!(events["involvedObject"]["name"] == "mixed", "{events}");

        // What slips in while the webhook is away is said in its status, and takes no effect but refusing.
        let webhook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "culvert"}});
        server.delete(&webhook).await?;
        let bad = policy("bad", &json!({"action": "DENY"}));
        eventually("it slips in", async || server.apply(&bad).await.ok()).await?;
        let found = eventually("it is refused", async || condition(&bad, "Accepted").await).await?;
        ensure!(found["status"] == "False" && found["reason"] == "Invalid", "{found}");
        eventually("an Event says so", async || {
            let events = server.api.get("/api/v1/namespaces/shop/events").await.ok()?;
            let events = events["items"].as_array()?.clone();
            events.into_iter().find(|event| event["reason"] == "Refused" && event["involvedObject"]["name"] == "bad")
        })
        .await?;
        control.stop().await;
        Ok(())
    }));
}

#[test]
fn an_api_server_whose_webhook_is_away_still_takes_objects() {
    in_sandbox!(|| run(async {
        let (server, control) = with_webhook().await?;
        control.stop().await;
        let good = policy("good", &json!({"rules": [{}]}));
        match server.offer(&good).await? {
            Ok(_) => Ok(()),
            Err(error) => bail!("failurePolicy Ignore is not kept: {error}"),
        }
    }));
}
