//! Takes a connection that a local pod opened.

use crate::{
    accepted::Accepted,
    worker::{Handover, Worker},
};

/// The caller must be the pod itself: whoever reaches the outbound listener from elsewhere would borrow its identity.
pub(super) fn accept(worker: &Worker, handover: Handover) -> Option<Accepted> {
    let accepted = Accepted::take(worker, handover)?;
    if !accepted.pod.netns.is_own(accepted.peer.ip()) {
        accepted.refuse("foreign_source");
        return None;
    }
    Some(accepted)
}
