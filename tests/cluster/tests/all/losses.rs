//! What is lost while the control side is away: nothing that was there, nothing opens up, and it is followed again without
//! a restart of anything.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace, within};
use serde_json::{Value, json};

use crate::outage::{SYSTEM, counted};

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

/// A pod that may call another one and a stranger that may not, both calling all the time.
struct Steady {
    cluster: &'static Cluster,
    space: Namespace,
    agents: Value,
}

/// What agents' pods are and how often their containers were started.
fn agents(cluster: &Cluster) -> Result<Value> {
    let label = "app.kubernetes.io/name=culvert-agent";
    let list = cluster.get_json(&["-n", SYSTEM, "get", "pods", "-l", label, "--sort-by=.spec.nodeName"])?;
    let items = list["items"].as_array().context("a list")?;
    Ok(items
        .iter()
        .map(|pod| json!([pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]]))
        .collect())
}

fn last_is(space: &Namespace, pod: &str, word: &str) -> Result<()> {
    let log = space.log(pod)?;
    ensure!(log.lines().last().is_some_and(|line| line.starts_with(word)), "{pod}: {:?}", log.lines().last());
    Ok(())
}

impl Steady {
    /// Callers and server on these nodes.
    fn new(cluster: &'static Cluster, name: &str, callers: &str, server: &str) -> Result<Steady> {
        let space = Namespace::new(cluster, name, &json!({"culvert.dev/enroll": "true"}))?;
        space.run(&[App::server("web", server)])?;
        let service = space.service("web", 80, 8080)?;
        let caller = format!("cluster.local/ns/{name}/sa/caller");
        let strangers = json!([{"from": [{"source": {"notPrincipals": [caller]}}]}]);
        space.apply("AuthorizationPolicy", "no-stranger", &json!({"action": "DENY", "rules": strangers}))?;
        let calls = ["calls", &service, "100"];
        space.run(&[App::doing("caller", callers, &calls), App::doing("stranger", callers, &calls)])?;
        within(Duration::from_secs(30), "the policy", || {
            last_is(&space, "stranger", "failed ")?;
            last_is(&space, "caller", "ok ")
        })?;
        Ok(Steady { cluster, agents: agents(cluster)?, space })
    }

    /// Calls go on through what happens in `disturbance`, as they went before: at least so many of them.
    fn through(&self, calls: usize, disturbance: impl FnOnce() -> Result<()>) -> Result<()> {
        let count = |pod| Ok::<_, anyhow::Error>(counted(&self.space.log(pod)?));
        let (caller, stranger) = (count("caller")?, count("stranger")?);
        disturbance()?;
        let (after, strange) = (count("caller")?, count("stranger")?);
        ensure!(after.0 >= caller.0 + calls, "only {} calls got through", after.0 - caller.0);
        ensure!(after.1 == caller.1, "{} calls failed", after.1 - caller.1);
        ensure!(strange.0 == stranger.0, "a denied call got through");
        println!("{} calls got through, {} were refused", after.0 - caller.0, strange.1 - stranger.1);
        Ok(())
    }

    /// A policy that is taken away now lets the stranger in, by the same agents.
    fn follows_again(&self) -> Result<()> {
        let delete = ["-n", self.space.name(), "delete", "authorizationpolicy", "no-stranger"];
        within(Duration::from_secs(30), "the API server", || self.cluster.kubectl(&delete).map(drop))?;
        within(Duration::from_secs(45), "the policy's end", || last_is(&self.space, "stranger", "ok "))?;
        let now = agents(self.cluster)?;
        ensure!(now == self.agents, "agents were {}, are {now}", self.agents);
        Ok(())
    }
}

/// Ten calls a second are made; half of them is what a busy machine must get through.
fn without_an_api_server(name: &str, seconds: u32) -> Result<()> {
    let cluster = Cluster::get()?;
    let steady = Steady::new(cluster, name, "node1", "node2")?;
    steady.through(usize::try_from(5 * seconds)?, || {
        let _stopped = Stopped::new(cluster, "control", "kube-apiserver")?;
        std::thread::sleep(Duration::from_secs(seconds.into()));
        Ok(())
    })?;
    steady.follows_again()
}

#[test]
fn without_an_api_server_traffic_goes_on_and_nothing_opens_up() -> Result<()> {
    without_an_api_server("noapi", 20)
}

#[test]
#[ignore = "takes minutes: --long"]
fn two_minutes_without_an_api_server_change_nothing_either() -> Result<()> {
    without_an_api_server("noapi-long", 120)
}

#[test]
fn an_etcd_that_is_killed_and_started_again_changes_nothing() -> Result<()> {
    let cluster = Cluster::get()?;
    let steady = Steady::new(cluster, "noetcd", "node1", "node2")?;
    steady.through(50, || {
        let _stopped = Stopped::new(cluster, "control", "etcd")?;
        std::thread::sleep(Duration::from_secs(10));
        Ok(())
    })?;
    steady.follows_again()
}

#[test]
fn a_control_plane_that_is_killed_is_back_and_followed_again() -> Result<()> {
    let cluster = Cluster::get()?;
    let steady = Steady::new(cluster, "nocontrol", "node1", "node2")?;
    steady.through(50, || {
        // All of them, wherever they are: the scheduler prefers one for each node, and does not insist.
        let killed = ["node1", "node2"].into_iter().filter(|node| cluster.kill(node, "culvert-control").is_ok());
        ensure!(killed.count() > 0, "no control plane is there");
        std::thread::sleep(Duration::from_secs(10));
        cluster.ready()
    })?;
    steady.follows_again()
}

/// Cuts a node off from everything else until it is dropped.
struct Partition(&'static Cluster, &'static str);

/// Nothing comes in, goes out or through; nobody is told.
const CUT: &str = "add table inet cut; \
    add chain inet cut in { type filter hook input priority -300; }; add rule inet cut in iifname eth0 drop; \
    add chain inet cut out { type filter hook output priority -300; }; add rule inet cut out oifname eth0 drop; \
    add chain inet cut through { type filter hook forward priority -300; }; \
    add rule inet cut through iifname eth0 drop; add rule inet cut through oifname eth0 drop";

impl Partition {
    fn new(cluster: &'static Cluster, node: &'static str) -> Result<Partition> {
        cluster.on(node, &["nft", CUT])?;
        Ok(Partition(cluster, node))
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        let _ = self.0.on(self.1, &["nft", "delete table inet cut"]);
    }
}

#[test]
fn a_node_that_is_cut_off_serves_on_opens_nothing_and_follows_again() -> Result<()> {
    let cluster = Cluster::get()?;
    let steady = Steady::new(cluster, "cutoff", "node2", "node2")?;
    let across = steady.space.service("web", 80, 8080)?;
    steady.space.run(&[App::idle("far", "node1")])?;
    let allowed = json!({"action": "ALLOW", "rules": [{}]});
    steady.space.apply("AuthorizationPolicy", "everybody", &allowed)?;
    let reach = || {
        let answer = steady.space.call("far", &across);
        ensure!(answer.is_err(), "{answer:?} across the cut, and against the policy");
        Ok(())
    };
    // The node's pods cannot be asked for their logs meanwhile: what happened is read afterwards.
    steady.through(100, || {
        let cut = Partition::new(cluster, "node2")?;
        std::thread::sleep(Duration::from_secs(10));
        reach()?;
        std::thread::sleep(Duration::from_secs(10));
        drop(cut);
        within(Duration::from_secs(30), "logs", || steady.space.log("caller").map(drop))
    })?;
    steady.follows_again()?;
    within(Duration::from_secs(30), "calls from the other node", || steady.space.call("far", &across).map(drop))
}
