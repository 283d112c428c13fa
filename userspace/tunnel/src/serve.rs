//! Tunnels that peers dial: verified, then each CONNECT offered to the agent.

use std::{future::Future, rc::Rc, sync::Arc, time::Duration};

use tokio::net::TcpStream;

use crate::{
    connect::{AuthorityError, Baggage, ConnectRequest},
    error::{ServeError, StreamError},
    key::{Local, Peer},
    limits::Limits,
    proofs::Proofs,
    stream::TunnelStream,
};

/// Why a request was answered without asking the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The method is not CONNECT.
    #[error("method is not CONNECT")]
    NotConnect,
    /// The authority cannot be used.
    #[error(transparent)]
    Authority(AuthorityError),
}

impl Malformed {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotConnect => "not_connect",
            Self::Authority(error) => error.reason(),
        }
    }
}

/// How the agent refuses an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 400: the request makes no sense here (wrong address, say).
    BadRequest,
    /// 401: policy denies it.
    Denied,
    /// 503: no such target, the application refuses or is silent, or the agent cannot say.
    Unavailable,
}

impl Refusal {
    /// The HTTP status on the wire.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Denied => 401,
            Self::Unavailable => 503,
        }
    }
}

/// What the agent does with served tunnels. Calls come from the worker's own thread.
pub trait Inbound: 'static {
    /// A peer's handshake is done; `took` is the time since the TCP connection was handed over.
    fn proven(&self, peer: &Peer, took: Duration) {
        let _ = (peer, took);
    }

    /// A request was answered with 400 without an offer.
    fn malformed(&self, peer: &Peer, why: Malformed) {
        let _ = (peer, why);
    }

    /// A peer asks for a connection. Runs as a task of its own, until the connection is over: decide, connect to the
    /// application, [`Offer::accept`], [`crate::splice()`].
    fn offered(self: Rc<Self>, offer: Offer) -> impl Future<Output = ()> + 'static;
}

/// A CONNECT that waits for its answer. Dropped unanswered, it is refused with 503.
#[derive(Debug)]
pub struct Offer {
    request: ConnectRequest,
    peer: Rc<Peer>,
}

impl Offer {
    /// What is asked.
    pub fn request(&self) -> &ConnectRequest {
        &self.request
    }

    /// Who asks, as proven by the handshake, and from and to which TCP address.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Waits until the peer gives up (resets the stream, or the tunnel breaks).
    pub async fn gone(&mut self) -> StreamError {
        todo!()
    }

    /// Answers 200. Takes the application's socket and gives it back, because the answer says that it is connected.
    /// `about` describes the destination workload. Fails when the peer has given up; then the socket is closed.
    pub fn accept(self, app: TcpStream, about: &Baggage) -> Result<(TcpStream, TunnelStream), StreamError> {
        let _ = (app, about);
        todo!()
    }

    /// Answers with a refusal.
    pub fn refuse(self, refusal: Refusal) {
        let _ = refusal;
        todo!()
    }
}

/// The served tunnels of one worker thread. A clone is the same server.
#[derive(Debug, Clone)]
pub struct Server {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    proofs: Arc<Proofs>,
}

impl Server {
    /// A server without tunnels. `proofs` is shared by all workers of the agent.
    pub fn new(limits: Limits, proofs: Arc<Proofs>) -> Self {
        Self { inner: Rc::new(Inner { limits, proofs }) }
    }

    /// Serves one TCP connection until its tunnel is over: handshake as `local`, then one task per CONNECT.
    pub async fn serve<I: Inbound>(&self, tcp: TcpStream, local: &Local, inbound: Rc<I>) -> Result<(), ServeError> {
        let _ = (tcp, local, inbound, &self.inner.limits, &self.inner.proofs);
        todo!()
    }

    /// Sends GOAWAY on the tunnels that fit: the peer opens no new streams on them, open ones go on.
    pub fn retire(&self, which: impl Fn(&Local, &Peer) -> bool) {
        let _ = which;
        todo!()
    }

    /// Ends the tunnels that fit, streams included, with a stable snake_case reason.
    pub fn end(&self, which: impl Fn(&Local, &Peer) -> bool, reason: &'static str) {
        let _ = (which, reason);
        todo!()
    }

    /// Refuses new tunnels and sends GOAWAY on all; resolves when the last stream is done.
    pub async fn drain(&self) {
        todo!()
    }

    /// Served tunnels and the streams in them.
    pub fn count(&self) -> (usize, usize) {
        todo!()
    }
}
