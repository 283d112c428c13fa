//! The last link of the chain: bytes move until somebody ends it, and the outcome says who.

use std::sync::Arc;

use culvert_tunnel::{AppSocket, End, Revocation, Side, StreamError, Totals, TunnelStream, passthrough, splice};
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

/// Moves the bytes of a connection between the local pod's socket and the far side, and writes its outcome.
pub(crate) async fn carry(pod: TcpStream, far: Legs, mut outcome: Outcome, revocation: Revocation, listed: Listed) {
    outcome.opened();
    let meter = outcome.meter();
    let totals = match far {
        // What was accepted is ready by its listener.
        Legs::Tunnel(stream) if outcome.record.direction == Direction::Outbound => {
            splice(AppSocket::ready(pod), stream, meter, revocation).await
        }
        Legs::Tunnel(stream) => splice(pod, stream, meter, revocation).await,
        Legs::Plain(socket) => passthrough(pod, socket, meter, revocation).await,
    };
    let ending = ending(totals, listed.live(), outcome.record.direction);
    drop(listed);
    outcome.end(ending);
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
