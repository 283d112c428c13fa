//! The last link of the chain: bytes move until somebody ends it, and the outcome says who.

use std::{future::Future, sync::Arc};

use culvert_tunnel::{AppSocket, End, Revocation, Side, StreamError, Totals, TunnelStream, passthrough, splice};
use futures::future::Either;
use tokio::net::TcpStream;

use crate::{
    live::{Listed, Live},
    outcome::{Blame, Decided, Direction, Ending, Failure, Outcome, Step},
    pod::Objection,
};

/// What lies at the far side of the local pod's socket.
pub(crate) enum Legs {
    /// A stream in a tunnel.
    Tunnel(TunnelStream),
    /// A socket.
    Plain(TcpStream),
}

/// A connection that stands from end to end.
pub(crate) struct Carried<K> {
    /// The local pod's socket.
    pub(crate) pod: AppSocket,
    pub(crate) far: Legs,
    pub(crate) outcome: Outcome,
    pub(crate) revocation: Revocation,
    pub(crate) listed: Listed,
    /// What is the connection's own until its end, such as its place.
    pub(crate) kept: K,
}

impl<K> Carried<K> {
    /// Moves the bytes of a connection between the local pod's socket and the far side, and writes its outcome.
    ///
    /// Connections spend their lives in here, so the future is small: nothing of the way to it is in it any more.
    pub(crate) fn carry(self) -> impl Future<Output = ()> {
        let Self { pod, far, mut outcome, revocation, listed, kept } = self;
        outcome.opened();
        listed.live().stands(outcome.record());
        let (meter, direction) = (outcome.meter(), outcome.record().direction);
        let moved = match far {
            // Both kinds of sockets were made ready: what was accepted by its listener, an app leg at its birth.
            Legs::Tunnel(stream) => Either::Left(splice(pod, stream, meter, revocation)),
            Legs::Plain(socket) => Either::Right(Box::pin(passthrough(pod.into_inner(), socket, meter, revocation))),
        };
        async move {
            let ending = ending(moved.await, listed.live(), direction);
            drop(listed);
            outcome.end(ending);
            drop(kept);
        }
    }
}

fn ending(totals: Totals, live: &Arc<Live>, direction: Direction) -> Ending {
    match totals.end {
        End::Closed => Ending::Closed,
        End::Reset(side) => {
            // Near is the local pod, so a reset is the client's or the server's by the direction.
            let blame = if side == Side::Near { Blame::Pod } else { Blame::Peer };
            let (text, reason) = match (side, direction) {
                (Side::Near, Direction::Outbound) => ("the local client reset the connection", "reset_by_app"),
                (Side::Near, Direction::Inbound) => ("the local server reset the connection", "reset_by_app"),
                (Side::Far, _) => ("the peer reset the connection", "reset_by_peer"),
            };
            Ending::Failed(Failure { step: Step::Splice, blame, reason, text: text.to_owned() })
        }
        End::Revoked(reason) => Ending::Revoked(decided(reason, live)),
        End::Failed(StreamError::Ended(reason)) => Ending::Revoked(decided(reason, live)),
        End::Failed(error) => Ending::Failed(Failure {
            step: Step::Splice,
            blame: blame(error.blame()),
            reason: error.reason(),
            text: error.to_string(),
        }),
    }
}

/// The reason with the decision behind it, where one was made.
pub(crate) fn decided(reason: &'static str, live: &Live) -> Decided {
    match live.objection() {
        Some(Objection::Policy(denial)) => Decided {
            reason,
            policy: denial.policy.as_ref().map(|name| name.to_string().into()),
            rule: denial.rule,
            text: Some(format!("no longer allowed: {}", denial.reason)),
        },
        Some(Objection::Moved(text)) => Decided { reason, text: Some((*text).to_owned()), ..Decided::default() },
        None => Decided { reason, ..Decided::default() },
    }
}

/// The tunnel's blame in our words.
pub(crate) fn blame(blame: culvert_tunnel::Blame) -> Blame {
    match blame {
        culvert_tunnel::Blame::Peer => Blame::Peer,
        culvert_tunnel::Blame::Network => Blame::Network,
        culvert_tunnel::Blame::Us => Blame::Us,
    }
}
