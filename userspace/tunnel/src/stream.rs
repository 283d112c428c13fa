//! One connection inside a tunnel.

use std::{
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::{
    connect::Baggage,
    error::StreamError,
    key::Peer,
    limits::Limits,
    tunnel::Seated,
    wire::{WireStream, code},
};

/// An open stream: the CONNECT was answered with 200. Made by [`crate::Pool::open`] or [`crate::Offer::accept`], used
/// up by [`crate::splice()`]. Dropping it unfinished resets the stream.
pub struct TunnelStream {
    seated: Seated,
    wire: Box<dyn WireStream>,
    answer: Baggage,
    /// Received and not delivered, in bytes.
    held: usize,
    /// What this stream may hold even when its tunnel holds more than `hard_limit`, in bytes.
    allowance: usize,
    hard_limit: usize,
    recv_done: bool,
    send_done: bool,
}

impl TunnelStream {
    pub(crate) fn new(seated: Seated, wire: Box<dyn WireStream>, answer: Baggage, limits: &Limits) -> Self {
        Self {
            seated,
            wire,
            answer,
            held: 0,
            allowance: limits.small_window as usize,
            hard_limit: limits.squeeze * 4,
            recv_done: false,
            send_done: false,
        }
    }

    /// Who is at the other end of the tunnel.
    pub fn peer(&self) -> &Peer {
        &self.seated.tunnel.peer
    }

    /// What the peer's answer said about the destination workload (a dialled stream; otherwise empty). Hearsay.
    pub fn answer(&self) -> &Baggage {
        &self.answer
    }

    /// Ready when this agent has ended the stream.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.seated.poll_ended(cx)
    }

    /// Ready when the peer has reset the stream, or the tunnel has failed.
    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.wire.poll_reset(cx)
    }

    /// The next bytes, which count as held until they are [`TunnelStream::delivered`].
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        if self.recv_done {
            return Poll::Ready(None);
        }
        let got = self.wire.poll_recv(cx);
        match &got {
            Poll::Ready(Some(Ok(data))) => {
                self.held += data.len();
                self.seated.tunnel.hold(data.len());
                self.recv_done = self.wire.is_recv_done();
                if self.held > self.allowance && self.seated.tunnel.held() > self.hard_limit {
                    return Poll::Ready(Some(Err(StreamError::Ended("memory_pressure"))));
                }
            }
            Poll::Ready(None) => self.recv_done = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        got
    }

    /// Whether END_STREAM has come and all before it was received.
    pub(crate) fn is_recv_done(&self) -> bool {
        self.recv_done
    }

    /// The application has taken these bytes.
    pub(crate) fn delivered(&mut self, bytes: usize) {
        self.held -= bytes;
        self.seated.tunnel.let_go(bytes);
        self.wire.release(bytes);
    }

    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, StreamError>> {
        self.wire.poll_room(cx, want)
    }

    pub(crate) fn send(&mut self, data: Bytes, last: bool) -> Result<(), StreamError> {
        self.send_done |= last;
        self.wire.send(data, last)
    }

    /// Resets the stream: towards the peer this is what a TCP RST is.
    pub(crate) fn abort(&mut self) {
        if !(self.recv_done && self.send_done) {
            (self.recv_done, self.send_done) = (true, true);
            self.wire.reset(code::CONNECT_ERROR);
        }
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.abort();
        self.seated.tunnel.let_go(self.held);
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").field("seated", &self.seated).field("held", &self.held).finish_non_exhaustive()
    }
}
