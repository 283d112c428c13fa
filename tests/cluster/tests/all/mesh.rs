//! A namespace comes into the mesh and leaves it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::json;

/// From the label to the last pod captured, as the kernel reports it.
const CAPTURE: Duration = Duration::from_secs(5);

fn captured(cluster: &'static Cluster, space: &Namespace, node: &str, pods: &[&str]) -> Result<()> {
    let found = cluster.agent(node)?.captured(space.name())?;
    ensure!(pods.iter().all(|pod| found.iter().any(|name| name == pod)), "captured on {node}: {found:?}");
    Ok(())
}

#[test]
fn a_label_takes_running_pods_into_the_mesh_and_out_again() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "label", &json!({}))?;
    space.run(&[App::server("web", "node2"), App::idle("client", "node1")])?;
    let service = space.service("web", 80, 8080)?;
    space.reaches("client", &service, "web")?;
    let begun = Instant::now();
    space.enrol()?;
    within(CAPTURE, "capture of both pods", || {
        captured(cluster, &space, "node1", &["client"])?;
        captured(cluster, &space, "node2", &["web"])
    })?;
    println!("captured {:.1} s after the label", begun.elapsed().as_secs_f32());
    space.reaches("client", &service, "web")?;
    assert_eq!(space.call("client", &service)?, format!("web {}", space.address("client")?));
    let record = cluster.agent("node2")?.record("an inbound call over mTLS", |record| {
        // Other tests have a pod of this name as well.
        let here = record.dst.identity.as_deref() == Some("spiffe://cluster.local/ns/label/sa/web");
        here && record.direction == "inbound" && record.transport == "hbone"
    })?;
    assert_eq!(record.src.identity.as_deref(), Some("spiffe://cluster.local/ns/label/sa/client"));
    assert_eq!(record.dst.workload.as_deref(), Some("web"));
    space.withdraw()?;
    within(Duration::from_secs(10), "the way out", || {
        for node in ["node1", "node2"] {
            let found = cluster.agent(node)?.captured(space.name())?;
            ensure!(found.is_empty(), "still captured on {node}: {found:?}");
        }
        Ok(())
    })?;
    space.reaches("client", &service, "web")
}

/// What of a pod's network an enrolment could have changed, as the node sees it.
fn network(cluster: &Cluster, space: &Namespace, node: &str, pod: &str) -> Result<String> {
    let read = cluster.get_json(&["-n", space.name(), "get", "pod", pod])?;
    let uid = read["metadata"]["uid"].as_str().context("a UID")?;
    let look = r#"for p in /proc/[0-9]*; do grep -q "pod$0" $p/cgroup 2>/dev/null && break; done
        grep -q "pod$0" $p/cgroup || exit 1
        nsenter --net=$p/ns/net sh -c 'ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip -br addr
            ss -Hltn; nft list ruleset; grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf 2>/dev/null'
        find /sys/fs/bpf -name "*$0*""#;
    cluster.on(node, &["sh", "-c", look, uid])
}

/// A pod that is not in the mesh, with a connection that it holds open.
fn with_open_connection(cluster: &'static Cluster, name: &str) -> Result<Namespace> {
    let space = Namespace::new(cluster, name, &json!({}))?;
    space.run(&[App::server("web", "node2")])?;
    let service = space.service("web", 80, 8080)?;
    let once = json!({"restartPolicy": "Never"});
    space.run(&[App { spec: once, ..App::doing("holder", "node1", &["hold", &service]) }])?;
    goes_on(&space)?;
    Ok(space)
}

/// The connection carries more than it had carried.
fn goes_on(space: &Namespace) -> Result<()> {
    let before = space.log("holder")?.lines().count();
    within(Duration::from_secs(10), "two seconds more of the connection", || {
        let log = space.log("holder")?;
        ensure!(log.lines().count() > before + 1 && !log.contains("broken"), "{log}");
        Ok(())
    })
}

/// The connection was reset, not left to time out.
fn is_cut(space: &Namespace) -> Result<()> {
    within(CAPTURE, "the end of the connection", || {
        let log = space.log("holder")?;
        let word = log.lines().last().and_then(|line| line.strip_prefix("broken ")).context("it goes on")?;
        ensure!(word != "WouldBlock" && word != "TimedOut", "{word}");
        Ok(())
    })
}

fn strict(space: &Namespace) -> Result<()> {
    space.apply("PeerAuthentication", "default", &json!({"mtls": {"mode": "STRICT"}}))
}

fn both_captured(cluster: &'static Cluster, space: &Namespace) -> Result<()> {
    within(CAPTURE, "capture of both pods", || {
        captured(cluster, space, "node1", &["holder"])?;
        captured(cluster, space, "node2", &["web"])
    })
}

#[test]
fn what_was_open_before_the_label_is_cut_at_once_under_strict() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = with_open_connection(cluster, "cut")?;
    strict(&space)?;
    goes_on(&space)?;
    space.enrol()?;
    is_cut(&space)
}

#[test]
fn what_was_open_before_the_label_goes_on_until_strict_comes_and_is_shown() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = with_open_connection(cluster, "kept")?;
    space.enrol()?;
    both_captured(cluster, &space)?;
    goes_on(&space)?;
    let status = cluster.agent("node1")?.ask(&["status"])?;
    let pods = status["pods"].as_array().context("pods")?;
    let holder = pods.iter().find(|pod| pod["namespace"] == "kept").context("the pod")?;
    assert_eq!(holder["pre_enrolment"], 1, "{holder}");
    strict(&space)?;
    is_cut(&space)
}

#[test]
fn a_label_that_is_taken_off_leaves_nothing_in_the_pods_network() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = with_open_connection(cluster, "leftover")?;
    let before = [network(cluster, &space, "node1", "holder")?, network(cluster, &space, "node2", "web")?];
    space.enrol()?;
    both_captured(cluster, &space)?;
    let inside = network(cluster, &space, "node1", "holder")?;
    assert_ne!(inside, before[0], "an enrolment is not seen: {inside}");
    goes_on(&space)?;
    space.withdraw()?;
    within(Duration::from_secs(20), "networks as they were", || {
        let now = [network(cluster, &space, "node1", "holder")?, network(cluster, &space, "node2", "web")?];
        for (before, now) in before.iter().zip(&now) {
            let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), now.lines().collect());
            let more: Vec<&&str> = new.iter().filter(|line| !old.contains(line)).collect();
            let less: Vec<&&str> = old.iter().filter(|line| !new.contains(line)).collect();
            ensure!(more.is_empty() && less.is_empty(), "there are {more:?}, there were {less:?}");
        }
        Ok(())
    })?;
    // What was never in the mesh does not notice.
    goes_on(&space)
}
