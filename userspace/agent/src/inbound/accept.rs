//! Takes a connection that came from the wire.

use std::net::IpAddr;

use crate::{
    accepted::Accepted,
    worker::{Handover, Worker},
};

/// The client's address is used as the source towards the application, so one that means something else inside the pod
/// is refused.
pub(super) fn accept(worker: &Worker, handover: Handover) -> Option<Accepted> {
    let accepted = Accepted::take(worker, handover)?;
    let netns = &accepted.pod.netns;
    let client = accepted.peer.ip();
    if !netns.is_own(accepted.original.ip()) {
        accepted.refuse("not_a_pod_address");
        return None;
    }
    if is_local_only(client) || netns.is_own(client) {
        accepted.refuse("bad_client_address");
        return None;
    }
    Some(accepted)
}

/// Loopback, link-local, multicast and unspecified addresses are nobody's on the wire.
pub(super) fn is_local_only(client: IpAddr) -> bool {
    match client.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_unspecified() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified(),
    }
}
