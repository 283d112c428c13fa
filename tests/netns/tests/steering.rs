//! Which socket gets a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_netns_tests::peer::{self, Echo, Tricks, at};
use culvert_netns_tests::*;

/// Addresses that nobody has.
const SOMEWHERE4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const SOMEWHERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 7);

fn somewhere(v6: bool, port: u16) -> SocketAddr {
    if v6 { at(SOMEWHERE6, port) } else { at(SOMEWHERE4, port) }
}

fn own(pod: &Pod, v6: bool) -> Result<IpAddr> {
    if v6 { pod.ip6().map(IpAddr::V6).context("no IPv6") } else { Ok(pod.ip4().into()) }
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
