//! One connection inside a tunnel.

use std::rc::Rc;

use crate::{connect::Baggage, key::Peer};

/// An open stream: the CONNECT was answered with 200. Made by [`crate::Pool::open`] or [`crate::Offer::accept`], used
/// up by [`crate::splice()`]. Dropping it unfinished resets the stream.
#[derive(Debug)]
pub struct TunnelStream {
    pub(crate) peer: Rc<Peer>,
    pub(crate) answer: Baggage,
}

impl TunnelStream {
    /// Who is at the other end of the tunnel.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What the peer's answer said about the destination workload (a dialled stream; otherwise empty). Hearsay.
    pub fn answer(&self) -> &Baggage {
        &self.answer
    }
}
