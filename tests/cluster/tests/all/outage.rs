//! What is lost when parts are away: nothing that was there, and nothing opens up.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::json;

const SYSTEM: &str = "culvert-system";

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

/// Starts a stopped component when it is dropped.
struct Stopped(&'static Cluster, &'static str, &'static str);

impl Stopped {
    fn new(cluster: &'static Cluster, machine: &'static str, component: &'static str) -> Result<Stopped> {
        cluster.tell("halt", machine, Some(component))?;
        Ok(Stopped(cluster, machine, component))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.tell("start", self.1, Some(self.2));
        let _ = self.0.api_answers();
    }
}

/// How the calls in a pod's log went: good and failed ones.
fn counted(log: &str) -> (usize, usize) {
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

#[test]
fn without_an_api_server_traffic_goes_on_and_nothing_opens_up() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "steady", &json!({"culvert.dev/enroll": "true"}))?;
    space.run(&[App::server("web", "node2")])?;
    let service = space.service("web", 80, 8080)?;
    let deny = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "no-stranger", "namespace": "steady"},
        "spec": {"action": "DENY", "rules": [{"from": [{"source": {"notPrincipals": ["cluster.local/ns/steady/sa/caller"]}}]}]},
    });
    cluster.apply(&deny.to_string())?;
    let calls = ["calls", &service, "100"];
    let app = |name| App { name, node: "node1", does: &calls, container: json!({}), spec: json!({}) };
    space.run(&[app("caller"), app("stranger")])?;
    within(Duration::from_secs(20), "the policy", || {
        ensure!(space.log("stranger")?.lines().last().is_some_and(|line| line.starts_with("failed ")));
        ensure!(space.log("caller")?.lines().last().is_some_and(|line| line.starts_with("ok ")));
        Ok(())
    })?;
    let (before, strange) = (counted(&space.log("caller")?), counted(&space.log("stranger")?));
    let stopped = Stopped::new(cluster, "control", "kube-apiserver")?;
    std::thread::sleep(Duration::from_secs(20));
    drop(stopped);
    let after = counted(&space.log("caller")?);
    assert!(after.0 > before.0 + 100, "only {} calls in 20 s", after.0 - before.0);
    assert_eq!(after.1, before.1, "calls failed while the API server was away");
    assert_eq!(counted(&space.log("stranger")?).0, strange.0, "a denied call got through");
    // And it follows again, without a restart of anything.
    cluster.kubectl(&["-n", "steady", "delete", "authorizationpolicy", "no-stranger"]).context("after the outage")?;
    within(Duration::from_secs(20), "the policy's end", || {
        ensure!(space.log("stranger")?.lines().last().is_some_and(|line| line.starts_with("ok ")));
        Ok(())
    })
}

#[test]
fn a_rolling_update_of_the_agents_refuses_no_new_connection() -> Result<()> {
    let cluster = Cluster::get()?;
    let space = Namespace::new(cluster, "rolling", &json!({"culvert.dev/enroll": "true"}))?;
    space.run(&[App::server("web", "node2")])?;
    let service = space.service("web", 80, 8080)?;
    let calls = ["calls", &service, "100"];
    space.run(&[App { name: "caller", node: "node1", does: &calls, container: json!({}), spec: json!({}) }])?;
    within(Duration::from_secs(10), "calls", || {
        ensure!(counted(&space.log("caller")?).0 > 5);
        Ok(())
    })?;
    let before = counted(&space.log("caller")?);
    cluster.kubectl(&["-n", SYSTEM, "rollout", "restart", "daemonset/culvert-agent"])?;
    cluster.ready()?;
    std::thread::sleep(Duration::from_secs(2));
    let log = space.log("caller")?;
    let after = counted(&log);
    let slow = log.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).max().unwrap_or_default();
    println!("{} calls, slowest {slow} ms", after.0 - before.0);
    assert_eq!(after.1, before.1, "new connections were refused: {log}");
    assert!(slow < 3000, "a connection took {slow} ms");
    Ok(())
}
