//! A connection that was taken from a listener: the first link of the chain, the same in both directions.

use std::{error::Error, net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;

use crate::{
    outcome::{Blame, Decided, Direction, Ending, Outcome, Step},
    places::Place,
    pod::Pod,
    worker::{Handover, Worker},
};

/// A socket with its place, its pod and the duty to say how it ends. Dropping it at any point resets the client: there
/// is no silent end.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub io: TcpStream,
    /// The other end of the socket.
    pub peer: SocketAddr,
    /// What the client called.
    pub original: SocketAddr,
    /// The local pod.
    pub pod: Arc<Pod>,
    /// What will be written about it.
    pub outcome: Outcome,
    /// Its place.
    pub slot: Place,
}

impl Accepted {
    /// Takes a handed-over socket: reads the original destination, closes what called the listener
    /// itself (that would be a loop).
    pub fn take(worker: &Worker, handover: Handover) -> Option<Self> {
        let Handover { socket, peer, listener, direction, pod, slot } = handover;
        let original = match socket.local_addr() {
            Ok(address) => canonical(address),
            Err(error) => {
                tracing::warn!(%error, pod = %pod.uid, "an accepted socket has no address");
                return None;
            }
        };
        let peer = canonical(peer);
        let outcome = Outcome::begin(worker.shared.sink.clone(), direction, peer, original);
        let io = match tokio::net::TcpStream::from_std(socket) {
            Ok(io) => io,
            Err(error) => {
                outcome.fail(Step::Accept, Blame::Us, "not_registered", &error);
                return None;
            }
        };
        let accepted = Self { io, peer, original, pod, outcome, slot };
        if original == listener {
            accepted.refuse("own_listener");
            return None;
        }
        let mut accepted = accepted;
        let workload = accepted.pod.workload();
        match direction {
            Direction::Outbound => accepted.outcome.note().src.known(&workload),
            Direction::Inbound => accepted.outcome.note().dst.known(&workload),
        }
        Some(accepted)
    }

    /// Refused by us, for a reason without a policy: the client sees a reset.
    pub fn refuse(self, reason: &'static str) {
        self.outcome.deny(reason);
    }

    /// Refused by us, by a decision: the client sees a reset.
    pub fn deny(self, decided: Decided) {
        self.outcome.end(Ending::Denied(decided));
    }

    /// A step failed: the client sees a reset.
    pub fn fail(self, step: Step, blame: Blame, reason: &'static str, error: &dyn Error) {
        self.outcome.fail(step, blame, reason, error);
    }

    /// For a socket that becomes a tunnel, which says itself how it ends. A splice takes the socket armed.
    #[expect(deprecated, reason = "deprecated for lingers that block; taking a linger away never does")]
    pub fn disarm(&self) {
        // A socket whose option cannot be changed is dead already; the splice will see it.
        let _ = self.io.set_linger(None);
    }
}

/// IPv4 in its own form.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
