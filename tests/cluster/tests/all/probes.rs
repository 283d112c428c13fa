//! kubelet's probes under STRICT, and that nobody else on the node can use their way.

use anyhow::{Context as _, Result};
use culvert_cluster::{App, Cluster, Namespace};
use serde_json::json;

#[test]
fn probes_of_every_kind_work_under_strict_and_let_nobody_else_in() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "probed", &json!({"culvert.dev/enroll": "true"}))?;
    let strict = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": "probed"}, "spec": {"mtls": {"mode": "STRICT"}},
    });
    cluster.apply(&strict.to_string())?;
    let tcp = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 3});
    let word =
        json!({"exec": {"command": ["/usr/local/bin/cluster-app", "call", "127.0.0.1:8080"]}, "periodSeconds": 2});
    let container = json!({"startupProbe": tcp, "readinessProbe": tcp, "livenessProbe": word});
    let app = |name, node| App { container: container.clone(), ..App::server(name, node) };
    space.run(&[app("one", "node1"), app("two", "node2")])?;
    for (pod, node) in [("one", "node1"), ("two", "node2")] {
        let address = format!("{}:8080", space.address(pod)?);
        let tried = cluster.on(node, &[&cluster.program("cluster-app")?, "call", &address]);
        let said =
            format!("{:#}", tried.as_ref().err().context(format!("a process on {node} reached {pod}: {tried:?}"))?);
        assert!(said.contains("failed "), "it did not even try: {said}");
    }
    std::thread::sleep(std::time::Duration::from_secs(6));
    let pods = cluster.get_json(&["-n", "probed", "get", "pods"])?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!((&status["ready"], &status["restartCount"]), (&json!(true), &json!(0)), "{status}");
    }
    Ok(())
}
