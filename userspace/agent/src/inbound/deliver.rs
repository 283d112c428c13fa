//! Uses up a permit: the application's socket in the pod, with the client's address as source.

use std::{io, net::SocketAddr, time::Duration};

use culvert_policy::Permit;
use culvert_redirect::{AppLeg, DialError as SocketError, Leg};
use culvert_tunnel::{AppSocket, Refusal, Revocation, StreamError};
use tokio::time::timeout;

use super::{attribute::Client, authorize::Authorized, tunnel::Offered};
use crate::{
    accepted::Accepted,
    carried::{self, Carried, Legs},
    live::Listed,
    outcome::{Blame, Ending, Step},
    places::Place,
};

/// Patience for the application to take a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Why the application was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// Its socket could not be made, or it refused.
    #[error("the application at {1} was not reached")]
    Socket(#[source] SocketError, SocketAddr),
    /// It did not answer.
    #[error("the application at {0} did not answer within 10 s")]
    Timeout(SocketAddr),
    /// The peer gave up before the application answered.
    #[error("the peer gave up")]
    PeerGone(#[source] StreamError),
    /// Meanwhile the connection is not allowed any more.
    #[error("ended while it was delivered: {0}")]
    Revoked(&'static str),
}

impl DeliverError {
    /// Stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Socket(SocketError::Connect(error), _) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "refused_by_pod"
            }
            Self::Socket(error, _) => error.reason(),
            Self::Timeout(_) => "pod_timeout",
            Self::PeerGone(_) => "peer_gone",
            Self::Revoked(reason) => reason,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            Self::Socket(SocketError::Connect(_), _) | Self::Timeout(_) => Blame::Pod,
            Self::Socket(..) | Self::Revoked(_) => Blame::Us,
            Self::PeerGone(_) => Blame::Peer,
        }
    }
}

/// A connection that the application has taken, with what protects its tuple and its place.
pub(super) type Delivered = Carried<(Leg, Place)>;

/// Connects to the application.
pub(super) async fn deliver(authorized: Authorized) -> Option<Delivered> {
    let (client, permit, revocation, listed) = authorized.into_parts();
    match client {
        Client::Socket(accepted) => socket(accepted, permit, revocation, listed).await,
        Client::Stream(offered) => stream(offered, permit, revocation, listed).await,
    }
}

async fn socket(accepted: Box<Accepted>, permit: Permit, revocation: Revocation, listed: Listed) -> Option<Delivered> {
    let reached = tokio::select! {
        biased;
        reason = revocation.revoked() => Err(DeliverError::Revoked(reason)),
        reached = reach(&accepted.pod, permit) => reached,
    };
    match reached {
        Ok(AppLeg { stream: pod, leg }) => {
            let pod = AppSocket::ready(pod);
            let Accepted { io, outcome, slot, .. } = *accepted;
            return Some(Carried { pod, far: Legs::Plain(io), outcome, revocation, listed, kept: (leg, slot) });
        }
        Err(DeliverError::Revoked(reason)) => {
            let decided = carried::decided(reason, listed.live());
            accepted.outcome.end(Ending::Revoked(decided));
        }
        Err(error) => accepted.fail(Step::Deliver, error.blame(), error.reason(), &error),
    }
    None
}

async fn stream(
    mut offered: Box<Offered>,
    permit: Permit,
    revocation: Revocation,
    listed: Listed,
) -> Option<Delivered> {
    let reached = tokio::select! {
        biased;
        reason = revocation.revoked() => Err(DeliverError::Revoked(reason)),
        error = offered.offer.gone() => Err(DeliverError::PeerGone(error)),
        reached = reach(&offered.pod, permit) => reached,
    };
    let Offered { offer, pod, outcome, slot } = *offered;
    let AppLeg { stream: app, leg } = match reached {
        Ok(app) => app,
        Err(DeliverError::Revoked(reason)) => {
            offer.refuse(Refusal::Denied);
            outcome.end(Ending::Revoked(carried::decided(reason, listed.live())));
            return None;
        }
        Err(error) => {
            offer.refuse(Refusal::Unavailable);
            outcome.fail(Step::Deliver, error.blame(), error.reason(), &error);
            return None;
        }
    };
    match offer.accept(app, &pod.about()) {
        Ok((app, stream)) => Some(Carried {
            pod: AppSocket::ready(app),
            far: Legs::Tunnel(stream),
            outcome,
            revocation,
            listed,
            kept: (leg, slot),
        }),
        Err(error) => {
            let error = DeliverError::PeerGone(error);
            outcome.fail(Step::Deliver, error.blame(), error.reason(), &error);
            None
        }
    }
}

/// Where the permit says, from whom the permit says.
async fn reach(pod: &crate::pod::Pod, permit: Permit) -> Result<AppLeg, DeliverError> {
    let destination = permit.destination();
    match timeout(CONNECT, pod.netns.connect_app(permit.source_ip(), destination)).await {
        Ok(Ok(app)) => Ok(app),
        Ok(Err(error)) => Err(DeliverError::Socket(error, destination)),
        Err(_) => Err(DeliverError::Timeout(destination)),
    }
}
