//! How pods start: in the mesh from their first packet on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
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

/// What a node holds for pods: network namespaces of the runtime, pins, entries of the agent's book.
fn held(cluster: &Cluster, node: &str) -> Result<BTreeMap<&'static str, usize>> {
    let mut counts = BTreeMap::new();
    for (what, list) in [
        ("namespaces", "ls /run/netns 2>/dev/null | wc -l"),
        ("links", "ls /sys/class/net | wc -l"),
        ("pins", "find /sys/fs/bpf | wc -l"),
        ("book", "ls /run/culvert/agent/pods | wc -l"),
        ("addresses", "ls /var/lib/cni/networks/pods 2>/dev/null | wc -l"),
    ] {
        let counted = cluster.on(node, &["sh", "-c", list])?;
        counts.insert(what, counted.trim().parse().with_context(|| format!("{what}: {counted}"))?);
    }
    Ok(counts)
}

#[test]
fn sixty_pods_that_come_and_go_leave_nothing_behind() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "churn", &json!({"culvert.dev/enroll": "true"}))?;
    let before = [held(cluster, "node1")?, held(cluster, "node2")?];
    for round in 0..3 {
        let names: Vec<String> = (0..20).map(|number| format!("pod-{round}-{number}")).collect();
        let apps: Vec<App<'_>> = names
            .iter()
            .enumerate()
            .map(|(number, name)| App::idle(name, if number % 2 == 0 { "node1" } else { "node2" }))
            .collect();
        space.create(&apps)?;
        // The last round is waited for; the others are taken away in the middle of their start.
        if round == 2 {
            cluster.kubectl(&["-n", "churn", "wait", "pod", "--all", "--for=condition=Ready", "--timeout=90s"])?;
        }
        cluster.kubectl(&["-n", "churn", "delete", "pod", "--all", "--wait=true", "--timeout=90s"])?;
    }
    within(Duration::from_secs(60), "the last traces", || {
        for (node, before) in ["node1", "node2"].into_iter().zip(&before) {
            let now = held(cluster, node)?;
            ensure!(now.iter().all(|(what, count)| *count <= before[what]), "{node}: before {before:?}, now {now:?}");
        }
        Ok(())
    })
}
