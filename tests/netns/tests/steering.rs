//! Which socket gets a connection.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_netns_tests::peer::{self, Echo, Tricks, at};
use culvert_netns_tests::*;

/// Addresses that nobody has.
const SOMEWHERE4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const SOMEWHERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 7);

fn somewhere(v6: bool, port: u16) -> SocketAddr {
    if v6 { at(SOMEWHERE6, port) } else { at(SOMEWHERE4, port) }
}

#[test]
fn t01_the_agent_sees_the_original_destination_of_an_outbound_connection() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        for v6 in [false, true] {
            let destination = somewhere(v6, 8080);
            let mut client = peer::connect(pod.netns(), destination)?;
            let accepted = taken.outbound(v6)?;
            assert_eq!(accepted.original, destination);
            assert_eq!(accepted.client, client.local_addr()?);
            // The app's own view is true as well.
            assert_eq!(client.peer_addr()?, destination);
            assert_eq!(client.local_addr()?.ip(), own(&pod, v6)?);
            let mut stream = accepted.stream;
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone()?, &mut stream));
            peer::ping(&mut client, b"there and back")?;
        }
        Ok(())
    });
}

#[test]
fn t01b_a_process_without_rights_cannot_leave_by_binding_to_the_interface() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let server = lab.node(2).pod("server", &PodOptions::default())?;
        let echo = [
            Echo::start(server.netns(), at(server.ip4(), 80))?,
            Echo::start(server.netns(), at(own(&server, true)?, 80))?,
        ];
        let tricks = Tricks { bind_device: true, uid: Some(65534), ..Tricks::default() };
        for echo in &echo {
            // It works before enrolment, so what fails below fails because of the guard.
            peer::ping(&mut peer::connect_with(pod.netns(), echo.address, tricks)?, b"open")?;
            echo.peer()?;
        }
        let agent = Agent::start(lab.node(1))?;
        let _taken = agent.enrol(&pod)?;
        let link = lab.capture_link()?;
        let quick = Tricks { patience: Some(std::time::Duration::from_millis(1500)), ..tricks };
        for echo in &echo {
            assert!(peer::connect_with(pod.netns(), echo.address, quick).is_err());
            assert!(echo.is_unvisited());
        }
        assert!(agent.count(&pod, Counter::DropUntagged)? >= 4);
        let seen = link.stop()?;
        let passed = |flow: &&culvert_lab::capture::Flow| format!("{flow:?}").contains(&pod.ip4().to_string());
        assert!(seen.flows.keys().find(passed).is_none(), "{:?}", seen.flows.keys());
        Ok(())
    });
}

#[test]
fn t01c_two_syns_that_cross_open_nothing_past_the_agent() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let accomplice = lab.node(2).pod("accomplice", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let _taken = agent.enrol(&pod)?;
        let patience = Some(std::time::Duration::from_millis(2500));
        for v6 in [false, true] {
            let (near, far) = if v6 { (40_003, 40_004) } else { (40_001, 40_002) };
            let (here, there) = (at(own(&pod, v6)?, near), at(own(&accomplice, v6)?, far));
            let from_here =
                Tricks { bind_device: true, uid: Some(65534), port: Some(near), patience, ..Tricks::default() };
            let from_there = Tricks { port: Some(far), patience, ..Tricks::default() };
            let before = agent.count(&pod, Counter::DropUntagged)?;
            let netns = pod.netns().clone();
            // The pod's own SYN is dropped, and leaves a socket that an established look-up finds.
            let opening = std::thread::spawn(move || peer::connect_with(&netns, there, from_here));
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert!(peer::connect_with(accomplice.netns(), here, from_there).is_err(), "a way in past the agent");
            assert!(opening.join().is_ok_and(|opened| opened.is_err()));
            // The SYN and the answer to the other one.
            assert!(agent.count(&pod, Counter::DropUntagged)? >= before + 2);
        }
        Ok(())
    });
}

#[test]
fn t03_the_agent_accepts_on_every_port_and_its_answers_pass_the_guard() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let client = lab.node(2).pod("client", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        for v6 in [false, true] {
            for port in [1, 80, 15008, 65535] {
                let destination = at(own(&pod, v6)?, port);
                let mut stream = peer::connect(client.netns(), destination)?;
                let accepted = taken.inbound(v6)?;
                assert_eq!(accepted.original, destination);
                assert_eq!(accepted.client, stream.local_addr()?);
                let mut far = accepted.stream;
                std::thread::spawn(move || std::io::copy(&mut far.try_clone()?, &mut far));
                peer::ping(&mut stream, &[7; 5000])?;
            }
        }
        assert_eq!(agent.count(&pod, Counter::DropUntagged)?, 0);
        // SYN-ACKs through the tagged listener, data through the tagged child.
        assert!(agent.count(&pod, Counter::GuardTagged)? >= 16);
        Ok(())
    });
}

#[test]
fn t04_the_app_sees_the_clients_address_and_its_replies_come_back() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let client = lab.node(2).pod("client", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let relay = taken.relay()?;
        for v6 in [false, true] {
            let echo = Echo::start(pod.netns(), at(own(&pod, v6)?, 8080))?;
            let mut stream = peer::connect(client.netns(), echo.address)?;
            peer::ping(&mut stream, b"who am I")?;
            assert_eq!(echo.peer()?.ip(), own(&client, v6)?);
            peer::finish(stream)?;
        }
        assert_eq!(relay.tally.failures(), 0);
        assert!(agent.count(&pod, Counter::SteerAppLeg)? >= 2);
        assert_eq!(agent.count(&pod, Counter::DropUntagged)?, 0);
        relay.stop()
    });
}

/// Every app leg port once, for one client and one destination: which ports were used.
fn each_port_once(taken: &Taken, client: std::net::IpAddr, destination: SocketAddr) -> Result<Vec<u16>> {
    let netns = taken.pod.netns.clone();
    taken.block_on(async move {
        let mut ports = Vec::new();
        for _ in culvert_redirect::APP_LEG_PORT_MIN..=culvert_redirect::APP_LEG_PORT_MAX {
            let leg = netns.connect_app(client, destination).await?;
            ports.push(leg.stream.local_addr()?.port());
            // No TIME_WAIT: the next round is to find every port free.
            socket2::SockRef::from(&leg.stream).set_linger(Some(std::time::Duration::ZERO))?;
        }
        Ok(ports)
    })
}

#[test]
fn t05_an_app_leg_avoids_the_port_of_a_wire_connection() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let client = lab.node(2).pod("client", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let echo = Echo::start(pod.netns(), at(pod.ip4(), 8080))?;
        let source = Some(at(client.ip4(), 20_000));
        let mut wire = peer::connect_with(client.netns(), echo.address, Tricks { source, ..Tricks::default() })?;
        let far = taken.inbound(false)?;
        let used = each_port_once(&taken, client.ip4().into(), echo.address)?;
        assert!(used.len() > 20_000 && !used.contains(&20_000));
        // The wire connection has not been disturbed.
        std::io::Write::write_all(&mut wire, b"still here")?;
        std::io::Read::read_exact(&mut &far.stream, &mut [0; 10])?;
        // Once it is gone, the port is to be had again.
        socket2::SockRef::from(&wire).set_linger(Some(std::time::Duration::ZERO))?;
        drop((wire, far));
        assert!(each_port_once(&taken, client.ip4().into(), echo.address)?.contains(&20_000));
        Ok(())
    });
}

#[test]
fn t05b_a_wire_connection_cannot_take_the_port_of_an_app_leg() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let client = lab.node(2).pod("client", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        for v6 in [false, true] {
            let echo = Echo::start(pod.netns(), at(own(&pod, v6)?, 8080))?;
            let (mut leg, protection) = taken.app_leg(own(&client, v6)?, echo.address)?;
            let source = Some(leg.local_addr()?);
            let tricks = Tricks { source, patience: Some(agent::PATIENCE / 4), ..Tricks::default() };
            let before = agent.count(&pod, Counter::DropAppLeg)?;
            assert!(peer::connect_with(client.netns(), echo.address, tricks).is_err());
            assert!(agent.count(&pod, Counter::DropAppLeg)? > before);
            peer::ping(&mut leg, b"undisturbed")?;
            drop((leg, protection));
            // An ordinary client's ports are others.
            peer::connect(client.netns(), echo.address)?;
            taken.inbound(v6)?;
        }
        Ok(())
    });
}

#[test]
fn t06_a_pod_reaches_itself_without_the_agent() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let loopback: [std::net::IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for (v6, loopback) in [false, true].into_iter().zip(loopback) {
            let any: std::net::IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let echo = Echo::start(pod.netns(), at(any, 8080))?;
            for ip in [own(&pod, v6)?, loopback] {
                let mut stream = peer::connect(pod.netns(), at(ip, 8080))?;
                peer::ping(&mut stream, b"to myself")?;
                assert_eq!(echo.peer()?.ip(), ip);
                peer::finish(stream)?;
            }
            // The agent's way to the same place.
            let netns = taken.pod.netns.clone();
            let destination = at(own(&pod, v6)?, 8080);
            let stream = taken.block_on(async move { agent::blocking(netns.connect_plain(destination).await?) })?;
            assert_eq!(echo.peer()?, stream.local_addr()?);
            assert!(taken.is_quiet(taken.outbound_listener(v6)?) && taken.is_quiet(taken.inbound_listener(v6)?));
        }
        assert!(agent.count(&pod, Counter::SteerSelf)? >= 6);
        Ok(())
    });
}

#[test]
fn t11_capture_works_with_every_reverse_path_filter_and_without_accept_local() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let relay = agent.enrol(&pod)?.relay()?;
        let there = Echo::start(other.netns(), at(other.ip4(), 80))?;
        let here = Echo::start(pod.netns(), at(pod.ip4(), 80))?;
        for filter in ["0", "1", "2"] {
            for scope in ["all", "eth0", "lo"] {
                pod.netns().sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), filter)?;
                pod.netns().sysctl(&format!("net/ipv4/conf/{scope}/accept_local"), "0")?;
            }
            peer::ping(&mut peer::connect(pod.netns(), there.address)?, b"out")?;
            assert_eq!(there.peer()?.ip(), pod.ip4());
            peer::ping(&mut peer::connect(other.netns(), here.address)?, b"in")?;
            assert_eq!(here.peer()?.ip(), other.ip4());
        }
        relay.stop()
    });
}

#[test]
fn t12_mapped_addresses_and_dual_stack_servers_work() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let client = lab.node(2).pod("client", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let mapped = SocketAddr::new(SOMEWHERE4.to_ipv6_mapped().into(), 443);
        let _stream = peer::connect(pod.netns(), mapped)?;
        assert_eq!(taken.outbound(false)?.original, somewhere(false, 443));
        let relay = taken.relay()?;
        // One IPv6 socket that serves both families.
        let both = pod.netns().enter(|| Ok(std::net::TcpListener::bind("[::]:8080")?))?;
        for v6 in [false, true] {
            let _stream = peer::connect(client.netns(), at(own(&pod, v6)?, 8080))?;
            let (_, seen) = both.accept()?;
            assert_eq!(seen.ip().to_canonical(), own(&client, v6)?);
        }
        relay.stop()
    });
}

#[test]
fn t12b_a_pod_without_ipv6_is_enrolled_for_ipv4() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions { ipv6: false, ..PodOptions::default() })?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        assert!(taken.pod.listeners.inbound_v6.is_none() && taken.pod.listeners.outbound_v6.is_none());
        let _stream = peer::connect(pod.netns(), somewhere(false, 80))?;
        assert_eq!(taken.outbound(false)?.original, somewhere(false, 80));
        assert_eq!(agent.deviations(&pod)?, Vec::<&str>::new());
        Ok(())
    });
}

#[test]
fn t18_two_pods_of_a_node_call_each_other_in_both_roles() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pods = ["a", "b"].map(|name| lab.node(1).pod(name, &PodOptions::default()));
        let [a, b] = pods.map(Result::unwrap);
        let agent = Agent::start(lab.node(1))?;
        let (taken_a, taken_b) = (agent.enrol(&a)?, agent.enrol(&b)?);
        for v6 in [false, true] {
            for (from, to, at_from, at_to) in [(&a, &b, &taken_a, &taken_b), (&b, &a, &taken_b, &taken_a)] {
                let destination = at(own(to, v6)?, 7000);
                let _client = peer::connect(from.netns(), destination)?;
                // The caller's own agent gets it, as outbound.
                assert_eq!(at_from.outbound(v6)?.original, destination);
                assert!(at_to.is_quiet(at_to.inbound_listener(v6)?));
                // What that agent sends on arrives at the other pod, as inbound.
                let wire = at_from.wire(destination)?;
                let arrived = at_to.inbound(v6)?;
                assert_eq!((arrived.original, arrived.client), (destination, wire.local_addr()?));
                assert!(at_from.is_quiet(at_from.inbound_listener(v6)?));
            }
        }
        Ok(())
    });
}

#[test]
fn t22_an_app_leg_never_carries_the_agents_mark() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        assert_eq!(pod.netns().read_sysctl("net/ipv4/tcp_fwmark_accept")?, "1");
        for (v6, client) in [(false, at(SOMEWHERE4, 0).ip()), (true, at(SOMEWHERE6, 0).ip())] {
            let server = pod.netns().enter(|| peer::listen(at(own(&pod, v6)?, 8080)))?;
            let veth = pod.capture_veth()?;
            let (mut leg, _protection) = taken.app_leg(client, server.local_addr()?)?;
            let (mut app, seen) = server.accept()?;
            assert_eq!(seen.ip(), client);
            assert_eq!(socket2::SockRef::from(&leg).mark()?, 0);
            assert_eq!(socket2::SockRef::from(&app).mark()?, 0);
            std::io::Write::write_all(&mut app, b"not for the wire")?;
            std::io::Read::read_exact(&mut leg, &mut [0; 16])?;
            assert!(!veth.stop()?.contains(b"not for the wire"));
        }
        Ok(())
    });
}

#[test]
fn t23_a_stale_entry_of_an_app_leg_leaks_nothing() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let client = lab.node(2).pod("client", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        // Whatever drops such a segment on its way to the pod is gone: steering alone lets it pass to the app.
        std::fs::remove_file(format!("{}/culvert/v1/node1/pods/app/watch", culvert_lab::sandbox::BPFFS))?;
        let path = format!("{}/culvert/v1/node1/maps/app_legs", culvert_lab::sandbox::BPFFS);
        let map = aya::maps::Map::HashMap(aya::maps::MapData::from_pin(path)?);
        let mut flows: aya::maps::HashMap<_, culvert_abi::FlowKey, u32> = map.try_into()?;
        for v6 in [false, true] {
            let echo = Echo::start(pod.netns(), at(own(&pod, v6)?, 8080))?;
            let source = at(own(&client, v6)?, 40_000);
            let stale = culvert_abi::FlowKey {
                local_ip: culvert_abi::words(echo.address.ip()),
                remote_ip: culvert_abi::words(source.ip()),
                local_port: 8080,
                remote_port: 40_000,
                pod: taken.pod.host_ifindex,
            };
            flows.insert(stale, 1, 0)?;
            let tricks = Tricks { source: Some(source), patience: Some(agent::PATIENCE / 4), ..Tricks::default() };
            assert!(peer::connect_with(client.netns(), echo.address, tricks).is_err());
            assert!(echo.is_unvisited());
            flows.remove(&stale)?;
            peer::connect_with(client.netns(), echo.address, tricks)?;
            assert_eq!(taken.inbound(v6)?.client, source);
        }
        Ok(())
    });
}

#[test]
fn t24_a_connection_to_the_agents_own_listener_is_told_apart() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        let addresses = [taken.outbound_listener(false)?.local_addr()?, taken.inbound_listener(true)?.local_addr()?];
        let relay = taken.relay()?;
        for (number, address) in addresses.into_iter().enumerate() {
            // It is reset at once: the caller may see that while it still connects.
            if let Ok(mut stream) = peer::connect(pod.netns(), address) {
                assert!(matches!(std::io::Read::read(&mut stream, &mut [0; 1]), Ok(0) | Err(_)));
            }
            let own = || relay.tally.own.load(std::sync::atomic::Ordering::Relaxed);
            eventually("it is counted as its own", agent::PATIENCE, || Ok(own() == number as u64 + 1))?;
        }
        relay.stop()
    });
}

#[test]
fn t25_a_reset_of_either_end_reaches_the_other() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let other = lab.node(2).pod("other", &PodOptions::default())?;
        let agent = Agent::start(lab.node(1))?;
        let relay = agent.enrol(&pod)?.relay()?;
        for v6 in [false, true] {
            for (from, to) in [(&pod, &other), (&other, &pod)] {
                let server = to.netns().enter(|| peer::listen(at(own(to, v6)?, 8080)))?;
                for client_resets in [true, false] {
                    let mut client = peer::connect(from.netns(), server.local_addr()?)?;
                    let (mut served, _) = server.accept()?;
                    served.set_read_timeout(Some(agent::PATIENCE))?;
                    std::io::Write::write_all(&mut client, b"x")?;
                    std::io::Read::read_exact(&mut served, &mut [0; 1])?;
                    let (gone, stays) = if client_resets { (client, &mut served) } else { (served, &mut client) };
                    socket2::SockRef::from(&gone).set_linger(Some(std::time::Duration::ZERO))?;
                    drop(gone);
                    let error = std::io::Read::read(stays, &mut [0; 1]).unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                }
            }
        }
        relay.stop()
    });
}

#[test]
fn t29_foreign_and_link_local_destinations_are_never_taken_for_outbound() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let options = PodOptions { style: PodStyle::Bridge, ..PodOptions::default() };
        let (pod, neighbour) = (lab.node(1).pod("app", &options)?, lab.node(1).pod("next", &options)?);
        // Addresses that the pod gives itself after its enrolment, and a way there for the others.
        let agent = Agent::start(lab.node(1))?;
        let taken = agent.enrol(&pod)?;
        pod.netns().ip("addr add 10.99.0.1/32 dev eth0")?;
        pod.netns().ip("addr add fd99::1/128 dev eth0 nodad")?;
        let echo = Echo::start(pod.netns(), at(Ipv6Addr::UNSPECIFIED, 8080))?;
        let echo4 = Echo::start(pod.netns(), at(Ipv4Addr::UNSPECIFIED, 8080))?;
        let link_local = link_local(&pod)?;
        for (from, device) in [(neighbour.netns(), "eth0"), (lab.node(1).netns(), "cni0")] {
            from.ip(&format!("route add 10.99.0.1 via {} dev {device}", pod.ip4()))?;
            from.ip(&format!("-6 route add fd99::1 via {} dev {device}", own(&pod, true)?))?;
            let scope = from.enter(move || Ok(nix::net::if_::if_nametoindex(device)?))?;
            let to_link_local = SocketAddr::V6(std::net::SocketAddrV6::new(link_local, 8080, 0, scope));
            let quick = Tricks { patience: Some(agent::PATIENCE / 5), ..Tricks::default() };
            for destination in [at(Ipv4Addr::new(10, 99, 0, 1), 8080), at("fd99::1".parse::<Ipv6Addr>()?, 8080)] {
                let before = agent.count(&pod, Counter::SteerForeign)?;
                assert!(peer::connect_with(from, destination, quick).is_err(), "{destination}");
                assert!(agent.count(&pod, Counter::SteerForeign)? > before);
            }
            // The link-local address is the pod's: from the wire, for the inbound listener.
            let _stream = peer::connect_with(from, to_link_local, quick)?;
            assert_eq!(taken.inbound(true)?.original.ip(), link_local);
        }
        for v6 in [false, true] {
            assert!(taken.is_quiet(taken.outbound_listener(v6)?));
        }
        assert!(echo.is_unvisited() && echo4.is_unvisited());
        Ok(())
    });
}

fn link_local(pod: &Pod) -> Result<Ipv6Addr> {
    let shown = pod.netns().ip("-6 -o addr show dev eth0 scope link")?;
    let word = shown.split_whitespace().find(|word| word.starts_with("fe80")).context("no link-local address")?;
    Ok(word.split('/').next().unwrap_or(word).parse()?)
}
