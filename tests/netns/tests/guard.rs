//! What may leave an enrolled pod.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use culvert_netns_tests::frame::{self, Segment, flag};
use culvert_netns_tests::peer::{self, Echo, Tricks, at};
use culvert_netns_tests::raw::{self, PacketSocket};
use culvert_netns_tests::*;
use culvert_redirect::{AGENT_MARK, HostHooks};

/// An attempt that is not going to succeed takes no longer than this.
const SHORT: Duration = Duration::from_millis(1200);

fn escape() -> Tricks {
    Tricks { bind_device: true, patience: Some(SHORT), ..Tricks::default() }
}

/// The escape fails, the guard counted it, and the server has not been visited.
fn assert_no_escape(agent: &Agent, pod: &Pod, echo: &Echo, tricks: Tricks) -> Result<()> {
    let before = agent.count(pod, Counter::DropUntagged)?;
    assert!(peer::connect_with(pod.netns(), echo.address, tricks).is_err());
    assert!(echo.is_unvisited());
    assert!(agent.count(pod, Counter::DropUntagged)? > before);
    Ok(())
}

fn echoes(server: &Pod, port: u16) -> Result<Vec<Echo>> {
    server.ips().into_iter().map(|ip| Echo::start(server.netns(), at(ip, port))).collect()
}

#[test]
fn t02_what_the_agent_sends_passes_to_the_last_segment() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let relay = agent.enrol(&pod)?.relay()?;
        for echo in echoes(&server, 80)? {
            let mut stream = peer::connect(pod.netns(), echo.address)?;
            peer::ping(&mut stream, &[1; 100_000])?;
            let wire = echo.peer()?;
            peer::finish(stream)?;
            // The agent closed first: its wire leg is in TIME_WAIT, which has no socket for a tag. It
            // must be able to answer what comes late.
            eventually("the wire leg is in TIME_WAIT", agent::PATIENCE, || {
                let shown = pod.netns().run("ss", &["-Htan", "state", "time-wait"])?;
                Ok(shown.contains(&wire.to_string()))
            })?;
            let far = PacketSocket::open(server.netns(), "eth0")?;
            let bare = agent.count(&pod, Counter::GuardBare)?;
            let late = Segment { sequence: 77, ..Segment::new(echo.address, wire, flag::ACK) };
            far.send(&raw::ip_frame(&server, late.packet())?)?;
            let answer = far.next_tcp(agent::PATIENCE, |seen| seen.source == wire && seen.flags == flag::ACK)?;
            assert!(answer.is_some());
            assert!(agent.count(&pod, Counter::GuardBare)? > bare);
        }
        assert_eq!(agent.count(&pod, Counter::DropUntagged)?, 0);
        relay.stop()
    });
}

#[test]
fn t07_the_guard_drops_the_escape_and_passes_the_agent() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        for echo in echoes(&server, 80)? {
            peer::ping(&mut taken.wire(echo.address)?, b"from the agent")?;
            assert!(pod.ips().contains(&echo.peer()?.ip()));
            assert_no_escape(&agent, &pod, &echo, escape())?;
        }
        Ok(())
    });
}

#[test]
fn t07b_the_guard_does_the_same_as_a_clsact_filter() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let config = culvert_redirect::Config { hooks: HostHooks::Clsact, ..agent::config(lab.node(1)) };
        let agent = Agent::with(lab.node(1), config)?;
        let taken = agent.enrol(&pod)?;
        let filters = |way| lab.node(1).netns().run("tc", &["filter", "show", "dev", pod.host_veth(), way]);
        assert!(filters("ingress")?.contains("culvert") && filters("egress")?.contains("culvert"));
        assert_eq!(agent.deviations(&pod)?, Vec::<&str>::new());
        for echo in echoes(&server, 80)? {
            peer::ping(&mut taken.wire(echo.address)?, b"from the agent")?;
            echo.peer()?;
            assert_no_escape(&agent, &pod, &echo, escape())?;
        }
        lab.node(1).netns().run("tc", &["filter", "del", "dev", pod.host_veth(), "ingress"])?;
        assert_eq!(agent.deviations(&pod)?, ["guard_missing"]);
        let repaired = agent.on_node(|redirect| Ok(redirect.repair("app")?))?;
        assert_eq!(repaired.remaining, []);
        assert_eq!(agent.on_node(|redirect| Ok(redirect.pinned()?))?[0].host_ifindex, pod.host_ifindex()?);
        agent.on_node(|redirect| Ok(redirect.withdraw("app")?))?;
        assert!(!filters("ingress")?.contains("culvert") && !filters("egress")?.contains("culvert"));
        Ok(())
    });
}

#[test]
fn t08_frames_past_the_stack_are_dropped_with_and_without_the_qdisc() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let far = PacketSocket::open(server.netns(), "eth0")?;
        let plain = PacketSocket::open(pod.netns(), "eth0")?;
        let bypassing = PacketSocket::open(pod.netns(), "eth0")?;
        bypassing.bypass_qdisc()?;
        let send = |port: u16, socket: &PacketSocket, v6: bool| -> Result<bool> {
            let (source, destination) = (at(own(&pod, v6)?, port), at(own(&server, v6)?, 80));
            for segment in [
                Segment::new(source, destination, flag::SYN),
                Segment::new(source, destination, flag::PSH | flag::ACK).with_data(b"out"),
            ] {
                socket.send(&raw::ip_frame(&pod, segment.packet())?)?;
            }
            Ok(far.next_tcp(SHORT / 3, |seen| seen.source == source)?.is_some())
        };
        for v6 in [false, true] {
            assert!(send(1000, &plain, v6)? && send(1001, &bypassing, v6)?);
        }
        let _taken = agent.enrol(&pod)?;
        for v6 in [false, true] {
            for (port, socket) in [(1002, &plain), (1003, &bypassing)] {
                let before = agent.count(&pod, Counter::DropUntagged)?;
                assert!(!send(port, socket, v6)?);
                assert_eq!(agent.count(&pod, Counter::DropUntagged)?, before + 2);
            }
        }
        Ok(())
    });
}

#[test]
fn t09_a_pod_that_tampers_with_its_network_gets_nothing_out() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let echoes = echoes(&server, 80)?;
        let quick = Tricks { patience: Some(SHORT), ..Tricks::default() };
        // The qdisc and filter commands do not touch links.
        for words in [["qdisc", "del", "dev", "eth0", "clsact"], ["filter", "del", "dev", "eth0", "ingress"]] {
            let _ = pod.netns().run("tc", &words);
        }
        assert_eq!(agent.deviations(&pod)?, Vec::<&str>::new());
        // A rule in front of ours.
        for family in ["-4", "-6"] {
            pod.netns().ip(&format!("{family} rule add pref 50 lookup main"))?;
        }
        for echo in &echoes {
            assert_no_escape(&agent, &pod, echo, quick)?;
        }
        assert_eq!(agent.deviations(&pod)?, ["rule_foreign", "rule_foreign"]);
        for family in ["-4", "-6"] {
            pod.netns().ip(&format!("{family} rule del pref 50"))?;
            for pref in [94, 95, 100, 101] {
                pod.netns().ip(&format!("{family} rule del pref {pref}"))?;
            }
        }
        for echo in &echoes {
            assert_no_escape(&agent, &pod, echo, quick)?;
        }
        assert_eq!(agent.deviations(&pod)?, ["rule_missing"; 8]);
        assert_eq!(agent.on_node(|redirect| Ok(redirect.repair("app")?))?.remaining, []);
        let destination = echoes[0].address;
        let _client = peer::connect(pod.netns(), destination)?;
        assert_eq!(taken.outbound(false)?.original, destination);
        Ok(())
    });
}

#[test]
fn t09b_a_second_interface_and_a_second_default_route_get_nothing_out() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let _taken = agent.enrol(&pod)?;
        let echo = Echo::start(server.netns(), at(server.ip4(), 80))?;
        // A child of eth0 with the same IP address: another MAC address (macvlan) or the same (ipvlan).
        let child = ["macvlan mode bridge", "ipvlan mode l2"]
            .into_iter()
            .find(|kind| pod.netns().ip(&format!("link add link eth0 name child type {kind}")).is_ok())
            .context("the kernel has neither macvlan nor ipvlan")?;
        pod.netns().ip_batch(&format!(
            "link set child up\naddr add 10.77.0.2/24 dev child\n\
             route add 172.30.0.0/16 via 10.77.0.1 dev child\nroute add 10.244.2.0/24 via 10.77.0.1 dev child\n\
             neigh replace 10.77.0.1 lladdr {} dev child\nrule add pref 60 lookup main\n",
            culvert_lab::topology::GATEWAY_MAC
        ))?;
        let dropped = |agent: &Agent| -> Result<u64> {
            [Counter::DropMac, Counter::DropSource, Counter::DropUntagged]
                .into_iter()
                .map(|counter| agent.count(&pod, counter))
                .sum()
        };
        let before = dropped(&agent)?;
        let quick = Tricks { patience: Some(SHORT), ..Tricks::default() };
        assert!(peer::connect_with(pod.netns(), echo.address, quick).is_err(), "by {child}");
        assert!(echo.is_unvisited() && dropped(&agent)? > before);
        assert!(agent.deviations(&pod)?.contains(&"second_interface"));
        // A second default route on the same interface, in front of capture.
        pod.netns().ip("link del child")?;
        pod.netns().ip("route add default via 169.254.1.1 dev eth0 metric 1")?;
        assert_no_escape(&agent, &pod, &echo, quick)
    });
}

#[test]
fn t09c_what_a_pod_makes_of_the_agents_packets_does_not_leave() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        for (meant, meant_not) in echoes(&server, 80)?.iter().zip(&echoes(&server, 81)?) {
            let mut stream = taken.wire(meant.address)?;
            peer::ping(&mut stream, b"as it is")?;
            meant.peer()?;
            // The agent's own connection, to another port or with another source port.
            for (change, word) in
                [("tcp dport 80 tcp dport set 81", "dport"), ("tcp dport 80 tcp sport set 7", "sport")]
            {
                let chain = format!("chain out {{\ntype route hook output priority 0;\n{change}\n}}");
                let rules = format!("table inet away {{\n{chain}\n}}");
                pod.netns().run("nft", &[&rules])?;
                let before = agent.count(&pod, Counter::DropUntagged)?;
                assert!(taken.wire_within(meant.address, SHORT).is_err(), "{word}");
                assert!(meant.is_unvisited() && meant_not.is_unvisited(), "{word}");
                assert!(agent.count(&pod, Counter::DropUntagged)? > before, "{word}");
                pod.netns().run("nft", &["delete table inet away"])?;
            }
        }
        Ok(())
    });
}

#[test]
fn t13_syn_cookies_work_with_the_guard_enforcing() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        // Every SYN-ACK is a cookie, and has no socket at all.
        pod.netns().sysctl("net/ipv4/tcp_syncookies", "2")?;
        for v6 in [false, true] {
            let bare = agent.count(&pod, Counter::GuardBare)?;
            let destination = at(own(&pod, v6)?, 8080);
            let mut client = peer::connect(other.netns(), destination)?;
            let far = taken.inbound(v6)?;
            assert_eq!(far.original, destination);
            assert!(agent.count(&pod, Counter::GuardBare)? > bare);
            std::io::Write::write_all(&mut &far.stream, b"after a cookie")?;
            std::io::Read::read_exact(&mut client, &mut [0; 14])?;
            let out = at(own(&other, v6)?, 9);
            let _app = peer::connect(pod.netns(), out)?;
            assert_eq!(taken.outbound(v6)?.original, out);
        }
        assert_eq!(agent.count(&pod, Counter::DropUntagged)?, 0);
        Ok(())
    });
}

#[test]
fn t17_the_guard_knows_the_sender_with_gro_and_xdp_and_reports_what_blinds_it() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let echo = Echo::start(server.netns(), at(server.ip4(), 80))?;
        let pin = std::path::Path::new(culvert_lab::sandbox::BPFFS).join("pass");
        raw::pin_xdp_pass(&pin)?;
        let works = || -> Result<()> {
            peer::ping(&mut taken.wire(echo.address)?, &[3; 200_000])?;
            echo.peer()?;
            assert_no_escape(&agent, &pod, &echo, escape())
        };
        let node = lab.node(1).netns();
        raw::switch_gro_on(node, pod.host_veth())?;
        raw::switch_gro_on(pod.netns(), "eth0")?;
        works().context("GRO")?;
        let path = pin.display();
        for (netns, interface, mode) in [
            (node, pod.host_veth(), "xdpgeneric"),
            (pod.netns(), "eth0", "xdpgeneric"),
            (pod.netns(), "eth0", "xdpdrv"),
        ] {
            netns.ip(&format!("link set dev {interface} {mode} pinned {path}"))?;
            works().with_context(|| format!("{mode} on {interface}"))?;
            assert_eq!(agent.deviations(&pod)?, Vec::<&str>::new());
            netns.ip(&format!("link set dev {interface} {mode} off"))?;
        }
        // Native XDP at the host veth takes the sender's socket off every packet: closed, and reported.
        node.ip(&format!("link set dev {} xdpdrv pinned {path}", pod.host_veth()))?;
        assert_eq!(agent.deviations(&pod)?, ["native_xdp"]);
        assert!(taken.wire(echo.address).is_err());
        assert!(echo.is_unvisited());
        node.ip(&format!("link set dev {} xdpdrv off", pod.host_veth()))?;
        works().context("after XDP")
    });
}

/// Keeps one capability of the calling thread and drops all others.
fn keep_only(capability: caps::Capability) -> Result<()> {
    let only = std::iter::once(capability).collect();
    caps::set(None, caps::CapSet::Effective, &only)?;
    caps::set(None, caps::CapSet::Permitted, &only)?;
    Ok(())
}

#[test]
fn t20_the_agents_mark_alone_lets_nothing_out() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let _taken = agent.enrol(&pod)?;
        for echo in echoes(&server, 80)? {
            let before = agent.count(&pod, Counter::DropUntagged)?;
            let source = Some(SocketAddr::new(own(&pod, echo.address.is_ipv6())?, 5555));
            let (address, netns) = (echo.address, pod.netns());
            let attempt = netns.enter(move || {
                keep_only(caps::Capability::CAP_NET_RAW)?;
                let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
                socket.set_mark(AGENT_MARK).context("SO_MARK")?;
                if address.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
                    .context("IP_TRANSPARENT")?;
                socket.bind(&source.context("source")?.into())?;
                Ok(socket.connect_timeout(&address.into(), SHORT).is_ok())
            })?;
            assert!(!attempt && echo.is_unvisited());
            assert!(agent.count(&pod, Counter::DropUntagged)? > before);
        }
        Ok(())
    });
}

#[test]
fn t30_a_wire_segment_with_an_app_legs_tuple_is_dropped() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let client = lab.node(2).pod("client", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let loopback = PacketSocket::open(pod.netns(), "lo")?;
        let attacker = PacketSocket::open(client.netns(), "eth0")?;
        for v6 in [false, true] {
            let server = pod.netns().enter(|| peer::listen(at(own(&pod, v6)?, 8080)))?;
            let (mut leg, protection) = taken.app_leg(own(&client, v6)?, server.local_addr()?)?;
            let (mut app, source) = server.accept()?;
            std::io::Write::write_all(&mut leg, b"hello")?;
            std::io::Read::read_exact(&mut app, &mut [0; 5])?;
            let seen = loopback.next_tcp(agent::PATIENCE, |seen| seen.source == source && seen.length == 5)?;
            let seen = seen.context("the leg's data was not seen on lo")?;
            let forged = Segment {
                sequence: seen.sequence + 5,
                acknowledgement: seen.acknowledgement,
                ..Segment::new(source, seen.destination, flag::PSH | flag::ACK).with_data(b"FORGED")
            };
            let frame = raw::ip_frame(&client, forged.packet())?;
            let before = agent.count(&pod, Counter::DropAppLeg)?;
            attacker.send(&frame)?;
            app.set_read_timeout(Some(SHORT / 3))?;
            assert!(std::io::Read::read(&mut app, &mut [0; 6]).is_err(), "the app read what the wire forged");
            assert_eq!(agent.count(&pod, Counter::DropAppLeg)?, before + 1);
            // The same segment does reach the app where nothing protects the leg: the test can fail.
            drop(protection);
            attacker.send(&frame)?;
            let mut read = [0; 6];
            app.set_read_timeout(Some(agent::PATIENCE))?;
            std::io::Read::read_exact(&mut app, &mut read)?;
            assert_eq!(&read, b"FORGED");
        }
        Ok(())
    });
}

#[test]
fn t30c_a_segment_that_hides_its_tuple_does_not_reach_the_pod() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let client = lab.node(2).pod("client", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let _taken = agent.enrol(&pod)?;
        let attacker = PacketSocket::open(client.netns(), "eth0")?;
        let segment = |v6| -> Result<Vec<u8>> {
            let data = Segment::new(at(own(&client, v6)?, 20_000), at(own(&pod, v6)?, 8080), flag::ACK);
            Ok(data.with_data(&[0; 64]).packet())
        };
        let first = frame::first_fragment(segment(false)?);
        let ip6 = |next, payload: &[u8]| -> Result<Vec<u8>> {
            Ok(frame::ip_packet(own(&client, true)?, own(&pod, true)?, next, payload))
        };
        let tcp6 = segment(true)?.split_off(40);
        let options = [&[6, 0, 1, 4, 0, 0, 0, 0], &tcp6[..]].concat();
        let fragment = [&[6, 0, 0, 1, 0, 0, 0, 9], &tcp6[..]].concat();
        for (packet, number) in [first, ip6(60, &options)?, ip6(44, &fragment)?].into_iter().zip(1..) {
            attacker.send(&raw::ip_frame(&client, packet)?)?;
            eventually("the hidden segment is dropped", agent::PATIENCE, || {
                Ok(agent.count(&pod, Counter::DropUnparsable)? == number)
            })?;
        }
        Ok(())
    });
}

#[test]
fn t30b_a_segment_that_claims_to_come_from_the_pod_itself_is_dropped() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let client = lab.node(2).pod("client", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let _taken = agent.enrol(&pod)?;
        let attacker = PacketSocket::open(client.netns(), "eth0")?;
        let addresses: Vec<IpAddr> = pod.ips();
        for (ip, number) in addresses.into_iter().zip(1..) {
            let forged = Segment::new(at(ip, 4000), at(ip, 8080), flag::SYN);
            attacker.send(&raw::ip_frame(&client, forged.packet())?)?;
            eventually("the forged segment is counted", agent::PATIENCE, || {
                Ok(agent.count(&pod, Counter::DropSelfForged)? == number)
            })?;
        }
        Ok(())
    });
}
