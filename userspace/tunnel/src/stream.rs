//! One connection inside a tunnel.

use std::{
    cell::RefMut,
    fmt,
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    connect::Baggage,
    error::StreamError,
    http2::{code, session::Session},
    key::Peer,
    tunnel::Seated,
};

/// A stream of a tunnel. Made by [`crate::Pool::open`] or [`crate::Offer::accept`], used up by [`crate::splice()`].
/// Dropping it unfinished resets the stream.
pub struct TunnelStream {
    seated: Seated,
    id: u32,
    answer: Option<Arc<Baggage>>,
    answered: bool,
    /// Bytes of the application have followed the request.
    spoken: bool,
}

/// Why a request of ours has no answer.
pub(crate) enum Unanswered {
    /// This agent has ended the tunnel.
    Ended(StreamError),
    /// The stream was reset, or the tunnel is broken.
    Broken(StreamError),
}

impl TunnelStream {
    /// A stream that waits for its answer, ours or the peer's.
    pub(crate) fn new(seated: Seated, id: u32) -> Self {
        Self { seated, id, answer: None, answered: false, spoken: false }
    }

    /// Who is at the other end of the tunnel.
    pub fn peer(&self) -> &Peer {
        &self.seated.tunnel.peer
    }

    pub(crate) fn shared_peer(&self) -> Rc<Peer> {
        Rc::clone(&self.seated.tunnel.peer)
    }

    /// What the peer's answer said about the destination workload, to a dialled stream. Hearsay.
    pub fn answer(&self) -> Option<&Baggage> {
        self.answer.as_deref()
    }

    /// Its number in the tunnel.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The state of the tunnel's connection. Not to be held over anything that runs other tasks.
    pub(crate) fn session(&self) -> RefMut<'_, Session> {
        self.seated.tunnel.session.borrow_mut()
    }

    /// Waits for the answer to our request; gives its status.
    pub(crate) async fn answered(&mut self) -> Result<u16, Unanswered> {
        let (status, baggage) = poll_fn(|cx| {
            if let Poll::Ready(why) = self.seated.poll_ended(cx) {
                return Poll::Ready(Err(Unanswered::Ended(why)));
            }
            self.session().poll_answer(self.id, cx).map_err(Unanswered::Broken)
        })
        .await?;
        (self.answer, self.answered) = (Some(baggage), status == 200);
        Ok(status)
    }

    /// Answers 200.
    pub(crate) fn accept(&mut self, about: &Arc<Baggage>) -> Result<(), StreamError> {
        if let Poll::Ready(why) = self.seated.poll_ended(&mut Context::from_waker(Waker::noop())) {
            return Err(why);
        }
        self.session().accept(self.id, about)?;
        self.answered = true;
        Ok(())
    }

    /// Answers with a failure.
    pub(crate) fn refuse(self, status: u16) {
        self.session().refuse(self.id, status);
    }

    /// Ready when there is nobody to answer.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match self.seated.poll_ended(cx) {
            Poll::Ready(why) => Poll::Ready(why),
            Poll::Pending => self.session().poll_gone(self.id, cx),
        }
    }

    /// Ready when this agent has ended the stream.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.seated.poll_ended(cx)
    }

    /// Bytes of the application have followed the request: an end without an answer cuts them off.
    pub(crate) fn has_spoken(&mut self) {
        self.spoken = true;
    }

    /// Resets the stream: towards the peer this is what a TCP RST is.
    pub(crate) fn abort(&mut self) {
        let code = if self.answered || self.spoken { code::CONNECT_ERROR } else { code::CANCEL };
        self.session().reset(self.id, code);
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.abort();
        self.session().release(self.id);
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").field("seated", &self.seated).field("id", &self.id).finish_non_exhaustive()
    }
}
