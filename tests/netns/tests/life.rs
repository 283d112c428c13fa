//! Enrolment, agents that come and go, read-back and repair, withdrawal.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_lab::Process;
use culvert_netns_tests::peer::{self, Echo, Tricks, at};
use culvert_netns_tests::*;
use culvert_redirect::{DroppedBy, OpenError, OpenFlows, Redirect};

const SHORT: Duration = Duration::from_millis(1200);

fn quick() -> Tricks {
    Tricks { patience: Some(SHORT), ..Tricks::default() }
}

fn pins() -> PathBuf {
    Path::new(culvert_lab::sandbox::BPFFS).join("culvert/v1/node1")
}

/// Starts a relay agent as a process and waits until the pods are enrolled.
fn start_agent(node: &Node, pods: &[&Pod]) -> Result<Process> {
    let mut command = node.netns().command(env!("CARGO_BIN_EXE_relay-agent"));
    command.args([node.name(), culvert_lab::sandbox::BPFFS]);
    for pod in pods {
        command.arg(format!("{}={}", pod.name(), pod.netns().path().display()));
    }
    let mut process = Process::start_command("relay-agent", command)?;
    process.wait_for_log("ready", Duration::from_secs(20))?;
    Ok(process)
}

#[test]
fn t10_a_killed_agent_leaks_nothing_and_its_successor_resumes() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let there = Echo::start(other.netns(), at(other.ip4(), 80))?;
        // Listens on every address: what is delivered locally and not steered would end here.
        let here = Echo::start(pod.netns(), at(std::net::Ipv4Addr::UNSPECIFIED, 80))?;
        let app = at(pod.ip4(), 80);
        let mut agent = start_agent(lab.node(1), &[&pod])?;
        let mut open = peer::connect(pod.netns(), there.address)?;
        peer::ping(&mut open, b"before")?;
        peer::ping(&mut peer::connect(other.netns(), app)?, b"before")?;
        there.peer()?;
        here.peer()?;
        let link = lab.capture_link()?;
        agent.kill9()?;
        // What went through the agent ends, and nothing goes past it.
        assert!(open.write_all(b"after").and_then(|()| open.read_exact(&mut [0; 5])).is_err());
        for tricks in [quick(), Tricks { bind_device: true, ..quick() }] {
            assert!(peer::connect_with(pod.netns(), there.address, tricks).is_err());
        }
        assert!(peer::connect_with(other.netns(), app, quick()).is_err());
        assert!(there.is_unvisited() && here.is_unvisited());
        assert_eq!(link.stop()?.payload_bytes(), 0);
        let started = std::time::Instant::now();
        let _successor = start_agent(lab.node(1), &[&pod])?;
        peer::ping(&mut peer::connect(pod.netns(), there.address)?, b"again")?;
        peer::ping(&mut peer::connect(other.netns(), app)?, b"again")?;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        Ok(())
    });
}

#[test]
fn t10b_a_successor_takes_over_without_a_moment_of_an_open_guard() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let echo = Echo::start(server.netns(), at(server.ip4(), 80))?;
        let first = Agent::start(lab.node(1))?.enrol(&pod)?;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (stopped, netns, address) = (stop.clone(), pod.netns().clone(), echo.address);
        // A pod that tries to get out all the time.
        let attempts = std::thread::spawn(move || {
            let tricks = Tricks { bind_device: true, patience: Some(Duration::from_millis(20)), ..Tricks::default() };
            let mut number = 0;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(peer::connect_with(&netns, address, tricks).is_err());
                number += 1;
            }
            number
        });
        drop(first);
        for _ in 0..5 {
            let agent = Agent::start(lab.node(1))?;
            let taken = agent.enrol(&pod)?;
            let again = agent.enrol(&pod)?;
            peer::ping(&mut again.wire(echo.address)?, b"the agent gets out")?;
            echo.peer()?;
            drop((taken, again));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(attempts.join().unwrap() > 5);
        assert!(echo.is_unvisited());
        Ok(())
    });
}

#[test]
fn t10c_a_successor_does_not_believe_addresses_that_the_pod_has_given_itself() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let before = Agent::start(lab.node(1))?.enrol(&pod)?.pod.addresses;
        pod.netns().ip("addr add 10.244.1.99/32 dev eth0")?;
        pod.netns().ip("link set dev eth0 address 02:00:00:00:00:99")?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        assert_eq!(taken.pod.addresses, before);
        assert!(!taken.pod.netns.is_own("10.244.1.99".parse()?));
        let mut found = agent.deviations(&pod)?;
        found.retain(|name| !name.starts_with("route"));
        assert_eq!(found, ["addresses_changed", "mac_changed"]);
        Ok(())
    });
}

#[test]
fn t14_the_pins_enforce_when_no_agent_lives() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let echo = Echo::start(server.netns(), at(server.ip4(), 80))?;
        let mut agent = start_agent(lab.node(1), &[&pod])?;
        agent.terminate(Duration::from_secs(5))?;
        for pin in ["guard", "watch", "steer", "probe", "listeners"] {
            assert!(pins().join("pods/app").join(pin).exists(), "{pin}");
        }
        let mode = |path: &Path| Ok::<_, Error>(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path)?));
        assert_eq!(mode(&pins())? & 0o7777, 0o700);
        for tricks in [quick(), Tricks { bind_device: true, ..quick() }] {
            assert!(peer::connect_with(pod.netns(), echo.address, tricks).is_err());
        }
        // Enforcement is the pins: without the guard's the same attempt gets out.
        std::fs::remove_file(pins().join("pods/app/guard"))?;
        peer::connect_with(pod.netns(), echo.address, Tricks { bind_device: true, ..quick() })?;
        Ok(())
    });
}

#[test]
fn t16_open_connections_end_at_once_when_a_strict_pod_is_enrolled() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let mut pairs = peer::in_each_direction(&pod, &other)?;
        pairs.iter_mut().try_for_each(peer::talk)?;
        let agent = Agent::start(lab.node(1))?;
        let _taken = agent.enrol_with(&pod, PodSettings { open_flows: OpenFlows::Cut, ..PodSettings::default() })?;
        // Both ends are told.
        for (mut client, mut served) in pairs {
            for end in [&mut client, &mut served] {
                end.set_read_timeout(Some(Duration::from_secs(1)))?;
                let error = end.read(&mut [0; 1]).unwrap_err();
                let kind = error.kind();
                assert!(
                    matches!(kind, std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::ConnectionAborted),
                    "{error}"
                );
            }
        }
        assert_eq!(agent.count(&pod, Counter::GuardPreEnrolment)?, 0);
        Ok(())
    });
}

#[test]
fn t16b_open_connections_of_a_permissive_pod_go_on_within_bounds() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let mut pairs = peer::in_each_direction(&pod, &other)?;
        pairs.extend(peer::in_each_direction(&pod, &other)?);
        let agent = Agent::start(lab.node(1))?;
        let open_flows = OpenFlows::Keep { at_most: 5, at_longest: Duration::from_secs(3) };
        let taken = agent.enrol_with(&pod, PodSettings { open_flows, ..PodSettings::default() })?;
        let started = std::time::Instant::now();
        let mut kept: Vec<_> =
            pairs.into_iter().filter_map(|mut pair| peer::talk(&mut pair).is_ok().then_some(pair)).collect();
        assert_eq!(kept.len(), 5);
        assert!(agent.count(&pod, Counter::GuardPreEnrolment)? >= 5);
        // New connections are captured, whatever goes on beside them.
        let destination = at(own(&other, false)?, 4000);
        let _new = peer::connect(pod.netns(), destination)?;
        assert_eq!(taken.outbound(false)?.original, destination);
        // When their time is up nothing more leaves the pod, with or without a sweep.
        std::thread::sleep(Duration::from_millis(3200).saturating_sub(started.elapsed()));
        let before = agent.count(&pod, Counter::DropUntagged)?;
        for (client, served) in &mut kept {
            for end in [client, served] {
                end.set_read_timeout(Some(Duration::from_millis(100)))?;
            }
        }
        assert!(kept.iter_mut().all(|pair| peer::talk(pair).is_err()));
        assert!(agent.count(&pod, Counter::DropUntagged)? > before);
        assert!(pod.netns().ip("rule show")?.contains("93:"));
        agent.on_node(|redirect| Ok(redirect.sweep()?))?;
        assert!(!pod.netns().ip("rule show")?.contains("93:") && !pod.netns().ip("-6 rule show")?.contains("93:"));
        Ok(())
    });
}

#[test]
fn t27_a_host_network_pod_and_doubtful_namespaces_are_refused() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let elsewhere = lab.node(2).pod("far", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let refusal = |uid: &str, fd| -> Result<&'static str> {
            let settings = PodSettings::default();
            Ok(agent.try_enrol(uid, fd, settings)?.map(drop).map_err(|error| error.reason()).unwrap_err())
        };
        let node = || -> Result<_> { Ok(lab.node(1).netns().open()?.into()) };
        assert_eq!(refusal("host", node()?)?, "host_network");
        assert_eq!(refusal("file", std::fs::File::open("/proc/self/status")?.into())?, "not_a_netns");
        assert_eq!(refusal("mount", std::fs::File::open("/proc/self/ns/mnt")?.into())?, "not_a_netns");
        assert_eq!(refusal("second", agent::netns_fd(&pod)?)?, "netns_taken");
        assert_eq!(refusal("../../up", agent::netns_fd(&pod)?)?, "pod_uid_invalid");
        // A pod of another node: its veth ends elsewhere, even if this node has such an ifindex.
        assert_eq!(refusal("far", agent::netns_fd(&elsewhere)?)?, "no_usable_interface");
        let third = lab.node(1).pod("third", &PodOptions::default())?;
        assert_eq!(refusal("app", agent::netns_fd(&third)?)?, "uid_taken");
        // A foreign rule where ours go: refused, and closed meanwhile.
        third.netns().ip("rule add pref 70 lookup main")?;
        assert_eq!(refusal("third", agent::netns_fd(&third)?)?, "routing_taken");
        let echo = Echo::start(elsewhere.netns(), at(elsewhere.ip4(), 80))?;
        assert!(peer::connect_with(third.netns(), echo.address, quick()).is_err());
        let redirect = agent.redirect.clone();
        let event = taken
            .block_on(async move { Ok(tokio::time::timeout(agent::PATIENCE, redirect.events()?.next()).await??) })?;
        assert_eq!((event.reason, event.source.ip()), (Counter::DropUnclassified, third.ip4().into()));
        third.netns().ip("rule del pref 70")?;
        agent.enrol(&third)?;
        Ok(())
    });
}

#[test]
fn t27b_a_pod_in_which_capture_does_not_work_is_refused() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        // Rules, routes and programs will all be there, but nothing passes over `lo`.
        let _link = raw::drop_on_loopback(pod.netns())?;
        let agent = Agent::start(lab.node(1))?;
        let refused = agent.try_enrol("app", agent::netns_fd(&pod)?, PodSettings::default())?;
        assert_eq!(refused.map(drop).map_err(|error| error.reason()), Err("self_test_failed"));
        Ok(())
    });
}

#[test]
fn pins_that_others_could_have_made_are_refused() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let reason = |config| -> Result<&'static str> {
            lab.node(1).netns().enter(move || {
                Ok(Redirect::open(config).map(drop).map_err(|error: OpenError| error.reason()).unwrap_err())
            })
        };
        let config = || agent::config(lab.node(1));
        assert_eq!(reason(culvert_redirect::Config { node: "../x".to_owned(), ..config() })?, "node_name_invalid");
        assert_eq!(reason(culvert_redirect::Config { bpffs: "/run".into(), ..config() })?, "bpffs");
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o755)
            .create(Path::new(culvert_lab::sandbox::BPFFS).join("culvert"))?;
        assert_eq!(reason(config())?, "pin_folder_unsafe");
        std::fs::remove_dir(Path::new(culvert_lab::sandbox::BPFFS).join("culvert"))?;
        // A map of another layout under a name of ours.
        Agent::start(lab.node(1))?;
        std::fs::remove_file(pins().join("maps/agent_tag"))?;
        std::fs::rename(pins().join("maps/app_legs"), pins().join("maps/agent_tag"))?;
        assert_eq!(reason(config())?, "pinned_map_mismatch");
        Ok(())
    });
}

#[test]
fn a_withdrawn_pod_is_as_it_was_before() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let echo = Echo::start(server.netns(), at(server.ip4(), 80))?;
        let picture = |netns: &culvert_lab::Netns| -> Result<String> {
            let mut text = String::new();
            for words in ["rule show", "-6 rule show", "route show table all", "-6 route show table all", "address"] {
                text += &netns.ip(words)?;
            }
            text += &netns.read_sysctl("net/ipv4/tcp_fwmark_accept")?;
            text += &netns.read_sysctl("net/ipv4/tcp_tw_reuse")?;
            Ok(text)
        };
        let (pod_before, node_before) = (picture(pod.netns())?, picture(lab.node(1).netns())?);
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        assert_ne!(picture(pod.netns())?, pod_before);
        assert_eq!(picture(lab.node(1).netns())?, node_before);
        // Also by an agent that has not enrolled it itself.
        drop((taken, agent));
        let agent = Agent::start(lab.node(1))?;
        assert_eq!(agent.redirect.pinned()?.len(), 1);
        agent.on_node(|redirect| Ok(redirect.withdraw("app")?))?;
        assert_eq!(picture(pod.netns())?, pod_before);
        assert!(agent.redirect.pinned()?.is_empty() && !pins().join("pods/app").exists());
        peer::ping(&mut peer::connect(pod.netns(), echo.address)?, b"direct again")?;
        let again = agent.on_node(|redirect| Ok(redirect.withdraw("app").map_err(|error| error.reason())))?;
        assert_eq!(again, Err("not_enrolled"));
        Ok(())
    });
}

#[test]
fn pins_of_a_deleted_pod_are_swept_away_and_its_slot_is_free() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let (pod, stays) =
            (lab.node(1).pod("app", &PodOptions::default())?, lab.node(1).pod("stays", &PodOptions::default())?);
        let agent = Agent::start(lab.node(1))?;
        let (taken, _stays) = (agent.enrol(&pod)?, agent.enrol(&stays)?);
        assert_eq!(agent.on_node(|redirect| Ok(redirect.sweep()?))?, Vec::<String>::new());
        drop(taken);
        pod.delete()?;
        assert_eq!(agent.on_node(|redirect| Ok(redirect.sweep()?))?, ["app"]);
        let left: Vec<String> = agent.redirect.pinned()?.into_iter().map(|pod| pod.uid).collect();
        assert_eq!(left, ["stays"]);
        Ok(())
    });
}

#[test]
fn each_drop_is_reported_with_pod_reason_and_tuple() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let destination = at(server.ip4(), 80);
        assert!(peer::connect_with(pod.netns(), destination, Tricks { bind_device: true, ..quick() }).is_err());
        let redirect = agent.redirect.clone();
        let event = taken.block_on(async move {
            let mut events = redirect.events()?;
            assert_eq!(redirect.events().map(drop).map_err(|error| error.reason()), Err("events_taken"));
            Ok(tokio::time::timeout(agent::PATIENCE, events.next()).await??)
        })?;
        assert_eq!((event.by, event.reason), (DroppedBy::Guard, Counter::DropUntagged));
        assert_eq!((event.uid.as_deref(), event.destination), (Some("app"), destination));
        assert_eq!((event.source.ip(), event.protocol, event.tcp_flags), (pod.ip4().into(), 6, 2));
        Ok(())
    });
}

#[test]
fn the_documented_capabilities_are_enough() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let echo = Echo::start(server.netns(), at(server.ip4(), 80))?;
        let here = Echo::start(pod.netns(), at(pod.ip4(), 80))?;
        let (config, fd) = (agent::config(lab.node(1)), agent::netns_fd(&pod)?);
        let (there, near, client) = (echo.address, here.address, server.ip4());
        lab.node(1).netns().enter(move || {
            use caps::Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
            let few = [CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN].into_iter().collect();
            caps::set(None, caps::CapSet::Effective, &few)?;
            caps::set(None, caps::CapSet::Permitted, &few)?;
            let redirect = Redirect::open(config)?;
            let taken = redirect.enrol("app", fd, PodSettings::default())?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                taken.netns.connect_wire(there).await?;
                taken.netns.connect_app(client.into(), near).await?;
                Ok::<_, Error>(())
            })?;
            ensure!(redirect.verify("app")?.is_empty(), "deviations");
            redirect.sweep()?;
            redirect.withdraw("app")?;
            Ok(())
        })?;
        echo.peer()?;
        assert_eq!(here.peer()?.ip(), server.ip4());
        Ok(())
    });
}

#[test]
fn dialling_refuses_addresses_that_cannot_be_meant() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let (netns, app) = (taken.pod.netns.clone(), at(pod.ip4(), 80));
        assert!(netns.is_own(pod.ip4().into()) && !netns.is_own("10.244.1.77".parse()?));
        taken.block_on(async move {
            let clients = ["127.0.0.1", "169.254.1.9", "224.0.0.1", "0.0.0.0", "255.255.255.255", "fd00::9"];
            for client in clients.iter().map(|ip| ip.parse()).chain([Ok(app.ip())]) {
                let refused = netns.connect_app(client?, app).await.unwrap_err();
                ensure!(refused.reason() == "address_refused", "{refused}");
            }
            let elsewhere = at("10.244.2.2".parse::<std::net::Ipv4Addr>()?, 80);
            for refused in [
                netns.connect_app("192.0.2.9".parse()?, elsewhere).await.map(drop),
                netns.connect_wire(app).await.map(drop),
                netns.connect_wire(at(std::net::Ipv4Addr::LOCALHOST, 80)).await.map(drop),
                netns.connect_plain(elsewhere).await.map(drop),
            ] {
                ensure!(refused.is_err_and(|error| error.reason() == "address_refused"), "not refused");
            }
            // Nobody listens: the app refuses, and says so.
            let refused = netns.connect_app("192.0.2.9".parse()?, app).await.unwrap_err();
            ensure!(refused.reason() == "connection_refused", "{refused}");
            Ok(())
        })
    });
}

#[test]
fn this_machine_has_what_culvert_needs() {
    in_sandbox!(|| {
        for finding in culvert_redirect::check_machine(Path::new(culvert_lab::sandbox::BPFFS)) {
            ensure!(finding.ok && finding.remedy.is_none(), "{finding:?}");
        }
        let elsewhere = culvert_redirect::check_machine(Path::new("/run"));
        let wrong: Vec<_> = elsewhere.iter().filter(|finding| !finding.ok).collect();
        ensure!(wrong.len() == 1 && wrong[0].name == "bpffs" && wrong[0].remedy.is_some(), "{wrong:?}");
        Ok(())
    });
}
