//! How pods start: in the mesh from their first packet on.

use anyhow::Result;
use culvert_cluster::{App, Cluster, Namespace};
use serde_json::json;

#[test]
fn an_init_container_calls_a_strict_peer() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "init", &json!({"culvert.dev/enroll": "true"}))?;
    space.run(&[App::server("web", "node2")])?;
    let service = space.service("web", 80, 8080)?;
    let strict = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "init"}, "spec": {"mtls": {"mode": "STRICT"}},
    });
    cluster.apply(&strict.to_string())?;
    let first = json!([{
        "name": "first", "image": "localhost/culvert-test/app:1", "imagePullPolicy": "Never", "args": ["call", service],
    }]);
    space.run(&[App { spec: json!({"initContainers": first}), ..App::idle("starter", "node1") }])?;
    let record = cluster.agent("node2")?.record("the init container's call", |record| {
        record.direction == "inbound"
            && record.src.identity.as_deref() == Some("spiffe://cluster.local/ns/init/sa/starter")
    })?;
    assert_eq!(record.transport, "hbone");
    Ok(())
}
