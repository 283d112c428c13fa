//! Read-back finds what is missing, and repair mends it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use culvert_netns_tests::peer::{self, Tricks, at};
use culvert_netns_tests::*;

fn quick() -> Tricks {
    Tricks { patience: Some(Duration::from_millis(1200)), ..Tricks::default() }
}

fn pins() -> PathBuf {
    Path::new(culvert_lab::sandbox::BPFFS).join("culvert/v1/node1")
}

/// Breaks one thing, expects it to be found by name, and mended.
fn found_and_mended(agent: &Agent, pod: &Pod, expected: &[&str], harm: impl FnOnce() -> Result<()>) -> Result<()> {
    ensure!(agent.deviations(pod)?.is_empty(), "something is wrong before {expected:?}");
    harm()?;
    let found = agent.deviations(pod)?;
    ensure!(found == expected, "expected {expected:?}, found {found:?}");
    let repair = agent.on_node(|redirect| Ok(redirect.repair("app")?))?;
    ensure!(repair.remaining.is_empty(), "{expected:?} left {:?}", repair.remaining);
    Ok(())
}

#[test]
fn t26_read_back_finds_each_missing_piece_and_repair_mends_it() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let mend = |expected: &[&str], harm: &dyn Fn() -> Result<()>| found_and_mended(&agent, &pod, expected, harm);
        let unpin = |name: &str| Ok(std::fs::remove_file(pins().join("pods/app").join(name))?);
        mend(&["guard_missing"], &|| unpin("guard"))?;
        mend(&["watch_missing"], &|| unpin("watch"))?;
        mend(&["steer_missing"], &|| unpin("steer"))?;
        mend(&["probe_mark_missing"], &|| unpin("probe"))?;
        for family in ["-4", "-6"] {
            for pref in [94, 95, 100, 101] {
                mend(&["rule_missing"], &|| pod.netns().ip(&format!("{family} rule del pref {pref}")).map(drop))?;
            }
            mend(&["route_missing"], &|| pod.netns().ip(&format!("{family} route flush table 100")).map(drop))?;
        }
        mend(&["sysctl_changed"], &|| pod.netns().sysctl("net/ipv4/tcp_fwmark_accept", "0"))?;
        mend(&["sysctl_changed"], &|| pod.netns().sysctl("net/ipv4/tcp_tw_reuse", "2"))?;
        let policy = || -> Result<aya::maps::HashMap<_, u32, culvert_abi::PodConfig>> {
            let map = aya::maps::MapData::from_pin(pins().join("maps/pod_policy"))?;
            Ok(aya::maps::Map::HashMap(map).try_into()?)
        };
        let ifindex = taken.pod.host_ifindex;
        mend(&["policy_missing"], &|| Ok(policy()?.remove(&ifindex)?))?;
        mend(&["guard_closed"], &|| {
            let mut policy = policy()?;
            let mut config = policy.get(&ifindex, 0)?;
            config.flags = 0;
            Ok(policy.insert(ifindex, config, 0)?)
        })?;
        mend(&["policy_changed"], &|| {
            let mut policy = policy()?;
            let mut config = policy.get(&ifindex, 0)?;
            config.addresses[0] = culvert_abi::words("10.9.9.9".parse()?);
            Ok(policy.insert(ifindex, config, 0)?)
        })?;
        // After all of that the pod is captured as before.
        let destination = at("203.0.113.9".parse::<std::net::Ipv4Addr>()?, 80);
        let _client = peer::connect(pod.netns(), destination)?;
        assert_eq!(taken.outbound(false)?.original, destination);
        Ok(())
    });
}

#[test]
fn t26b_lost_listeners_are_found_and_replaced() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let destination = at("203.0.113.9".parse::<std::net::Ipv4Addr>()?, 80);
        // As SOCK_DESTROY by a process of the pod would.
        let port = taken.outbound_listener(false)?.local_addr()?.port();
        pod.netns().run("ss", &["-K", "-t", "-l", &format!("sport = :{port}")])?;
        assert_eq!(agent.deviations(&pod)?, ["listener_missing"]);
        assert!(peer::connect_with(pod.netns(), destination, quick()).is_err());
        let repair = agent.on_node(|redirect| Ok(redirect.repair("app")?))?;
        assert_eq!(repair.remaining, []);
        let listeners = repair.listeners.context("no new listeners")?;
        let _client = peer::connect(pod.netns(), destination)?;
        assert_eq!(agent::accept(&listeners.outbound_v4, agent::PATIENCE)?.original, destination);
        assert!(agent.count(&pod, Counter::SteerNoListener)? > 0);
        Ok(())
    });
}

#[test]
fn t26c_a_guard_that_is_not_first_or_not_ours_is_found() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let next = lab.node(1).pod("next", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let _taken = (agent.enrol(&pod)?, agent.enrol(&next)?);
        // Another program in front: the watch program will do, which passes everything here.
        let watch = PinnedLink::from_pin(pins().join("pods/next/watch"))?;
        let id = FdLink::from(watch).info()?.program_id();
        raw::attach_in_front(lab.node(1).netns(), &pod, id, &pins().join("maps/in-front"))?;
        assert_eq!(agent.deviations(&pod)?, ["guard_not_first"]);
        let repair = agent.on_node(|redirect| Ok(redirect.repair("app")?))?;
        assert_eq!(repair.remaining, []);
        // While it moves to the front again and again it is never without a pin: an agent may die at any moment.
        let guard = pins().join("pods/app/guard");
        let (over, missed) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| -> Result<()> {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    missed.fetch_add(usize::from(!guard.exists()), Ordering::Relaxed);
                }
            });
            let moves = (0..30).try_for_each(|_| -> Result<()> {
                std::fs::remove_file(pins().join("maps/in-front"))?;
                raw::attach_in_front(lab.node(1).netns(), &pod, id, &pins().join("maps/in-front"))?;
                let repair = agent.on_node(|redirect| Ok(redirect.repair("app")?))?;
                ensure!(repair.remaining.is_empty(), "{:?}", repair.remaining);
                Ok(())
            });
            over.store(true, Ordering::Relaxed);
            moves
        })?;
        assert_eq!(missed.into_inner(), 0, "looks at which the guard had no pin");
        // Another program in the guard's place.
        std::fs::remove_file(pins().join("pods/app/guard"))?;
        std::fs::rename(pins().join("maps/in-front"), pins().join("pods/app/guard"))?;
        assert_eq!(agent.deviations(&pod)?, ["guard_program"]);
        let repair = agent.on_node(|redirect| Ok(redirect.repair("app")?))?;
        assert_eq!(repair.remaining, []);
        Ok(())
    });
}
