//! One CONNECT of a peer, from question to answer.

use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::net::TcpStream;

use crate::{
    connect::{Baggage, ConnectRequest},
    error::StreamError,
    key::Peer,
    stream::TunnelStream,
};

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

/// A CONNECT that waits for its answer. Dropped unanswered, it is refused with 503.
pub struct Offer {
    request: Box<ConnectRequest>,
    waiting: Option<TunnelStream>,
    peer: std::rc::Rc<Peer>,
}

impl Offer {
    pub(super) fn new(request: Box<ConnectRequest>, stream: TunnelStream) -> Self {
        let peer = stream.shared_peer();
        Self { request, waiting: Some(stream), peer }
    }

    /// What is asked.
    pub fn request(&self) -> &ConnectRequest {
        &self.request
    }

    /// Who asks, as proven by the handshake, and from and to which TCP address.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Waits until there is nobody to answer: the peer has reset the stream, the tunnel is over or was ended. For use
    /// beside the connect to the application.
    pub async fn gone(&mut self) -> StreamError {
        poll_fn(|cx| self.poll_gone(cx)).await
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match &mut self.waiting {
            Some(stream) => stream.poll_gone(cx),
            None => Poll::Pending,
        }
    }

    /// Answers 200. Takes the application's socket and gives it back, because the answer says that it is connected.
    /// `about` describes the destination workload. Fails when the peer has given up; then the socket is closed.
    pub fn accept(mut self, app: TcpStream, about: &Arc<Baggage>) -> Result<(TcpStream, TunnelStream), StreamError> {
        let mut stream = self.waiting.take().ok_or(StreamError::Ended("answered_twice"))?;
        stream.accept(about)?;
        Ok((app, stream))
    }

    /// Answers with a refusal.
    pub fn refuse(mut self, refusal: Refusal) {
        self.answer(refusal);
    }

    fn answer(&mut self, refusal: Refusal) {
        if let Some(stream) = self.waiting.take() {
            stream.refuse(refusal.status());
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.answer(Refusal::Unavailable);
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("request", &self.request).field("peer", &self.peer).finish_non_exhaustive()
    }
}
