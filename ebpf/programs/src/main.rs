//! The kernel side of culvert.
//!
//! | program | hook | question |
//! |---|---|---|
//! | `pod_steer` | sk_lookup, pod's netns | which socket gets this new connection? |
//! | `veth_guard` | tcx ingress or clsact, host veth | may this packet leave the pod? |
//! | `veth_watch` | tcx egress or clsact, host veth | is this kubelet's probe; may it enter? |
//! | `probe_mark` | tcx ingress or clsact, pod's interface | shall the reply go out by the wire? |
//!
//! Whatever cannot be answered is dropped. Classifiers return -1, which is `TCX_NEXT` and, for
//! clsact, `TC_ACT_UNSPEC`: the programs of the CNI behind them still run.
#![no_std]
#![no_main]

mod guard;
mod maps;
mod packet;
mod report;
mod steer;
mod tag;
mod watch;

use aya_ebpf::{
    macros::{classifier, sk_lookup},
    programs::{SkLookupContext, TcContext},
};

/// Go on with the next program of the chain: `TCX_NEXT`, `TC_ACT_UNSPEC`.
const NEXT: i32 = -1;
/// `TCX_DROP`, `TC_ACT_SHOT`.
const DROP: i32 = 2;

/// Steers each new connection of the pod (sk_lookup, Linux 5.9).
#[sk_lookup]
pub fn pod_steer(ctx: SkLookupContext) -> u32 {
    steer::steer(&ctx)
}

/// Guards what leaves the pod (tcx from Linux 6.6, else clsact).
#[classifier]
pub fn veth_guard(ctx: TcContext) -> i32 {
    guard::guard(&ctx)
}

/// Watches what goes to the pod.
#[classifier]
pub fn veth_watch(ctx: TcContext) -> i32 {
    watch::watch(&ctx)
}

/// Marks probes inside the pod.
#[classifier]
pub fn probe_mark(ctx: TcContext) -> i32 {
    watch::mark(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// Some helpers are only for GPL-compatible programs; Apache-2.0 alone is not on the kernel's list.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
