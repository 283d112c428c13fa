//! `veth_watch` and `probe_mark`: what goes to the pod.

use aya_ebpf::{helpers::generated::bpf_skb_cgroup_id, programs::TcContext};
use aya_log_ebpf::info;
use culvert_abi::{Counter, FlowKey, PROBE_MARK, PodConfig, event_kind};

use crate::{
    DROP, NEXT,
    maps::{APP_LEGS, NODE_CONFIG, POD_POLICY, PROBE_FLOWS, own_pod},
    packet::{self, ETH_IPV4, ETH_IPV6, Ip, NO_TCP, TCP, Tcp},
    report::Tally,
    steer::bytes,
};

/// Judges one packet to the pod.
#[inline(always)]
pub fn watch(ctx: &TcContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let pod = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: entries are replaced whole by the agent; a stale read is one packet old at worst.
    let Some(config) = (unsafe { POD_POLICY.get(pod) }) else { return NEXT };
    let Some(tally) = Tally::of(config.slot) else { return DROP };
    let Some(ip) = header(ctx) else { return NEXT };
    if ip.protocol != TCP && !ip.odd {
        return NEXT;
    }
    // A fragment or a header behind extensions could hide the tuple of an app leg.
    let Some(tcp) = packet::tcp(ctx, &ip) else {
        let flow = packet::sent_to(pod, &ip, &NO_TCP);
        return refuse(ctx, tally, Counter::DropUnparsable, &flow, &ip, &NO_TCP);
    };
    let flow = packet::sent_to(pod, &ip, &tcp);
    let forged = ip.source == ip.destination;
    // Established look-ups come before sk_lookup: such a segment would reach the app past the agent.
    if forged || APP_LEGS.get_ptr(&flow).is_some() {
        let counter = if forged { Counter::DropSelfForged } else { Counter::DropAppLeg };
        return refuse(ctx, tally, counter, &flow, &ip, &tcp);
    }
    if tcp.opens() {
        recognise_probe(ctx, tally, config, &flow);
    }
    NEXT
}

/// Enters a SYN of kubelet to a probe port into `probe_flows` before the pod sees it; any other SYN
/// ends an exemption that its tuple may have had.
#[inline(always)]
fn recognise_probe(ctx: &TcContext, tally: Tally, config: &PodConfig, flow: &FlowKey) {
    if is_kubelets(ctx) && is_probe_port(config, flow.local_port) {
        tally.count(Counter::WatchProbe);
        // A lost entry fails the probe, which kubelet repeats.
        let _ = PROBE_FLOWS.insert(flow, 1, 0);
        log(ctx, flow, Counter::WatchProbe);
    } else if PROBE_FLOWS.get_ptr(flow).is_some() {
        let _ = PROBE_FLOWS.remove(flow);
    }
}

/// Whether a socket of kubelet's cgroup sent this. A forwarded packet has no socket here.
#[inline(always)]
fn is_kubelets(ctx: &TcContext) -> bool {
    let Some(node) = NODE_CONFIG.get(0) else { return false };
    // SAFETY: the context is valid while the program runs. Linux 4.18.
    node.kubelet_cgroup != 0 && unsafe { bpf_skb_cgroup_id(ctx.skb.skb) } == node.kubelet_cgroup
}

#[inline(always)]
fn is_probe_port(config: &PodConfig, port: u16) -> bool {
    port != 0 && config.probe_ports.contains(&port)
}

#[inline(always)]
fn refuse(ctx: &TcContext, tally: Tally, counter: Counter, flow: &FlowKey, ip: &Ip, tcp: &Tcp) -> i32 {
    log(ctx, flow, counter);
    let ethertype = if culvert_abi::is_v4(&ip.source) { ETH_IPV4 } else { ETH_IPV6 };
    let event = packet::event(ctx, event_kind::WATCH_DROP, flow.pod, ethertype);
    tally.drop(counter, packet::with_tcp(packet::with_ip(event, ip), tcp));
    DROP
}

/// Removed by the verifier unless logging was asked for.
#[inline(always)]
fn log(ctx: &TcContext, flow: &FlowKey, verdict: Counter) {
    info!(
        ctx,
        "watch counter={} pod={} source={:i} port={} destination={:i} port={}",
        verdict as u32,
        flow.pod,
        bytes(&flow.remote_ip),
        flow.remote_port,
        bytes(&flow.local_ip),
        flow.local_port
    );
}

/// Inside the pod: marks a probe's SYN. With `tcp_fwmark_accept=1` the connection inherits the mark,
/// and rule 94 sends the app's replies out by the wire.
#[inline(always)]
pub fn mark(ctx: &TcContext) -> i32 {
    let Some(ip) = header(ctx) else { return NEXT };
    if ip.protocol != TCP {
        return NEXT;
    }
    let Some(tcp) = packet::tcp(ctx, &ip) else { return NEXT };
    if tcp.opens() && PROBE_FLOWS.get_ptr(&packet::sent_to(own_pod(), &ip, &tcp)).is_some() {
        ctx.set_mark(PROBE_MARK);
    }
    NEXT
}

/// The IP header of a packet, if it has one.
#[inline(always)]
fn header(ctx: &TcContext) -> Option<Ip> {
    // SAFETY: the context is valid while the program runs.
    match u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16) {
        ETH_IPV4 => packet::ipv4(ctx),
        ETH_IPV6 => packet::ipv6(ctx),
        _ => None,
    }
}
