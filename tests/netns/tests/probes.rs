//! Kubelet's probes: straight to the app, and nobody else's connections.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use culvert_netns_tests::peer::{Echo, at};
use culvert_netns_tests::*;

/// A cgroup of the test's own in the machine's cgroup2 tree, removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Result<Cgroup> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).context("no cgroup2")?;
        let root = PathBuf::from(mount.split(' ').nth(1).context("mount point")?);
        // What a killed run has left.
        for entry in std::fs::read_dir(&root)?.flatten() {
            let old = entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > Duration::from_secs(600));
            if old && entry.file_name().to_string_lossy().starts_with("culvert-netns-") {
                let _ = std::fs::remove_dir(entry.path());
            }
        }
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/net")?);
        let path = root.join(format!("culvert-netns-{inode}-{name}"));
        // No other namespace has this number now: what is there is left from one that is gone.
        let _ = std::fs::remove_dir(&path);
        std::fs::create_dir(&path)?;
        Ok(Cgroup(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A process of a cgroup on the node that opens a connection and wants its bytes back.
fn probe(cgroup: &Cgroup, node: &Node, echo: &Echo, bytes: usize) -> Result<bool> {
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec nsenter --net={} timeout 2 bash -c '\
         exec 3<>/dev/tcp/{}/{} && head -c {bytes} /dev/zero >&3 && test $(head -c {bytes} <&3 | wc -c) = {bytes}'",
        cgroup.0.display(),
        node.netns().path().display(),
        echo.address.ip(),
        echo.address.port()
    );
    Ok(Command::new("bash").args(["-c", &script]).stderr(std::process::Stdio::null()).status()?.success())
}

struct Scene {
    lab: Lab,
    pod: Pod,
    agent: Agent,
    taken: Taken,
    kubelet: Cgroup,
    other: Cgroup,
}

const PROBED: u16 = 8080;

impl Scene {
    fn new() -> Result<Scene> {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let (kubelet, other) = (Cgroup::new("kubelet")?, Cgroup::new("other")?);
        let config = culvert_redirect::Config { kubelet_cgroup: Some(kubelet.0.clone()), ..agent::config(lab.node(1)) };
        let agent = Agent::with(lab.node(1), config)?;
        let taken = agent.enrol_with(&pod, PodSettings { probe_ports: vec![PROBED], ..PodSettings::default() })?;
        Ok(Scene { lab, pod, agent, taken, kubelet, other })
    }

    fn node(&self) -> &Node {
        self.lab.node(1)
    }
}

#[test]
fn t15_only_kubelets_cgroup_reaches_a_probe_port_past_the_agent() {
    in_sandbox!(|| {
        let scene = Scene::new()?;
        for v6 in [false, true] {
            let probed = Echo::start(scene.pod.netns(), at(own(&scene.pod, v6)?, PROBED))?;
            let unprobed = Echo::start(scene.pod.netns(), at(own(&scene.pod, v6)?, PROBED + 1))?;
            let listener = scene.taken.inbound_listener(v6)?;
            // Kubelet, on the probe port.
            assert!(probe(&scene.kubelet, scene.node(), &probed, 5)?);
            probed.peer()?;
            assert!(scene.taken.is_quiet(listener));
            // Kubelet on another port, and another process on the probe port: to the agent.
            assert!(!probe(&scene.kubelet, scene.node(), &unprobed, 5)?);
            assert_eq!(scene.taken.inbound(v6)?.original, unprobed.address);
            assert!(!probe(&scene.other, scene.node(), &probed, 5)?);
            assert_eq!(scene.taken.inbound(v6)?.original, probed.address);
            assert!(probed.is_unvisited() && unprobed.is_unvisited());
        }
        assert_eq!(scene.agent.count(&scene.pod, Counter::SteerProbe)?, 2);
        // Without a cgroup nobody is exempt.
        scene.agent.redirect.set_kubelet_cgroup(None)?;
        let echo = Echo::start(scene.pod.netns(), at(scene.pod.ip4(), PROBED + 2))?;
        let settings = PodSettings { probe_ports: vec![PROBED + 2], ..PodSettings::default() };
        scene.agent.on_node(|redirect| Ok(redirect.update("app", settings)?))?;
        assert!(!probe(&scene.kubelet, scene.node(), &echo, 5)?);
        assert_eq!(scene.taken.inbound(false)?.original, echo.address);
        Ok(())
    });
}

#[test]
fn t15b_a_forwarded_connection_from_a_nodes_address_is_no_probe() {
    in_sandbox!(|| {
        let scene = Scene::new()?;
        let probed = Echo::start(scene.pod.netns(), at(scene.pod.ip4(), PROBED))?;
        // From the other node, even from a process of kubelet's cgroup there: this node only forwards.
        assert!(!probe(&scene.kubelet, scene.lab.node(2), &probed, 5)?);
        assert_eq!(scene.taken.inbound(false)?.client.ip(), scene.lab.node(2).ip4());
        assert!(probed.is_unvisited());
        Ok(())
    });
}

#[test]
fn t21_a_probes_replies_leave_by_the_wire() {
    in_sandbox!(|| {
        let scene = Scene::new()?;
        let addresses = [own(&scene.pod, false)?, own(&scene.pod, true)?];
        let echoes = addresses.map(|ip| Echo::start(scene.pod.netns(), at(ip, PROBED)));
        for filter in ["0", "1"] {
            scene.pod.netns().sysctl("net/ipv4/conf/all/rp_filter", filter)?;
            for echo in &echoes {
                assert!(probe(&scene.kubelet, scene.node(), echo.as_ref().unwrap(), 300_000)?);
            }
        }
        assert!(scene.agent.count(&scene.pod, Counter::GuardProbe)? > 8);
        assert_eq!(scene.agent.count(&scene.pod, Counter::DropUntagged)?, 0);
        // App legs in the node's own name still come back to the agent.
        let echo = Echo::start(scene.pod.netns(), at(scene.pod.ip4(), PROBED + 3))?;
        let (mut leg, _protection) = scene.taken.app_leg(scene.node().ip4().into(), echo.address)?;
        peer::ping(&mut leg, b"as the node")?;
        // Without the mark there is no way back.
        scene.pod.netns().sysctl("net/ipv4/tcp_fwmark_accept", "0")?;
        let last = Echo::start(scene.pod.netns(), at(scene.pod.ip4(), PROBED + 4))?;
        let settings = PodSettings { probe_ports: vec![PROBED + 4], ..PodSettings::default() };
        scene.agent.on_node(|redirect| Ok(redirect.update("app", settings)?))?;
        assert!(!probe(&scene.kubelet, scene.node(), &last, 5)?);
        Ok(())
    });
}

#[test]
fn t15c_the_tuple_of_an_old_probe_exempts_nobody_else() {
    in_sandbox!(|| {
        let scene = Scene::new()?;
        let path = format!("{}/culvert/v1/node1/maps/probe_flows", culvert_lab::sandbox::BPFFS);
        let map = aya::maps::Map::LruHashMap(aya::maps::MapData::from_pin(path)?);
        let mut flows: aya::maps::HashMap<_, culvert_abi::FlowKey, u32> = map.try_into()?;
        for v6 in [false, true] {
            let echo = Echo::start(scene.pod.netns(), at(own(&scene.pod, v6)?, PROBED))?;
            let node: std::net::IpAddr = if v6 { scene.node().ip6().into() } else { scene.node().ip4().into() };
            let source = at(node, 40_000);
            let old = culvert_abi::FlowKey {
                local_ip: culvert_abi::words(echo.address.ip()),
                remote_ip: culvert_abi::words(node),
                local_port: PROBED,
                remote_port: source.port(),
                pod: scene.taken.pod.host_ifindex,
            };
            flows.insert(old, 1, 0)?;
            let tricks = peer::Tricks { source: Some(source), ..peer::Tricks::default() };
            let _stream = peer::connect_with(scene.node().netns(), echo.address, tricks)?;
            assert_eq!(scene.taken.inbound(v6)?.client, source);
            assert!(echo.is_unvisited() && flows.get(&old, 0).is_err());
        }
        Ok(())
    });
}
