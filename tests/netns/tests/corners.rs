//! What is left alone, what has a limit, and how a sender is known when little is sent.

use std::net::{Ipv4Addr, UdpSocket};

use culvert_netns_tests::frame::{Segment, flag};
use culvert_netns_tests::peer::{self, Echo, at};
use culvert_netns_tests::raw::{self, PacketSocket};
use culvert_netns_tests::*;

#[test]
fn udp_to_an_enrolled_pod_is_none_of_the_agents_business() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let _taken = agent.enrol(&pod)?;
        for v6 in [false, true] {
            let address = at(own(&pod, v6)?, 5353);
            let server = pod.netns().enter(move || Ok(UdpSocket::bind(address)?))?;
            server.set_read_timeout(Some(agent::PATIENCE))?;
            let from = at(own(&other, v6)?, 4000);
            let client = other.netns().enter(move || Ok(UdpSocket::bind(from)?))?;
            client.send_to(b"question", address)?;
            let mut read = [0; 8];
            assert_eq!(server.recv_from(&mut read)?, (8, from));
        }
        Ok(())
    });
}

#[test]
fn all_of_loopback_is_the_pods_own() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let _echo = Echo::start(pod.netns(), at(Ipv4Addr::UNSPECIFIED, 8080))?;
        let other = at(Ipv4Addr::new(127, 0, 0, 2), 8080);
        let mut stream = peer::connect(pod.netns(), other)?;
        // Neither end of it has the other's address.
        assert_ne!(stream.local_addr()?.ip(), other.ip());
        peer::ping(&mut stream, b"to myself")?;
        assert!(taken.is_quiet(taken.outbound_listener(false)?));
        Ok(())
    });
}

#[test]
fn without_a_kubelet_a_probe_port_is_a_port_like_any_other() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol_with(&pod, PodSettings { probe_ports: vec![8080], ..PodSettings::default() })?;
        for v6 in [false, true] {
            let echo = Echo::start(pod.netns(), at(own(&pod, v6)?, 8080))?;
            // A forwarded packet has no cgroup, as the node has no kubelet: these are not the same.
            let _stream = peer::connect(other.netns(), echo.address)?;
            assert_eq!(taken.inbound(v6)?.original, echo.address);
            assert!(echo.is_unvisited());
        }
        Ok(())
    });
}

#[test]
fn a_syn_ack_is_known_by_its_listener_and_takes_nothing_of_the_bare_ones_share() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let counts =
            || Ok::<_, Error>((agent.count(&pod, Counter::GuardBare)?, agent.count(&pod, Counter::GuardTagged)?));
        let (bare, tagged) = counts()?;
        let _stream = peer::connect(other.netns(), at(pod.ip4(), 80))?;
        let _accepted = taken.inbound(false)?;
        assert_eq!(counts()?, (bare, tagged + 1));
        Ok(())
    });
}

#[test]
fn bare_segments_have_a_limit() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let _taken = agent.enrol(&pod)?;
        let socket = PacketSocket::open(pod.netns(), "eth0")?;
        socket.bypass_qdisc()?;
        let far = at(Ipv4Addr::new(203, 0, 113, 9), 80);
        let reset = raw::ip_frame(&pod, Segment::new(at(pod.ip4(), 1000), far, flag::RST).packet())?;
        // A flood: more than any real load closes in a second.
        eventually("the limit is reached", 3 * agent::PATIENCE, || {
            for _ in 0..20_000 {
                socket.send(&reset)?;
            }
            Ok(agent.count(&pod, Counter::DropRate)? > 0)
        })?;
        assert!(agent.count(&pod, Counter::GuardBare)? >= 65_536);
        Ok(())
    });
}

#[test]
fn an_app_leg_leaves_no_way_past_the_agent_behind() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let legs = || -> Result<usize> {
            let path = format!("{}/culvert/v1/node1/maps/app_legs", culvert_lab::sandbox::BPFFS);
            let map = aya::maps::Map::HashMap(aya::maps::MapData::from_pin(path)?);
            let map: aya::maps::HashMap<_, culvert_abi::FlowKey, u32> = map.try_into()?;
            Ok(map.keys().count())
        };
        let echo = Echo::start(pod.netns(), at(pod.ip4(), 8080))?;
        let (mut leg, protection) = taken.app_leg(Ipv4Addr::new(203, 0, 113, 9).into(), echo.address)?;
        peer::ping(&mut leg, b"connected")?;
        assert_eq!(legs()?, 1);
        drop((leg, protection));
        assert_eq!(legs()?, 0);
        // Nor does one that fails.
        let nobody = at(pod.ip4(), 8081);
        assert!(taken.app_leg(Ipv4Addr::new(203, 0, 113, 9).into(), nobody).is_err());
        assert_eq!(legs()?, 0);
        Ok(())
    });
}

#[test]
fn the_tuple_of_a_probe_answers_and_opens_nothing() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let (own, kubelet) = (at(pod.ip4(), 8080), at(lab.node(1).ip4(), 40_000));
        let path = format!("{}/culvert/v1/node1/maps/probe_flows", culvert_lab::sandbox::BPFFS);
        let map = aya::maps::Map::LruHashMap(aya::maps::MapData::from_pin(path)?);
        let mut probes: aya::maps::HashMap<_, culvert_abi::FlowKey, u32> = map.try_into()?;
        let flow = culvert_abi::FlowKey {
            local_ip: culvert_abi::words(own.ip()),
            remote_ip: culvert_abi::words(kubelet.ip()),
            local_port: own.port(),
            remote_port: kubelet.port(),
            pod: taken.pod.host_ifindex,
        };
        probes.insert(flow, 1, 0)?;
        let socket = PacketSocket::open(pod.netns(), "eth0")?;
        let sends = |segment: Segment, counter: Counter| -> Result<bool> {
            let before = agent.count(&pod, counter)?;
            socket.send(&raw::ip_frame(&pod, segment.packet())?)?;
            Ok(agent.count(&pod, counter)? == before + 1)
        };
        let answer = Segment::new(own, kubelet, flag::PSH | flag::ACK).with_data(b"healthy");
        assert!(sends(answer, Counter::GuardProbe)?);
        assert!(sends(Segment::new(own, kubelet, flag::SYN), Counter::DropUntagged)?);
        Ok(())
    });
}

#[test]
fn a_dead_agents_listeners_are_missed_and_nothing_goes_past_them() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let echo = Echo::start(pod.netns(), at(pod.ip4(), 8080))?;
        // The sockets go, programs and maps stay.
        drop(taken);
        let quick = peer::Tricks { patience: Some(agent::PATIENCE / 5), ..peer::Tricks::default() };
        let missed = agent.count(&pod, Counter::SteerNoListener)?;
        assert!(peer::connect_with(other.netns(), echo.address, quick).is_err());
        assert!(agent.count(&pod, Counter::SteerNoListener)? > missed);
        let missed = agent.count(&pod, Counter::SteerNoListener)?;
        assert!(peer::connect_with(pod.netns(), at(other.ip4(), 80), quick).is_err());
        assert!(agent.count(&pod, Counter::SteerNoListener)? > missed);
        assert!(echo.is_unvisited());
        Ok(())
    });
}
