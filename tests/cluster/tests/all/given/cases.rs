//! Third-party cases by `kubectl apply`: what is invalid is refused with its reason, and of what is taken the conditions are
//! true.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{Cluster, Namespace, within};
use serde_json::{Value, json};

const KINDS: [&str; 3] = ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"];

struct Case {
    what: String,
    /// Applied as it is, but for name and namespace.
    object: Value,
    is_valid: bool,
}

fn cases(cluster: &Cluster) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for kind in KINDS {
        let name = format!("istio/tables/validate-{}.json", kind.to_lowercase());
        let table: Value = serde_json::from_slice(&std::fs::read(cluster.cases()?.join(&name))?)?;
        for case in table["cases"].as_array().context("cases")? {
            let annotations = case.get("annotations").cloned().unwrap_or(json!({}));
            let object = json!({"apiVersion": "security.istio.io/v1", "kind": kind,
                "metadata": {"annotations": annotations}, "spec": case["in"]});
            cases.push(Case { what: format!("{name}: {}", case["name"]), object, is_valid: case["valid"] == true });
        }
    }
    ensure!(cases.iter().any(|case| case.is_valid) && cases.iter().any(|case| !case.is_valid), "no cases");
    Ok(cases)
}

/// Kubernetes 1.20's schema check takes an empty text for null when it is built with a newer Go, whose empty values share
/// one address: no fault of the schema, and of no API server that people run.
fn takes_empty_for_null(case: &Case, error: &str) -> bool {
    let text = case.object.to_string();
    error.contains("must be of type string: \"null\"") && text.contains(":\"\"") && !text.contains(":null")
}

/// Whether it has targets, and none of them is a Service.
fn has_only_gateways(spec: &Value) -> bool {
    let several = spec["targetRefs"].as_array().into_iter().flatten();
    let targets: Vec<&Value> = several.chain(Some(&spec["targetRef"]).filter(|one| !one.is_null())).collect();
    !targets.is_empty() && targets.iter().all(|target| target["kind"] != "Service")
}

/// Something is said of it, and of this generation.
fn is_said(object: &Value) -> Result<()> {
    let name = &object["metadata"]["name"];
    let conditions = object["status"]["conditions"].as_array().with_context(|| format!("{name}: no conditions yet"))?;
    for kind in ["Accepted", "Enforced"] {
        let one = conditions.iter().find(|one| one["type"] == kind).with_context(|| format!("{name}: no {kind}"))?;
        ensure!(one["observedGeneration"] == object["metadata"]["generation"], "{name}: {one}");
        // No pod is there that any of them could select; tokens and gateways are a waypoint's business.
        let wanted = match (kind, object["kind"].as_str(), has_only_gateways(&object["spec"])) {
            ("Accepted", ..) => ("True", "Valid"),
            (_, Some("RequestAuthentication"), _) | (_, _, true) => ("False", "NoL7Layer"),
            // All cases lie in one namespace: of one scope the oldest holds.
            (_, Some("PeerAuthentication"), _)
                if one["message"].as_str().is_some_and(|text| text.contains("is older")) =>
            {
                ("False", "Overruled")
            }
            _ => ("True", "NoWorkloads"),
        };
        ensure!(one["status"] == wanted.0 && one["reason"] == wanted.1, "{name}: {one}");
    }
    Ok(())
}

#[test]
fn every_invalid_object_is_refused_with_its_reason_and_of_valid_ones_the_conditions_are_true() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "cases", &json!({}))?;
    let (mut wrong, mut refused, mut taken, mut left) = (Vec::new(), 0, 0, 0);
    for (number, mut case) in cases(cluster)?.into_iter().enumerate() {
        case.object["metadata"]["name"] = json!(format!("case-{number}"));
        case.object["metadata"]["namespace"] = json!(space.name());
        match (cluster.apply(&case.object.to_string()), case.is_valid) {
            (Ok(_), true) => taken += 1,
            (Ok(_), false) => wrong.push(format!("{}: taken", case.what)),
            (Err(error), false) => {
                refused += 1;
                let said = format!("{error:#}");
                let reasoned = said.contains("spec") || said.contains("metadata");
                if !reasoned {
                    wrong.push(format!("{}: refused without a field: {said}", case.what));
                }
            }
            (Err(error), true) if takes_empty_for_null(&case, &format!("{error:#}")) => left += 1,
            (Err(error), true) => wrong.push(format!("{}: refused: {error:#}", case.what)),
        }
    }
    println!("{refused} refused, {taken} taken, {left} that this old API server cannot take");
    ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    within(Duration::from_secs(60), "conditions", || {
        let mut count = 0;
        for kind in KINDS {
            let list = cluster.get_json(&["-n", space.name(), "get", kind])?;
            let objects: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
            objects.iter().try_for_each(|object| is_said(object))?;
            count += objects.len();
            let overruled = objects.iter().filter(|object| object["status"].to_string().contains("Overruled"));
            ensure!(overruled.count() < objects.len(), "of {kind} none holds");
        }
        ensure!(count == taken, "{count} of {taken} are there");
        Ok(())
    })
}
