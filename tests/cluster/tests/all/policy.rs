//! Policies of the API server, as they hold on the wire.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::{Value, json};

const L4_ONLY: &str = r#"{
  "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
  "metadata": {"name": "frontend-by-port", "namespace": "production"},
  "spec": {
    "selector": {"matchLabels": {"app": "backend"}},
    "rules": [{
      "from": [{"source": {"principals": ["cluster.local/ns/production/sa/frontend"]}}],
      "to": [{"operation": {"ports": ["8080"]}}]
    }]
  }
}"#;

fn seed(cluster: &Cluster, name: &str) -> Result<String> {
    let folder = cluster.repository().join("deploy/kubernetes/examples");
    std::fs::read_to_string(folder.join(name)).with_context(|| format!("{name} is missing"))
}

fn condition(cluster: &Cluster, object: &[&str], kind: &str) -> Result<Value> {
    let read = cluster.get_json(&[&["-n", "production", "get"], object].concat())?;
    let conditions = read["status"]["conditions"].as_array().context("no conditions yet")?.clone();
    let found = conditions.into_iter().find(|one| one["type"] == kind);
    found.with_context(|| format!("no condition {kind}: {}", read["status"]))
}

#[test]
fn a_zero_trust_namespace_lets_nobody_in_by_rules_that_layer_4_cannot_judge() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "production", &json!({"culvert.dev/enroll": "true"}))?;
    let outside = Namespace::new(cluster, "outside", &json!({}))?;
    space.run(&[App::idle("frontend", "node1"), App::idle("other", "node1"), App::server("backend", "node2")])?;
    outside.run(&[App::idle("stranger", "node1")])?;
    let backend = space.service("backend", 80, 8080)?;
    for from in ["frontend", "other"] {
        space.reaches(from, &backend, "backend")?;
    }
    cluster.apply(&seed(cluster, "zero-trust-namespace.yaml")?)?;
    for from in ["frontend", "other"] {
        space.refused(from, &backend)?;
    }
    outside.refused("stranger", &backend)?;
    cluster.apply(L4_ONLY)?;
    space.reaches("frontend", &backend, "backend")?;
    space.refused("other", &backend)?;
    outside.refused("stranger", &backend)?;
    let refusal = cluster.agent("node2")?.record("the refusal", |record| {
        record.direction == "inbound" && record.src.workload.as_deref() == Some("other") && record.reason.is_some()
    })?;
    assert_eq!(refusal.src.identity.as_deref(), Some("spiffe://cluster.local/ns/production/sa/other"));
    Ok(())
}

#[test]
fn conditions_say_what_holds_and_what_layer_4_cannot_judge() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "production", &json!({"culvert.dev/enroll": "true"}))?;
    space.run(&[App::server("backend", "node2")])?;
    cluster.apply(&seed(cluster, "zero-trust-namespace.yaml")?)?;
    within(Duration::from_secs(15), "conditions", || {
        for object in [["peerauthentication", "default"], ["authorizationpolicy", "frontend-to-backend"]] {
            let accepted = condition(cluster, &object, "Accepted")?;
            ensure!(accepted["status"] == "True", "{accepted}");
        }
        let enforced = condition(cluster, &["authorizationpolicy", "frontend-to-backend"], "Enforced")?;
        let words = enforced["message"].as_str().unwrap_or_default();
        ensure!(words.contains("methods") && words.contains("paths"), "{enforced}");
        Ok(())
    })
}
