//! What becomes of a pod whose record disappears.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::net::SocketAddr;
use std::time::Duration;

use culvert_e2e::fixture;
use culvert_e2e::mesh::{Mesh, wait_until};
use culvert_e2e::streams::{Server, connect, echo, ping};
use culvert_lab::anyhow::ensure;
use culvert_lab::{Netns, in_sandbox};
use serde_json::Value;

const PORT: u16 = 9000;
const PODS: [(&str, &str); 2] = [("client", "node1"), ("server", "node2")];

fn reaches(from: &Netns, to: SocketAddr) -> bool {
    connect(from, to).is_ok_and(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        ping(&mut stream, b"hello").is_ok()
    })
}

#[test]
fn a_pod_without_a_record_is_closed_and_comes_back_with_its_record() {
    in_sandbox!(|| {
        let mesh = Mesh::start(&fixture::manifests(&PODS)?)?;
        let client = mesh.pod("client.app")?.pod.netns().clone();
        let (server, outside) = (mesh.pod("server.app")?, mesh.pod("stranger.outside")?);
        let (to, free) = (SocketAddr::from((server.pod.ip4(), PORT)), SocketAddr::from((outside.pod.ip4(), PORT)));
        let _server = Server::start(server.pod.netns(), PORT, echo)?;
        let _outside = Server::start(outside.pod.netns(), PORT, echo)?;
        ensure!(reaches(&client, to) && reaches(&client, free), "the pod reaches nobody to begin with");
        let mut open = connect(&client, to)?;
        ping(&mut open, b"hello")?;

        let (pods, beside) = (mesh.manifests.join("pods.yaml"), mesh.manifests.join(".pods.new"));
        let before = std::fs::read_to_string(&pods)?;
        let without: Vec<_> = before.split("---\n").filter(|part| !part.contains("name: client,")).collect();
        ensure!(without.len() < before.split("---\n").count(), "no record to be taken away");
        std::fs::write(&beside, without.join("---\n"))?;
        std::fs::rename(&beside, &pods)?;
        wait_until("its connection ends", Duration::from_secs(10), || Ok(ping(&mut open, b"still?").is_err()))?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(!reaches(&client, free), "a pod of which nothing is known speaks in the clear");
        ensure!(!reaches(&client, to), "a pod of which nothing is known speaks for itself");
        // It is listed with its reason, by its agent and by the control plane.
        let uid = mesh.pod("client.app")?.spec.uid.clone();
        let status: Value = serde_json::from_str(&mesh.operator("node1", &["status", "--json"])?)?;
        ensure!(status["closed"][&uid] == "no_record" && status["pods"] == Value::Array(vec![]), "{status}");
        wait_until("the control plane knows", Duration::from_secs(5), || {
            let nodes = mesh.control_status()?["nodes"].clone();
            let pods = nodes["node1"]["pods"].as_array().cloned().unwrap_or_default();
            Ok(pods.iter().any(|pod| pod["uid"] == uid.as_str() && pod["reason"] == "no_record"))
        })?;

        std::fs::write(&beside, before)?;
        std::fs::rename(&beside, &pods)?;
        wait_until("it is taken back", Duration::from_secs(20), || Ok(reaches(&client, to)))?;
        let status: Value = serde_json::from_str(&mesh.operator("node1", &["status", "--json"])?)?;
        ensure!(status["closed"] == serde_json::json!({}), "{status}");
        Ok(())
    })
}
