//! culvert goes from nodes and cluster without a trace, whoever installed it, and comes back.

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::json;

/// Everything that culvert may put on a node.
const TRACES: &str =
    "ls -d /opt/cni/bin/culvert* /etc/cni/net.d/*culvert* /run/culvert/agent/* /sys/fs/bpf/culvert 2>/dev/null; true";

fn untouched(cluster: &Cluster, node: &str) -> Result<()> {
    let left = cluster.on(node, &["sh", "-c", TRACES])?;
    ensure!(left.trim().is_empty(), "left on {node}: {left}");
    Ok(())
}

/// `culvert` on this cluster; what it printed.
fn culvert(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let helm = cluster.helm();
    let kubeconfig = helm.get_envs().find(|(name, _)| *name == OsStr::new("KUBECONFIG")).and_then(|(_, value)| value);
    let mut command = Command::new(cluster.program("culvert")?);
    command.args(words).env("KUBECONFIG", kubeconfig.context("a kubeconfig")?);
    let done = command.output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "culvert {words:?}: {said}");
    Ok(said)
}

/// Puts culvert back as the other tests have it, however this one ends.
struct Back(&'static Cluster);

impl Drop for Back {
    fn drop(&mut self) {
        // What the command has installed Helm would not take over; where nothing is left this says so and does nothing.
        let _ = culvert(self.0, &["uninstall", "--timeout", "2m"]);
        if let Err(error) = self.0.install(&[]) {
            println!("culvert could not be put back: {error:#}");
        }
    }
}

#[test]
fn both_ways_of_uninstalling_leave_nothing_on_nodes_and_both_ways_of_installing_bring_it_back() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "leave", &json!({"culvert.dev/enroll": "true"}))?;
    space.run(&[App::server("web", "node2"), App::idle("client", "node1")])?;
    let service = space.service("web", 80, 8080)?;
    space.reaches("client", &service, "web")?;
    ensure!(!cluster.on("node1", &["sh", "-c", TRACES])?.trim().is_empty(), "this test sees no traces");

    let back = Back(cluster);
    let mut helm = cluster.helm();
    let done = helm.args(["uninstall", "culvert", "--namespace", "culvert-system", "--timeout", "3m"]).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    untouched(cluster, "node1")?;
    untouched(cluster, "node2")?;
    space.reaches("client", &service, "web").context("without culvert pods talk as they did before")?;

    let checked = culvert(cluster, &["check", "--cluster"])?;
    ensure!(checked.contains("culvert can be installed here"), "{checked}");
    let said = culvert(cluster, &["install", "--image-pull-policy", "Never", "--timeout", "3m"])?;
    ensure!(said.contains("DaemonSet culvert-system/culvert-agent: ready"), "{said}");
    cluster.ready()?;
    let captured = || {
        space.reaches("client", &service, "web")?;
        let captured = cluster.agent("node1")?.captured("leave")?;
        ensure!(captured.contains(&"client".to_owned()), "{captured:?}");
        Ok(())
    };
    within(Duration::from_secs(60), "pods are in the mesh again", captured)?;

    let said = culvert(cluster, &["uninstall", "--timeout", "3m"])?;
    ensure!(said.contains("Node node1: nothing of culvert is left"), "{said}");
    untouched(cluster, "node1")?;
    untouched(cluster, "node2")?;
    space.reaches("client", &service, "web")?;
    drop(back);
    cluster.ready()
}
