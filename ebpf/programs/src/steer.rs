//! `pod_steer`: which socket gets a new connection of the pod.
//!
//! Never asks for the interface: what the pod sends itself by its own address carries the ifindex of
//! `eth0`, not of `lo`. Established connections do not come here.

use aya_ebpf::{
    bindings::{bpf_sk_lookup, sk_action::SK_DROP, sk_action::SK_PASS},
    helpers::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release},
    programs::SkLookupContext,
};
use aya_log_ebpf::info;
use culvert_abi::{APP_LEG_PORT_MAX, APP_LEG_PORT_MIN, Address, Counter, Event, FlowKey, event_kind, mapped, slot};

use crate::{
    maps::{APP_LEGS, LISTENERS, PROBE_FLOWS, WIRE_FLOWS, is_own, own_pod, own_slot},
    packet::{EMPTY, ETH_IPV4, ETH_IPV6, TCP},
    report::Tally,
};

const AF_INET: u32 = 2;

/// Reads a field of the context with one load of its own width, as the verifier wants it.
macro_rules! field {
    ($lookup:expr, $($field:tt)+) => {
        // SAFETY: the context is valid while the program runs and the field is inside it.
        unsafe { (&raw const (*$lookup).$($field)+).read_volatile() }
    };
}

/// The whole decision, counted and reported.
#[inline(always)]
pub fn steer(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    if field!(lookup, protocol) != u32::from(TCP) {
        return SK_PASS;
    }
    let Some(tally) = Tally::of(own_slot()) else { return SK_DROP };
    let v4 = field!(lookup, family) == AF_INET;
    let flow = tuple(lookup, v4);
    let verdict = decide(lookup, &flow, v4);
    log(ctx, &flow, verdict);
    if !verdict.is_drop() {
        tally.count(verdict);
        return SK_PASS;
    }
    tally.drop(verdict, event(&flow, v4));
    SK_DROP
}

#[inline(always)]
fn decide(lookup: *mut bpf_sk_lookup, flow: &FlowKey, v4: bool) -> Counter {
    if flow.remote_ip == flow.local_ip || is_loopback(&flow.local_ip, v4) {
        return Counter::SteerSelf;
    }
    if is_own(&flow.local_ip) {
        return to_pod(lookup, flow, v4);
    }
    if is_own(&flow.remote_ip) {
        let listener = if v4 { slot::OUTBOUND_V4 } else { slot::OUTBOUND_V6 };
        return assign(lookup, listener, Counter::SteerOutbound);
    }
    Counter::SteerForeign
}

/// A connection to an address of the pod: the agent's own, a probe, or one from the wire.
#[inline(always)]
fn to_pod(lookup: *mut bpf_sk_lookup, flow: &FlowKey, v4: bool) -> Counter {
    // From the wire nothing with this tuple comes as far as here: `veth_watch` drops it.
    if APP_LEGS.get_ptr(flow).is_some() {
        return Counter::SteerAppLeg;
    }
    if PROBE_FLOWS.get_ptr(flow).is_some() {
        return Counter::SteerProbe;
    }
    if (APP_LEG_PORT_MIN..=APP_LEG_PORT_MAX).contains(&flow.remote_port) {
        // The agent must not choose this port for an app leg. A lost entry only costs such a leg.
        let _ = WIRE_FLOWS.insert(flow, 1, 0);
    }
    let listener = if v4 { slot::INBOUND_V4 } else { slot::INBOUND_V6 };
    assign(lookup, listener, Counter::SteerInbound)
}

/// Hands the connection to a listener of the agent. Without one it is dropped: nothing goes past.
#[inline(always)]
fn assign(lookup: *mut bpf_sk_lookup, listener: u32, verdict: Counter) -> Counter {
    // SAFETY: map and key are what the helper expects; the result is null or a referenced socket.
    let sk = unsafe { bpf_map_lookup_elem(LISTENERS.as_ptr(), (&raw const listener).cast()) };
    if sk.is_null() {
        return Counter::SteerNoListener;
    }
    // SAFETY: `sk` is a socket that the look-up referenced, released right after.
    let assigned = unsafe {
        let ret = bpf_sk_assign(lookup.cast(), sk, 0);
        bpf_sk_release(sk);
        ret
    };
    if assigned == 0 { verdict } else { Counter::SteerNoListener }
}

#[inline(always)]
fn event(flow: &FlowKey, v4: bool) -> Event {
    Event {
        kind: event_kind::STEER_DROP,
        pod: flow.pod,
        source_ip: flow.remote_ip,
        destination_ip: flow.local_ip,
        source_port: flow.remote_port,
        destination_port: flow.local_port,
        ethertype: if v4 { ETH_IPV4 } else { ETH_IPV6 },
        protocol: TCP,
        ..EMPTY
    }
}

#[inline(always)]
fn tuple(lookup: *const bpf_sk_lookup, v4: bool) -> FlowKey {
    // Both families are read, the other one's fields as zero: loads in branches would be merged into
    // one with a computed offset, which the verifier refuses.
    let (local4, remote4) = (field!(lookup, local_ip4), field!(lookup, remote_ip4));
    let (local6, remote6) = (local_ip6(lookup), remote_ip6(lookup));
    let (local_ip, remote_ip) = if v4 { (mapped(local4), mapped(remote4)) } else { (local6, remote6) };
    // Network byte order in the low half of a word; two bytes wide only since Linux 5.18.
    // SAFETY: the context is valid while the program runs; the verifier allows this load everywhere.
    let remote_port = unsafe { (&raw const (*lookup).remote_port).cast::<u32>().read_volatile() };
    FlowKey {
        local_ip,
        remote_ip,
        local_port: field!(lookup, local_port) as u16,
        remote_port: u16::from_be(remote_port as u16),
        pod: own_pod(),
    }
}

#[inline(always)]
fn local_ip6(lookup: *const bpf_sk_lookup) -> Address {
    [
        field!(lookup, local_ip6[0]),
        field!(lookup, local_ip6[1]),
        field!(lookup, local_ip6[2]),
        field!(lookup, local_ip6[3]),
    ]
}

#[inline(always)]
fn remote_ip6(lookup: *const bpf_sk_lookup) -> Address {
    [
        field!(lookup, remote_ip6[0]),
        field!(lookup, remote_ip6[1]),
        field!(lookup, remote_ip6[2]),
        field!(lookup, remote_ip6[3]),
    ]
}

#[inline(always)]
fn is_loopback(address: &Address, v4: bool) -> bool {
    if v4 {
        return u32::from_be(address[3]) >> 24 == 127;
    }
    address[0] == 0 && address[1] == 0 && address[2] == 0 && u32::from_be(address[3]) == 1
}

/// Removed by the verifier unless logging was asked for: the level is frozen read-only data. The
/// agent writes the counter's name for its number.
#[inline(always)]
fn log(ctx: &SkLookupContext, flow: &FlowKey, verdict: Counter) {
    info!(
        ctx,
        "steer counter={} pod={} source={:i} port={} destination={:i} port={}",
        verdict as u32,
        flow.pod,
        bytes(&flow.remote_ip),
        flow.remote_port,
        bytes(&flow.local_ip),
        flow.local_port
    );
}

#[inline(always)]
pub fn bytes(address: &Address) -> [u8; 16] {
    // SAFETY: both are sixteen bytes without padding.
    unsafe { core::mem::transmute(*address) }
}
