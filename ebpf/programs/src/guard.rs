//! `veth_guard`: which packets may leave the pod.
//!
//! TCP leaves an enrolled pod only from sockets that carry the agent's tag. Marks and addresses
//! authorise nothing here. Everything else a pod may send is checked for its own addresses.

use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::TcContext};
use aya_log_ebpf::info;
use culvert_abi::{Address, Counter, Event, PodConfig, event_kind, is_v4, pod_flags};

use crate::{
    DROP, NEXT,
    maps::{NODE_CONFIG, POD_POLICY, PRE_ENROLMENT, PROBE_FLOWS},
    packet::{self, ETH_ARP, ETH_IPV4, ETH_IPV6, Ethernet, ICMP, ICMPV6, Ip, SCTP, TCP, UDP},
    report::Tally,
    steer::bytes,
    tag,
};

/// Longest ICMP packet that leaves a pod, in bytes with its link header.
const ICMP_MAX: u32 = 1_024;

/// One packet under judgement.
struct Case<'a> {
    ctx: &'a TcContext,
    pod: u32,
    config: &'a PodConfig,
    tally: Tally,
    event: Event,
}

/// The whole decision, counted and reported.
#[inline(always)]
pub fn guard(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let pod = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: entries are replaced whole by the agent; a stale read is one packet old at worst.
    let Some(config) = (unsafe { POD_POLICY.get(pod) }) else { return NEXT };
    let Some(tally) = Tally::of(config.slot) else { return DROP };
    let mut case = Case { ctx, pod, config, tally, event: packet::event(ctx, event_kind::GUARD_DROP, pod, 0) };
    let verdict = judge(&mut case);
    case.log(verdict);
    if !verdict.is_drop() {
        tally.count(verdict);
        return NEXT;
    }
    tally.drop(verdict, case.event);
    DROP
}

#[inline(always)]
fn judge(case: &mut Case<'_>) -> Counter {
    let Some(ethernet) = packet::load::<Ethernet>(case.ctx, 0) else { return Counter::DropUnparsable };
    case.event.ethertype = u16::from_be(ethernet.ethertype);
    if ethernet.source != case.config.mac {
        return Counter::DropMac;
    }
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*case.ctx.skb.skb).vlan_present } != 0 {
        return Counter::DropEthertype;
    }
    let ip = match case.event.ethertype {
        ETH_IPV4 => packet::ipv4(case.ctx),
        ETH_IPV6 => packet::ipv6(case.ctx),
        ETH_ARP => return judge_arp(case),
        _ => return Counter::DropEthertype,
    };
    match ip {
        Some(ip) => judge_ip(case, &ip),
        None => Counter::DropUnparsable,
    }
}

impl Case<'_> {
    /// Removed by the verifier unless logging was asked for: the level is frozen read-only data. The
    /// agent writes the counter's name for its number.
    #[inline(always)]
    fn log(&self, verdict: Counter) {
        info!(
            self.ctx,
            "guard counter={} pod={} source={:i} port={} destination={:i} port={}",
            verdict as u32,
            self.pod,
            bytes(&self.event.source_ip),
            self.event.source_port,
            bytes(&self.event.destination_ip),
            self.event.destination_port
        );
    }

    /// ARP, neighbour discovery, DHCP, ICMP: needed, but not without limit.
    #[inline(always)]
    fn control(&self) -> Counter {
        if self.tally.take_control() { Counter::GuardControl } else { Counter::DropRate }
    }

    /// Unused entries are zero, which no address is. The loop has no end that depends on data: the
    /// verifier could not follow it.
    #[inline(always)]
    fn owns(&self, address: &Address) -> bool {
        *address != [0; 4] && self.config.addresses.iter().any(|own| own == address)
    }
}

#[inline(always)]
fn judge_ip(case: &mut Case<'_>, ip: &Ip) -> Counter {
    case.event = packet::with_ip(case.event, ip);
    // A v4-mapped source in an IPv6 header would be compared with the pod's IPv4 addresses.
    if case.event.ethertype == ETH_IPV6 && is_v4(&ip.source) {
        return Counter::DropSource;
    }
    if ip.protocol == ICMPV6 && !is_v4(&ip.source) {
        return judge_icmp6(case, ip);
    }
    if !case.owns(&ip.source) {
        return if is_dhcp(case, ip) { case.control() } else { Counter::DropSource };
    }
    // The agent sends nothing of the kind: a header that cannot be followed was made by the pod.
    if ip.odd {
        return Counter::DropUnparsable;
    }
    match ip.protocol {
        TCP => judge_tcp(case, ip),
        UDP | SCTP => judge_datagram(case, ip),
        ICMP if is_v4(&ip.source) => judge_icmp4(case, ip),
        _ => Counter::DropProtocol,
    }
}

#[inline(always)]
fn judge_tcp(case: &mut Case<'_>, ip: &Ip) -> Counter {
    if case.config.flags & pod_flags::ENFORCE == 0 {
        return judge_unclassified(case, ip);
    }
    let Some(tcp) = packet::tcp(case.ctx, ip) else { return Counter::DropUnparsable };
    case.event = packet::with_tcp(case.event, &tcp);
    if tag::is_agents(case.ctx, ip, &tcp) {
        return Counter::GuardTagged;
    }
    let flow = packet::sent_by(case.pod, ip, &tcp);
    let probe = !tcp.opens() && PROBE_FLOWS.get_ptr(&flow).is_some();
    let deadline = if tcp.opens() { None } else { PRE_ENROLMENT.get_ptr(&flow) };
    if !tcp.opens() && !tcp.has_payload(case.ctx, ip) {
        // Closing ACKs of TIME_WAIT and SYN-cookie SYN-ACKs have no socket that could carry a tag. What has one of its
        // own, and is neither a probe's nor older than enrolment, has been opened past steering: by a SYN from the wire
        // that crossed the pod's own (simultaneous open, RFC 9293 section 3.5). Its answers would complete that.
        let bare = tcp.flags & packet::RST != 0 || probe || deadline.is_some() || !tag::is_pods_connection(case.ctx);
        return match bare {
            true if case.tally.take_bare() => Counter::GuardBare,
            true => Counter::DropRate,
            false => Counter::DropUntagged,
        };
    }
    if probe {
        return Counter::GuardProbe;
    }
    // A kept connection goes on; a new one with its tuple is not kept.
    if let Some(deadline) = deadline {
        // SAFETY: the pointer comes from the map; a deadline is one aligned word.
        let deadline = unsafe { deadline.read_volatile() };
        // SAFETY: the helper has no preconditions.
        if unsafe { bpf_ktime_get_ns() } < deadline {
            return Counter::GuardPreEnrolment;
        }
    }
    Counter::DropUntagged
}

/// While the pod is being set up: nothing but the end of connections from before.
#[inline(always)]
fn judge_unclassified(case: &mut Case<'_>, ip: &Ip) -> Counter {
    let Some(tcp) = packet::tcp(case.ctx, ip) else { return Counter::DropUnparsable };
    case.event = packet::with_tcp(case.event, &tcp);
    if tcp.flags & packet::RST != 0 && !tcp.has_payload(case.ctx, ip) { Counter::GuardBare } else { Counter::DropUnclassified }
}

/// UDP and SCTP: they pass unprotected and are counted, or are denied except for DNS.
#[inline(always)]
fn judge_datagram(case: &mut Case<'_>, ip: &Ip) -> Counter {
    let ports = packet::udp_ports(case.ctx, ip);
    if let Some((source, destination)) = ports {
        case.event.source_port = source;
        case.event.destination_port = destination;
    }
    if case.config.flags & pod_flags::DENY_NON_TCP == 0 {
        return Counter::Unprotected;
    }
    if is_dhcp(case, ip) {
        return case.control();
    }
    if ip.protocol == UDP && case.event.destination_port == 53 && is_dns(&ip.destination) {
        return Counter::Unprotected;
    }
    Counter::DropNonTcp
}

/// Echo, its reply, and the errors that path MTU discovery and clean failures need.
#[inline(always)]
fn judge_icmp4(case: &mut Case<'_>, ip: &Ip) -> Counter {
    let Some(kind) = packet::load::<u8>(case.ctx, ip.offset) else { return Counter::DropUnparsable };
    if ip.fragment || case.ctx.len() > ICMP_MAX || !matches!(kind, 0 | 3 | 8 | 11 | 12) {
        return Counter::DropIcmp;
    }
    case.control()
}

#[inline(always)]
fn judge_icmp6(case: &mut Case<'_>, ip: &Ip) -> Counter {
    if ip.odd || ip.fragment || case.ctx.len() > ICMP_MAX {
        return Counter::DropIcmp;
    }
    let Some(kind) = packet::load::<u8>(case.ctx, ip.offset) else { return Counter::DropUnparsable };
    let own = case.owns(&ip.source);
    match kind {
        // What is on the link believes these, so a link-local address has to be the pod's as well.
        131..=133 | 135 | 136 | 143 => judge_neighbour(case, ip, kind, own),
        // Errors, echo and its reply.
        1..=4 | 128 | 129 if own => case.control(),
        1..=4 | 128 | 129 => Counter::DropSource,
        // Router advertisements and redirects above all.
        _ => Counter::DropIcmp,
    }
}

/// Neighbour discovery, router solicitation, and multicast listener reports.
#[inline(always)]
fn judge_neighbour(case: &Case<'_>, ip: &Ip, kind: u8, own: bool) -> Counter {
    let unspecified = ip.source == [0; 4];
    // An advertisement speaks for its target, and so does the probe of an address (RFC 4862, 5.4.2).
    if kind == 136 || (kind == 135 && unspecified) {
        return match packet::load::<Address>(case.ctx, ip.offset + 8) {
            Some(target) if (own || kind == 135) && case.owns(&target) => case.control(),
            _ => Counter::DropNd,
        };
    }
    if own || unspecified { case.control() } else { Counter::DropNd }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Arp {
    hardware: u16,
    protocol: u16,
    lengths: u16,
    operation: u16,
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}

/// ARP for Ethernet and IPv4 whose sender is the pod, or an address probe.
#[inline(always)]
fn judge_arp(case: &mut Case<'_>) -> Counter {
    let Some(arp) = packet::load::<Arp>(case.ctx, packet::ETH_LEN) else { return Counter::DropUnparsable };
    let sender = culvert_abi::mapped(u32::from_ne_bytes(arp.sender_ip));
    case.event.source_ip = sender;
    let shape = u16::from_be(arp.hardware) == 1
        && u16::from_be(arp.protocol) == ETH_IPV4
        && u16::from_be(arp.lengths) == 0x0604;
    if !shape || arp.sender_mac != case.config.mac || (sender[3] != 0 && !case.owns(&sender)) {
        return Counter::DropArp;
    }
    case.control()
}

/// A client's DHCP, before it has an address or to renew it.
#[inline(always)]
fn is_dhcp(case: &Case<'_>, ip: &Ip) -> bool {
    if ip.protocol != UDP {
        return false;
    }
    let Some((source, destination)) = packet::udp_ports(case.ctx, ip) else { return false };
    if is_v4(&ip.source) {
        return source == 68 && destination == 67 && (ip.source[3] == 0 || case.owns(&ip.source));
    }
    source == 546 && destination == 547 && (is_link_local(&ip.source) || case.owns(&ip.source))
}

#[inline(always)]
fn is_dns(destination: &Address) -> bool {
    let Some(node) = NODE_CONFIG.get(0) else { return false };
    *destination != [0; 4] && node.dns.iter().any(|server| server == destination)
}

#[inline(always)]
fn is_link_local(address: &Address) -> bool {
    u32::from_be(address[0]) >> 22 == 0x3fa
}
