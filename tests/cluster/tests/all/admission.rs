//! What `kubectl apply` says of policies that cannot be meant.

use std::time::Duration;

use anyhow::{Result, bail};
use culvert_cluster::{Cluster, Namespace, within};
use serde_json::{Value, json};

#[test]
fn what_cannot_be_meant_is_refused_with_its_field() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "admission", &json!({}))?;
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": kind,
            "metadata": {"name": "one", "namespace": space.name()}, "spec": spec,
        })
        .to_string()
    };
    // An API server begins to ask a moment after the webhook was registered; until then the control plane alone judges.
    within(Duration::from_secs(30), "the webhook is asked", || {
        match cluster.apply(&object("AuthorizationPolicy", json!({"rulez": []}))) {
            Err(_) => Ok(()),
            Ok(_) => {
                cluster.kubectl(&["-n", space.name(), "delete", "authorizationpolicy", "one"])?;
                bail!("what nobody can mean was taken")
            }
        }
    })?;
    let from = |source: Value| json!({"rules": [{"from": [{"source": source}]}]});
    for (kind, spec, told) in [
        ("AuthorizationPolicy", json!({"rulez": []}), "rulez"),
        ("AuthorizationPolicy", json!({"action": "PERMIT"}), "action"),
        ("AuthorizationPolicy", from(json!({"principal": ["x"]})), "principal"),
        ("AuthorizationPolicy", from(json!({"ipBlocks": ["10.0.0.0/99"]})), "10.0.0.0/99"),
        ("AuthorizationPolicy", json!({"rules": [{"to": [{"operation": {"ports": ["http"]}}]}]}), "http"),
        ("PeerAuthentication", json!({"mtls": {"mode": "ALWAYS"}}), "mode"),
        ("PeerAuthentication", json!({"portLevelMtls": {"8080": {"mode": "STRICT"}}}), "selector"),
        ("RequestAuthentication", json!({"jwtRules": [{"issuer": 5, "jwksUri": "https://keys.example"}]}), "issuer"),
    ] {
        let text = object(kind, spec);
        match cluster.apply(&text) {
            Ok(_) => bail!("{text} was taken"),
            Err(error) => {
                let said = format!("{error:#}");
                assert!(said.contains(told), "{text}: {said}");
            }
        }
    }
    cluster.apply(&object("AuthorizationPolicy", from(json!({"principals": ["cluster.local/ns/a/sa/b"]})))).map(drop)
}
