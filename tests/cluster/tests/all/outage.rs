//! Agents and nodes that go away and come back.

use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::json;

pub(crate) const SYSTEM: &str = "culvert-system";

/// Takes the agents away until it is dropped.
struct NoAgents(&'static Cluster);

impl NoAgents {
    fn new(cluster: &'static Cluster) -> Result<NoAgents> {
        let nowhere = r#"{"spec":{"template":{"spec":{"nodeSelector":{"culvert.dev/nowhere":"true"}}}}}"#;
        cluster.kubectl(&["-n", SYSTEM, "patch", "daemonset", "culvert-agent", "--patch", nowhere])?;
        let away = NoAgents(cluster);
        within(Duration::from_secs(60), "the end of the agents", || {
            let pods = cluster.kubectl(&[
                "-n",
                SYSTEM,
                "get",
                "pods",
                "--no-headers",
                "-l",
                "app.kubernetes.io/name=culvert-agent",
            ])?;
            ensure!(pods.trim().is_empty(), "{pods}");
            Ok(())
        })?;
        Ok(away)
    }
}

impl Drop for NoAgents {
    fn drop(&mut self) {
        let everywhere = r#"{"spec":{"template":{"spec":{"nodeSelector":null}}}}"#;
        let _ = self.0.kubectl(&["-n", SYSTEM, "patch", "daemonset", "culvert-agent", "--patch", everywhere]);
        let _ = self.0.ready();
    }
}

/// How the calls in a pod's log went: good and failed ones.
pub(crate) fn counted(log: &str) -> (usize, usize) {
    let good = log.lines().filter(|line| line.starts_with("ok ")).count();
    let failed = log.lines().filter(|line| line.starts_with("failed ")).count();
    (good, failed)
}

#[test]
fn pods_that_are_made_while_no_agent_lives_wait_if_they_are_the_meshs_and_start_if_not() -> Result<()> {
    let cluster = Cluster::get()?;
    let inside = Namespace::new(cluster, "inside", &json!({"culvert.dev/enroll": "true"}))?;
    let outside = Namespace::new(cluster, "beside", &json!({}))?;
    let away = NoAgents::new(cluster)?;
    inside.create(&[App::server("late", "node1")])?;
    outside.run(&[App::server("free", "node1")])?;
    std::thread::sleep(Duration::from_secs(5));
    let waiting = cluster.get_json(&["-n", "inside", "get", "pod", "late"])?;
    assert_eq!(waiting["status"]["phase"], "Pending");
    drop(away);
    within(Duration::from_secs(60), "the waiting pod", || {
        let pod = cluster.get_json(&["-n", "inside", "get", "pod", "late"])?;
        ensure!(pod["status"]["phase"] == "Running", "{}", pod["status"]);
        let captured = cluster.agent("node1")?.captured("inside")?;
        ensure!(captured.iter().any(|name| name == "late"), "runs outside of the mesh: {captured:?}");
        Ok(())
    })
}

/// Calls every 100 ms from node1 to node2, both in the mesh.
fn calling(cluster: &'static Cluster, name: &str) -> Result<Namespace> {
    let space = Namespace::new(cluster, name, &json!({"culvert.dev/enroll": "true"}))?;
    space.run(&[App::server("web", "node2")])?;
    let service = space.service("web", 80, 8080)?;
    let calls = ["calls", &service, "100"];
    space.run(&[App::doing("caller", "node1", &calls)])?;
    serves_again(&space)?;
    Ok(space)
}

/// Until ten calls in a row got through.
fn serves_again(space: &Namespace) -> Result<()> {
    within(Duration::from_secs(30), "calls", || {
        let log = space.log("caller")?;
        let last: Vec<&str> = log.lines().rev().take(10).collect();
        ensure!(last.len() == 10 && last.iter().all(|line| line.starts_with("ok ")), "{last:?}");
        Ok(())
    })
}

#[test]
fn an_agent_that_is_killed_is_back_at_once_and_no_connection_is_refused() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = calling(cluster, "killed")?;
    let before = space.log("caller")?.lines().count();
    cluster.kill("node1", "culvert-agent")?;
    std::thread::sleep(Duration::from_secs(5));
    serves_again(&space)?;
    let (calls, failed, slowest) = since(&space, before)?;
    println!("{calls} calls, slowest {slowest} ms, failed: {failed:?}");
    // One call at a time: the one that was open in that moment, if any was, ends with the agent that carried it.
    assert!(failed.len() <= 1, "{failed:?}");
    Ok(())
}

/// How the calls since a line of the caller's log went: all, those that failed, and the slowest in milliseconds.
fn since(space: &Namespace, before: usize) -> Result<(usize, Vec<String>, u32)> {
    let log = space.log("caller")?;
    let lines: Vec<&str> = log.lines().skip(before).collect();
    let failed = lines.iter().filter(|line| !line.starts_with("ok ")).map(|line| (*line).to_owned()).collect();
    let slowest = lines.iter().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).max();
    Ok((lines.len(), failed, slowest.unwrap_or_default()))
}

/// Calls fail that wait for five seconds; the issue asks for three, which the slowest one shows.
#[test]
fn a_rolling_update_of_the_agents_refuses_no_connection() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = calling(cluster, "rolling")?;
    let service = format!("{}:8080", space.address("web")?);
    let once = json!({"restartPolicy": "Never"});
    space.run(&[App { spec: once, ..App::doing("holder", "node1", &["hold", &service]) }])?;
    for (node, pods) in [("node1", 2), ("node2", 1)] {
        within(Duration::from_secs(15), "pods at the keeper", || {
            let kept = cluster.agent(node)?.metric("culvert_pods_kept")?;
            ensure!(kept >= pods, "{kept} of {pods} on {node}");
            Ok(())
        })?;
    }
    let before = space.log("caller")?.lines().count();
    cluster.kubectl(&["-n", SYSTEM, "rollout", "restart", "daemonset/culvert-agent"])?;
    cluster.ready()?;
    serves_again(&space)?;
    for (node, pod) in [("node1", "caller"), ("node2", "web")] {
        let captured = cluster.agent(node)?.captured("rolling")?;
        assert!(captured.iter().any(|name| name == pod), "{pod} is outside of the mesh: {captured:?}");
    }
    let (calls, failed, slowest) = since(&space, before)?;
    let broken = space.log("holder")?.lines().filter(|line| line.starts_with("broken")).count();
    println!(
        "{calls} calls, {} refused, slowest {slowest} ms; {broken} of 1 long-lived connections broken",
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
    Ok(())
}

#[test]
fn a_node_that_lost_power_comes_back_with_its_pods_in_the_mesh() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = calling(cluster, "power")?;
    cluster.tell("halt", "node2", None)?;
    cluster.tell("start", "node2", None)?;
    let address = within(Duration::from_secs(120), "the pod's next life", || {
        let pod = cluster.get_json(&["-n", "power", "get", "pod", "web"])?;
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["restartCount"] == 1 && status["ready"] == true, "{status}");
        space.address("web")
    })?;
    let captured = cluster.agent("node2")?.captured("power")?;
    assert!(captured.iter().any(|name| name == "web"), "{address} is outside of the mesh: {captured:?}");
    serves_again(&space)?;
    cluster.ready()
}
