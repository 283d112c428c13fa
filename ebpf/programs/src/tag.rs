//! Whose socket sent a packet.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{bpf_get_listener_sock, bpf_sk_fullsock, bpf_sk_storage_get},
    programs::TcContext,
};
use culvert_abi::AGENT_TAG as TAG;

use crate::maps::AGENT_TAG;

/// Whether the sender is a socket of the agent: the full socket is tagged, or the packet is the
/// SYN-ACK of a tagged listener. The tag is storage of the socket itself: a pod can neither set nor
/// forge it. Needs `__sk_buff.sk` (Linux 5.1) and socket storage (5.2).
#[inline(always)]
pub fn is_agents(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs; the verifier checks the field's use.
    let sk = unsafe { (&raw const (*ctx.skb.skb).__bindgen_anon_2.sk).read_volatile() };
    if sk.is_null() {
        return false;
    }
    // SAFETY: `sk` is not null; the helper takes any socket of a context.
    let full = unsafe { bpf_sk_fullsock(sk) };
    if !full.is_null() {
        return is_tagged(full);
    }
    // SAFETY: as above; a request socket leads to its listener.
    let listener = unsafe { bpf_get_listener_sock(sk) };
    !listener.is_null() && is_tagged(listener)
}

#[inline(always)]
fn is_tagged(sk: *mut bpf_sock) -> bool {
    // SAFETY: `sk` is a full socket and not null; without the create flag nothing is written.
    let value = unsafe { bpf_sk_storage_get(AGENT_TAG.as_ptr(), sk.cast(), core::ptr::null_mut(), 0) }.cast::<u32>();
    // SAFETY: not null, so it points to the map's value type.
    !value.is_null() && unsafe { *value } == TAG
}
