//! Addresses that are not the pod's, and what is not TCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_netns_tests::frame::{self, Frame, Segment, flag};
use culvert_netns_tests::peer::at;
use culvert_netns_tests::raw::{self, PacketSocket};
use culvert_netns_tests::*;

/// What an ordinary pod may send or not: a frame, and the counter that goes up by one.
struct Case {
    what: &'static str,
    frame: Frame,
    counter: Counter,
}

struct Scene {
    pod: Pod,
    agent: Agent,
    socket: PacketSocket,
    _taken: Taken,
    _lab: Lab,
}

const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const FAR4: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 9);
const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, 9);
const VICTIM4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 99);
const VICTIM6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x99);

impl Scene {
    fn new(deny_non_tcp: bool) -> Result<Scene> {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let config = culvert_redirect::Config { dns: vec![DNS.into()], ..agent::config(lab.node(1)) };
        let agent = Agent::with(lab.node(1), config)?;
        let taken = agent.enrol_with(&pod, PodSettings { deny_non_tcp, ..PodSettings::default() })?;
        let socket = PacketSocket::open(pod.netns(), "eth0")?;
        Ok(Scene { pod, agent, socket, _taken: taken, _lab: lab })
    }

    fn ip(&self, packet: Vec<u8>) -> Result<Frame> {
        raw::ip_frame(&self.pod, packet)
    }

    fn check(&self, case: &Case) -> Result<()> {
        self.check_sent(case.what, case.counter, || self.socket.send(&case.frame))
    }

    /// Sends until nothing but what was sent was counted: the pod's kernel has control packets of its own (router
    /// solicitations, multicast reports), which come when they like. What is counted wrongly is so every time.
    fn check_sent(&self, what: &str, counter: Counter, send: impl Fn() -> Result<()>) -> Result<()> {
        let kernels_own = Counter::GuardControl.name();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let before: Vec<u64> = self.all()?;
            send()?;
            let after = self.all()?;
            let changed: Vec<&str> = Counter::ALL
                .iter()
                .filter(|counter| after[**counter as usize] != before[**counter as usize])
                .map(|counter| counter.name())
                .collect();
            if changed == [counter.name()] {
                return Ok(());
            }
            let disturbed = changed.contains(&counter.name()) && changed.contains(&kernels_own) && changed.len() == 2;
            ensure!(disturbed && attempts < 5, "{what}: expected {}, got {changed:?}", counter.name());
        }
    }

    fn all(&self) -> Result<Vec<u64>> {
        Counter::ALL.iter().map(|counter| self.agent.count(&self.pod, *counter)).collect()
    }

    fn check_all(&self, cases: Vec<Case>) -> Result<()> {
        cases.iter().try_for_each(|case| self.check(case))
    }
}

fn case(what: &'static str, frame: Frame, counter: Counter) -> Case {
    Case { what, frame, counter }
}

fn syn(source: impl Into<IpAddr>, destination: impl Into<IpAddr>) -> Vec<u8> {
    Segment::new(at(source, 1234), at(destination, 80), flag::SYN).packet()
}

fn arp(sender_mac: [u8; 6], sender: Ipv4Addr) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(sender_mac);
    arp.extend(sender.octets());
    arp.extend([0; 6]);
    arp.extend(FAR4.octets());
    arp
}

fn advertisement(target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend(target.octets());
    message
}

fn solicitation(target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message
}

fn echo_request(v6: bool, size: usize) -> Vec<u8> {
    let mut message = vec![if v6 { 128 } else { 8 }, 0, 0, 0, 0, 1, 0, 1];
    message.resize(size, 7);
    message
}

#[test]
fn t28_a_pod_sends_only_from_its_own_addresses() {
    in_sandbox!(|| {
        let scene = Scene::new(false)?;
        let (pod4, pod6) = (scene.pod.ip4(), scene.pod.ip6().context("no IPv6")?);
        let (mac, _) = raw::macs(&scene.pod)?;
        let link_local: Ipv6Addr = "fe80::1234".parse()?;
        let frame = |packet| scene.ip(packet);
        let ethernet =
            |ethertype, payload| -> Result<Frame> { Ok(Frame { ethertype, payload, ..scene.ip(vec![0x45])? }) };
        let other_mac = Frame { from: [2, 0, 0, 0, 0, 9], ..scene.ip(syn(pod4, FAR4))? };
        let udp = |source: IpAddr, destination: IpAddr| frame::udp(at(source, 5000), at(destination, 53), b"?");
        scene.check_all(vec![
            case("another MAC", other_mac, Counter::DropMac),
            case("another IPv4 source", frame(syn(VICTIM4, FAR4))?, Counter::DropSource),
            case("another IPv6 source", frame(syn(VICTIM6, FAR6))?, Counter::DropSource),
            case("IPv4 in an IPv6 source", frame(syn(pod4.to_ipv6_mapped(), FAR6))?, Counter::DropSource),
            case("UDP, another source", frame(udp(VICTIM4.into(), FAR4.into()))?, Counter::DropSource),
            case(
                "echo, another source",
                frame(frame::icmp(VICTIM4.into(), FAR4.into(), &echo_request(false, 16)))?,
                Counter::DropSource,
            ),
            case(
                "echo, another IPv6 source",
                frame(frame::icmp(VICTIM6.into(), FAR6.into(), &echo_request(true, 16)))?,
                Counter::DropSource,
            ),
            case("ARP in its own name", ethernet(0x0806, arp(mac, pod4))?, Counter::GuardControl),
            case("ARP address probe", ethernet(0x0806, arp(mac, Ipv4Addr::UNSPECIFIED))?, Counter::GuardControl),
            case("ARP for another address", ethernet(0x0806, arp(mac, VICTIM4))?, Counter::DropArp),
            case("ARP with another MAC", ethernet(0x0806, arp([2, 0, 0, 0, 0, 9], pod4))?, Counter::DropArp),
            case(
                "ND for its own address",
                frame(frame::icmp(pod6.into(), FAR6.into(), &advertisement(pod6)))?,
                Counter::GuardControl,
            ),
            case(
                "ND for another address",
                frame(frame::icmp(pod6.into(), FAR6.into(), &advertisement(VICTIM6)))?,
                Counter::DropNd,
            ),
            case(
                "ND from another address",
                frame(frame::icmp(VICTIM6.into(), FAR6.into(), &advertisement(VICTIM6)))?,
                Counter::DropNd,
            ),
            case(
                "asking for a neighbour",
                frame(frame::icmp(pod6.into(), FAR6.into(), &solicitation(FAR6)))?,
                Counter::GuardControl,
            ),
            case(
                "asking in another name",
                frame(frame::icmp(VICTIM6.into(), FAR6.into(), &solicitation(FAR6)))?,
                Counter::DropNd,
            ),
            case(
                "router advertisement",
                frame(frame::icmp(link_local.into(), FAR6.into(), &[134, 0, 0, 0, 0, 0, 0, 0]))?,
                Counter::DropIcmp,
            ),
        ])
    });
}

#[test]
fn t28e_link_local_addresses_of_others_are_not_the_pods() {
    in_sandbox!(|| {
        let scene = Scene::new(false)?;
        let pod6 = scene.pod.ip6().context("no IPv6")?;
        let shown = scene.pod.netns().run("ip", &["-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"])?;
        let own =
            shown.split_whitespace().find_map(|word| word.strip_suffix("/64")).context("no link-local address")?;
        let (own, other): (Ipv6Addr, Ipv6Addr) = (own.parse()?, "fe80::1".parse()?);
        let all: Ipv6Addr = "ff02::1".parse()?;
        let frame = |source: Ipv6Addr, message: &[u8]| scene.ip(frame::icmp(source.into(), all.into(), message));
        let router = [133, 0, 0, 0, 0, 0, 0, 0];
        let report = [143, 0, 0, 0, 0, 0, 0, 0];
        let none = Ipv6Addr::UNSPECIFIED;
        scene.check_all(vec![
            case("its own", frame(own, &advertisement(own))?, Counter::GuardControl),
            case("its own, asking", frame(own, &solicitation(FAR6))?, Counter::GuardControl),
            case("its own, for a router", frame(own, &router)?, Counter::GuardControl),
            case("its own, a report", frame(own, &report)?, Counter::GuardControl),
            case("no address yet, a report", frame(none, &report)?, Counter::GuardControl),
            case("a probe of its own address", frame(none, &solicitation(pod6))?, Counter::GuardControl),
            case("another's", frame(other, &advertisement(other))?, Counter::DropNd),
            case("its own address, in another's name", frame(other, &advertisement(pod6))?, Counter::DropNd),
            case("another's address, in its own name", frame(own, &advertisement(other))?, Counter::DropNd),
            case("an advertisement of nobody", frame(none, &advertisement(pod6))?, Counter::DropNd),
            case("asking in another's name", frame(other, &solicitation(FAR6))?, Counter::DropNd),
            case("for a router in another's name", frame(other, &router)?, Counter::DropNd),
            case("a report in another's name", frame(other, &report)?, Counter::DropNd),
            case("a probe of another's address", frame(none, &solicitation(VICTIM6))?, Counter::DropNd),
        ])
    });
}

#[test]
fn t28f_data_that_the_ip_header_does_not_name_is_data() {
    in_sandbox!(|| {
        let scene = Scene::new(false)?;
        let (pod4, pod6) = (scene.pod.ip4(), scene.pod.ip6().context("no IPv6")?);
        let bare = |source: IpAddr, destination: IpAddr, trailer: usize| -> Result<Frame> {
            let mut packet = Segment::new(at(source, 1), at(destination, 2), flag::ACK).packet();
            packet.resize(packet.len() + trailer, 7);
            scene.ip(packet)
        };
        scene.check_all(vec![
            case("nothing behind", bare(pod4.into(), FAR4.into(), 0)?, Counter::GuardBare),
            case("padding of a short frame", bare(pod4.into(), FAR4.into(), 6)?, Counter::GuardBare),
            case("more than padding", bare(pod4.into(), FAR4.into(), 7)?, Counter::DropUntagged),
            case("IPv6, nothing behind", bare(pod6.into(), FAR6.into(), 0)?, Counter::GuardBare),
            case("IPv6 needs no padding", bare(pod6.into(), FAR6.into(), 1)?, Counter::DropUntagged),
        ])?;
        // Segmentation would write the length of each segment into its header.
        let hidden = bare(pod4.into(), FAR4.into(), 6)?;
        scene.check_sent("data for segmentation", Counter::DropUntagged, || scene.socket.send_segmented(&hidden, 1))
    });
}

#[test]
fn t28b_what_is_not_tcp_is_counted_or_dropped() {
    in_sandbox!(|| {
        let scene = Scene::new(false)?;
        let (pod4, pod6) = (scene.pod.ip4(), scene.pod.ip6().context("no IPv6")?);
        let frame = |packet| scene.ip(packet);
        let ethernet =
            |ethertype, payload| -> Result<Frame> { Ok(Frame { ethertype, payload, ..scene.ip(vec![0x45])? }) };
        let udp = |source: SocketAddr, destination: SocketAddr| frame::udp(source, destination, b"hello");
        let dhcp = udp(at(Ipv4Addr::UNSPECIFIED, 68), at(Ipv4Addr::BROADCAST, 67));
        let vlan = [&[0, 5, 8, 0], &syn(pod4, FAR4)[..]].concat();
        let fragment = frame::first_fragment(syn(pod4, FAR4));
        let mut hidden = vec![6, 0, 1, 4, 0, 0, 0, 0];
        hidden.extend(&syn(pod6, FAR6)[40..]);
        let mut fragment6 = vec![6, 0, 0, 1, 0, 0, 0, 9];
        fragment6.extend(&syn(pod6, FAR6)[40..]);
        scene.check_all(vec![
            case("UDP", frame(udp(at(pod4, 5000), at(FAR4, 9)))?, Counter::Unprotected),
            case("IPv6 UDP", frame(udp(at(pod6, 5000), at(FAR6, 9)))?, Counter::Unprotected),
            case("SCTP", frame(frame::ip_packet(pod4.into(), FAR4.into(), 132, &[0; 12]))?, Counter::Unprotected),
            case("DHCP client", frame(dhcp)?, Counter::GuardControl),
            case(
                "echo",
                frame(frame::icmp(pod4.into(), FAR4.into(), &echo_request(false, 64)))?,
                Counter::GuardControl,
            ),
            case(
                "IPv6 echo",
                frame(frame::icmp(pod6.into(), FAR6.into(), &echo_request(true, 64)))?,
                Counter::GuardControl,
            ),
            case(
                "large echo",
                frame(frame::icmp(pod4.into(), FAR4.into(), &echo_request(false, 1200)))?,
                Counter::DropIcmp,
            ),
            case(
                "large IPv6 echo",
                frame(frame::icmp(pod6.into(), FAR6.into(), &echo_request(true, 1200)))?,
                Counter::DropIcmp,
            ),
            case(
                "ICMP redirect",
                frame(frame::icmp(pod4.into(), FAR4.into(), &[5, 1, 0, 0, 0, 0, 0, 0]))?,
                Counter::DropIcmp,
            ),
            case(
                "IP in IP",
                frame(frame::ip_packet(pod4.into(), FAR4.into(), 4, &syn(VICTIM4, FAR4)))?,
                Counter::DropProtocol,
            ),
            case("GRE", frame(frame::ip_packet(pod4.into(), FAR4.into(), 47, &[0; 8]))?, Counter::DropProtocol),
            case(
                "ESP on IPv6",
                frame(frame::ip_packet(pod6.into(), FAR6.into(), 50, &[0; 16]))?,
                Counter::DropProtocol,
            ),
            case("LLDP", ethernet(0x88cc, vec![0; 50])?, Counter::DropEthertype),
            case("VLAN tag", ethernet(0x8100, vlan)?, Counter::DropEthertype),
            case("fragmented TCP", frame(fragment)?, Counter::DropUnparsable),
            case(
                "fragmented IPv6 TCP",
                frame(frame::ip_packet(pod6.into(), FAR6.into(), 44, &fragment6))?,
                Counter::DropUnparsable,
            ),
            case(
                "TCP behind options",
                frame(frame::ip_packet(pod6.into(), FAR6.into(), 60, &hidden))?,
                Counter::DropUnparsable,
            ),
            case("bare RST", frame(Segment::new(at(pod4, 1), at(FAR4, 2), flag::RST).packet())?, Counter::GuardBare),
            case(
                "data on a SYN-ACK",
                frame(Segment::new(at(pod4, 1), at(FAR4, 2), flag::SYN | flag::ACK).with_data(b"x").packet())?,
                Counter::DropUntagged,
            ),
            case(
                "data on a FIN",
                frame(Segment::new(at(pod4, 1), at(FAR4, 2), flag::FIN | flag::ACK).with_data(b"x").packet())?,
                Counter::DropUntagged,
            ),
        ])
    });
}

/// A process with `NET_ADMIN` gives its pod addresses before the pod is taken: another pod's, to speak and to answer for.
#[test]
fn t28d_addresses_that_are_not_known_to_be_the_pods_are_not_taken_for_its_own() {
    in_sandbox!(|| {
        let lab = Lab::two_nodes()?;
        let pod = lab.node(1).pod("app", &PodOptions::default())?;
        let (pod4, pod6) = (pod.ip4(), pod.ip6().context("no IPv6")?);
        for address in [format!("{VICTIM4}/32"), format!("{VICTIM6}/128")] {
            pod.netns().ip(&format!("addr add {address} dev eth0 nodad"))?;
        }
        let (mac, _) = raw::macs(&pod)?;
        let agent = Agent::start(lab.node(1))?;
        // Of a family that the pod is not known by, all are.
        let taken = agent.enrol_with(&pod, PodSettings { addresses: vec![pod4.into()], ..PodSettings::default() })?;
        let mut own = taken.pod.addresses.clone();
        own.sort();
        let mut expected: Vec<IpAddr> = vec![pod4.into(), pod6.into(), VICTIM6.into()];
        expected.sort();
        assert_eq!(own, expected);
        let socket = PacketSocket::open(pod.netns(), "eth0")?;
        let scene = Scene { pod, agent, socket, _taken: taken, _lab: lab };
        let udp = |source: IpAddr, destination: IpAddr| frame::udp(at(source, 5000), at(destination, 53), b"?");
        let arp = |address| -> Result<Frame> {
            Ok(Frame { ethertype: 0x0806, payload: arp(mac, address), ..scene.ip(vec![0x45])? })
        };
        scene.check_all(vec![
            case("its own", scene.ip(udp(pod4.into(), FAR4.into()))?, Counter::Unprotected),
            case("another's", scene.ip(udp(VICTIM4.into(), FAR4.into()))?, Counter::DropSource),
            case("ARP for another's", arp(VICTIM4)?, Counter::DropArp),
        ])?;
        // Later enrolments of the same pod believe the first one.
        let wider = PodSettings { addresses: vec![pod4.into(), VICTIM4.into()], ..PodSettings::default() };
        let again = scene.agent.enrol_with(&scene.pod, wider)?;
        assert!(!again.pod.addresses.contains(&VICTIM4.into()));
        Ok(())
    });
}

#[test]
fn t28c_a_pod_that_may_not_use_udp_keeps_dns_only() {
    in_sandbox!(|| {
        let scene = Scene::new(true)?;
        let (pod4, pod6) = (scene.pod.ip4(), scene.pod.ip6().context("no IPv6")?);
        let frame = |packet| scene.ip(packet);
        let udp = |destination: SocketAddr| frame::udp(at(pod4, 5000), destination, b"hello");
        scene.check_all(vec![
            case("UDP", frame(udp(at(FAR4, 9)))?, Counter::DropNonTcp),
            case("IPv6 UDP", frame(frame::udp(at(pod6, 5000), at(FAR6, 9), b"hello"))?, Counter::DropNonTcp),
            case("SCTP", frame(frame::ip_packet(pod4.into(), FAR4.into(), 132, &[0; 12]))?, Counter::DropNonTcp),
            case("DNS to another server", frame(udp(at(FAR4, 53)))?, Counter::DropNonTcp),
            case("DNS", frame(udp(at(DNS, 53)))?, Counter::Unprotected),
            case("another port of the server", frame(udp(at(DNS, 54)))?, Counter::DropNonTcp),
            case(
                "echo",
                frame(frame::icmp(pod4.into(), FAR4.into(), &echo_request(false, 64)))?,
                Counter::GuardControl,
            ),
        ])?;
        scene.agent.on_node(|redirect| Ok(redirect.update("app", PodSettings::default())?))?;
        scene.check(&case("UDP, allowed again", frame(udp(at(FAR4, 9)))?, Counter::Unprotected))
    });
}

#[test]
fn t28d_control_packets_and_bare_segments_have_a_limit() {
    in_sandbox!(|| {
        let scene = Scene::new(false)?;
        let echo = frame::icmp(scene.pod.ip4().into(), FAR4.into(), &echo_request(false, 16));
        let frame = scene.ip(echo)?;
        eventually("the limit is reached", agent::PATIENCE, || {
            for _ in 0..5000 {
                scene.socket.send(&frame)?;
            }
            Ok(scene.agent.count(&scene.pod, Counter::DropRate)? > 1000)
        })
    });
}
