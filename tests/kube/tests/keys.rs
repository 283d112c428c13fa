//! The CA's keys in Secrets: made, renewed and replaced without anybody being refused; and one writer among several.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::time::SystemTime;

use culvert_control::{
    api::Body,
    ca::{Given, Roots, new_issuing, new_root},
    cluster::secrets::Done,
};
use culvert_identity::TrustDomain;
use culvert_kube_tests::{Agent, Control, Server, eventually, run};
use culvert_lab::{
    anyhow::{Context as _, Result, ensure},
    in_sandbox,
};
use culvert_wire::{
    Kind, Resource,
    proto::culvert::{NodeReport, status_service_client::StatusServiceClient},
};
use serde_json::{Value, json};

const NAMESPACE: &str = "culvert-system";

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}})
}

/// Puts a key into the Secret as a user would, without the mark of culvert's own.
async fn bring(server: &Server, given: &Given) -> Result<()> {
    let mut held = server.get(&secret("culvert-issuing")).await?;
    held["metadata"]["annotations"] = json!({});
    held["data"] = Value::Null;
    held["stringData"] = json!({"tls.key": *given.key, "tls.crt": given.chain, "ca.crt": given.roots});
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/culvert-issuing");
    server.api.send(http::Method::PUT, &path, Body::Whole, &held).await?;
    Ok(())
}

async fn enrolled(server: &Server) -> Result<String> {
    let labels = json!({"culvert.dev/enroll": "true"});
    server
        .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}}))
        .await?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"nodeName": "n1", "serviceAccountName": "web", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": "10.244.1.2"}});
    Ok(server.apply(&pod).await?["metadata"]["uid"].as_str().context("a uid")?.to_owned())
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

#[test]
fn the_job_makes_keys_once_renews_when_told_and_leaves_others_alone() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        let control = Control::install(&server).await?;
        let pod = enrolled(&server).await?;
        let agent = Agent::join(&server, &control, "agent-1", "n1").await?;
        let mut stream = agent.stream().await?;
        stream.until("the pod", |stream| stream.workload("web").map(drop)).await?;
        ensure!(Control::job(&server, &[]).await? == Done::Nothing, "a second run made another key");
        let before = server.get(&secret("culvert-issuing")).await?;
        let root = server.get(&secret("culvert-root-key")).await?;
        ensure!(Control::job(&server, &["--force"]).await? == Done::Issuing, "nothing was renewed");
        let after = server.get(&secret("culvert-issuing")).await?;
        ensure!(
            before["data"]["tls.crt"] != after["data"]["tls.crt"]
                && before["data"]["ca.crt"] == after["data"]["ca.crt"],
            "not a new key under the same root"
        );
        ensure!(server.get(&secret("culvert-root-key")).await?["data"] == root["data"], "the root was touched");
        // Under a known root the new key signs at once, and nobody notices.
        let chain = after["data"]["tls.crt"].clone();
        eventually("the new key signs", async || {
            let log = agent.issue(&pod, WEB).await.ok()?;
            (log > 1).then_some(())
        })
        .await?;
        ensure!(!chain.is_null(), "no chain");
        let domain = TrustDomain::parse("cluster.local")?;
        let (key, pem) = new_root(&domain, SystemTime::now())?;
        bring(&server, &new_issuing(&domain, &key, &pem, SystemTime::now())?).await?;
        ensure!(Control::job(&server, &["--force"]).await? == Done::NotOurs, "a user's key was replaced");
        control.stop().await;
        Ok(())
    }));
}

#[test]
fn a_key_under_a_new_root_signs_only_when_agents_have_the_root() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        let control = Control::install_with(&server, &["--root-hold", "3"]).await?;
        let pod = enrolled(&server).await?;
        let agent = Agent::join(&server, &control, "agent-1", "n1").await?;
        let mut stream = agent.stream().await?;
        stream.until("the pod", |stream| stream.workload("web").map(drop)).await?;
        let domain = TrustDomain::parse("cluster.local")?;
        let (key, pem) = new_root(&domain, SystemTime::now())?;
        let new = Roots::of_pem(&pem)?;
        bring(&server, &new_issuing(&domain, &key, &pem, SystemTime::now())?).await?;

        // The stream is not read: this agent has not taken the new roots, so that the old key has to go on signing.
        let shown = async || {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "culvert-root", "namespace": NAMESPACE}});
            let map = server.get(&map).await.ok()?;
            let roots = Roots::of_pem(map["data"]["root.pem"].as_str()?).ok()?;
            (roots.ders.len() == 2 && roots.hold(&new)).then_some(())
        };
        eventually("both roots are shown", shown).await?;
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        agent.issue(&pod, WEB).await.context("the old key does not sign any more")?;

        let bundle = (Kind::Bundle, "cluster.local".to_owned());
        stream
            .until("the bundle has both", |stream| match stream.held.get(&bundle)? {
                Resource::Bundle(bundle) => (bundle.authorities.len() == 2).then_some(()),
                _ => None,
            })
            .await?;
        tokio::spawn(async move { while stream.next().await.is_ok() {} });
        // Whoever holds only the old root refuses what the new key signs; whoever holds both takes it.
        let old_only = eventually("the new key signs", async || agent.issue(&pod, WEB).await.err()).await?;
        ensure!(old_only.reason() == "answer_not_trusted", "{old_only}");
        let port = control.port(&server).await?.with_token_file("/run/kube/token-agent-1".into());
        let fresh = Agent::with(port).await?;
        ensure!(fresh.issue(&pod, WEB).await? > 1, "an agent with both roots is refused");
        control.stop().await;
        Ok(())
    }));
}

#[test]
fn of_two_control_planes_one_writes_and_the_other_takes_over() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        let first = Control::install(&server).await?;
        let second = Control::start(&server, 15013, &[]).await?;
        let holder = async || {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "culvert-control", "namespace": NAMESPACE}});
            server.get(&lease).await.ok()?["spec"]["holderIdentity"].as_str().map(str::to_owned)
        };
        let leader = eventually("a leader", holder).await?;
        // What a node enforces counts, whichever of the two its agent calls.
        for definition in culvert_policy::istio::definitions() {
            server.apply(&definition).await?;
        }
        enrolled(&server).await?;
        let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": "default", "namespace": "shop"}, "spec": {"mtls": {"mode": "STRICT"}}});
        server.apply(&policy).await?;
        let agent = Agent::join(&server, &second, "agent-0", "n1").await?;
        let mut stream = agent.stream().await?;
        let known = |stream: &culvert_kube_tests::Stream| {
            stream.held.keys().any(|(_, name)| name == "shop/default").then_some(stream.generation?)
        };
        let generation = stream.until("the policy", known).await?;
        let report = NodeReport { enforced_generation: generation, pods: Vec::new() };
        let mut client = StatusServiceClient::new(agent.port.channel(agent.identity.identity()));
        client.report(tokio_stream::iter([report])).await?;
        eventually("the leader knows", async || {
            let held = server.get(&policy).await.ok()?;
            let conditions = held["status"]["conditions"].as_array()?.clone();
            conditions.into_iter().find(|c| c["type"] == "Enforced" && c["message"] == "1/1 nodes at L4")
        })
        .await?;
        // Both serve, whoever leads.
        for (control, name, node) in [(&first, "agent-1", "n1"), (&second, "agent-2", "n2")] {
            let agent = Agent::join(&server, control, name, node).await?;
            agent.stream().await?.until("its pod", |stream| stream.workload(name).map(drop)).await?;
        }
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        ensure!(holder().await.as_deref() == Some(leader.as_str()), "the leader changed without need");
        first.stop().await;
        let wait = async {
            loop {
                if holder().await.is_some_and(|now| now != leader) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        };
        ensure!(tokio::time::timeout(std::time::Duration::from_secs(40), wait).await.is_ok(), "nobody took over");
        second.stop().await;
        Ok(())
    }));
}
