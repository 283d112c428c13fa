//! Whose socket sent a packet.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_get_listener_sock, bpf_sk_fullsock, bpf_sk_storage_get},
    programs::TcContext,
};
use culvert_abi::{AGENT_TAG as TAG, is_v4};

use crate::{
    maps::AGENT_TAG,
    packet::{Ip, Tcp},
};

const SOCK_STREAM: u32 = 1;

/// Whether the sender is a socket of the agent: the full socket is tagged, or the packet is the
/// SYN-ACK of a tagged listener. The tag is storage of the socket itself: a pod can neither set nor
/// forge it. What a pod with rights over its netns can do is to rewrite the packet on its way here, so
/// that its addresses and ports have to be the socket's. Needs `__sk_buff.sk` (Linux 5.1) and socket
/// storage (5.2).
#[inline(always)]
pub fn is_agents(ctx: &TcContext, ip: &Ip, tcp: &Tcp) -> bool {
    let sk = sender(ctx);
    if sk.is_null() {
        return false;
    }
    // SAFETY: `sk` is not null; the helper takes any socket of a context.
    let full = unsafe { bpf_sk_fullsock(sk) };
    if !full.is_null() {
        return is_tagged(full) && has_tuple(sk, ip, tcp);
    }
    // SAFETY: as above; a request socket leads to its listener.
    let listener = unsafe { bpf_get_listener_sock(sk) };
    !listener.is_null() && is_tagged(listener) && has_tuple(sk, ip, tcp)
}

/// Whether the own socket of one of the pod's connections sent this: not a listener's request or the rest of a
/// connection, for which kernels before 6.13 send by a raw socket of their own. A socket of the agent's that has just
/// closed has lost its port, and is still not the pod's.
#[inline(always)]
pub fn is_pods_connection(ctx: &TcContext) -> bool {
    let sk = sender(ctx);
    if sk.is_null() {
        return false;
    }
    // SAFETY: `sk` is not null; the helper takes any socket of a context.
    let full = unsafe { bpf_sk_fullsock(sk) };
    // SAFETY: not null; the verifier checks the field's use.
    !full.is_null() && unsafe { (&raw const (*full).type_).read_volatile() } == SOCK_STREAM && !is_tagged(full)
}

#[inline(always)]
fn sender(ctx: &TcContext) -> *mut bpf_sock {
    // SAFETY: the context is valid while the program runs; the verifier checks the field's use.
    unsafe { (&raw const (*ctx.skb.skb).__bindgen_anon_2.sk).read_volatile() }
}

#[inline(always)]
fn is_tagged(sk: *mut bpf_sock) -> bool {
    // SAFETY: `sk` is a full socket and not null; without the create flag nothing is written.
    let value = unsafe { bpf_sk_storage_get(AGENT_TAG.as_ptr(), sk.cast(), core::ptr::null_mut(), 0) }.cast::<u32>();
    // SAFETY: not null, so it points to the map's value type.
    !value.is_null() && unsafe { *value } == TAG
}

/// Whether a segment is from and to where its socket is. Each word is read by itself: the verifier knows the
/// socket by its fields only.
#[inline(always)]
fn has_tuple(sk: *const bpf_sock, ip: &Ip, tcp: &Tcp) -> bool {
    macro_rules! read {
        ($($field:tt)+) => {
            // SAFETY: `sk` is a socket and not null; these fields are in what all kinds of sockets have in common.
            unsafe { (&raw const (*sk).$($field)+).read_volatile() }
        };
    }
    if read!(src_port) != u32::from(tcp.source_port) || u16::from_be(read!(dst_port)) != tcp.destination_port {
        return false;
    }
    if is_v4(&ip.source) {
        return read!(src_ip4) == ip.source[3] && read!(dst_ip4) == ip.destination[3];
    }
    read!(src_ip6[0]) == ip.source[0]
        && read!(src_ip6[1]) == ip.source[1]
        && read!(src_ip6[2]) == ip.source[2]
        && read!(src_ip6[3]) == ip.source[3]
        && read!(dst_ip6[0]) == ip.destination[0]
        && read!(dst_ip6[1]) == ip.destination[1]
        && read!(dst_ip6[2]) == ip.destination[2]
        && read!(dst_ip6[3]) == ip.destination[3]
}
