//! The wire behind small traits: what pool, server and splice need of HTTP/2, and nothing of any library.
//!
//! Beginning with the h2 crate ([`h2`]); another codec has to implement the same four traits. All of them are polled
//! on one thread, and a stream is polled by one task only.

pub(crate) mod h2;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::{
    connect::{Baggage, ConnectRequest},
    error::StreamError,
    serve::Malformed,
};

/// HTTP/2 error codes (RFC 9113 section 7) that we send or tell apart.
pub(crate) mod code {
    pub(crate) const NO_ERROR: u32 = 0x0;
    pub(crate) const REFUSED_STREAM: u32 = 0x7;
    pub(crate) const CANCEL: u32 = 0x8;
    /// "The connection established in response to a CONNECT request was reset or abnormally closed."
    pub(crate) const CONNECT_ERROR: u32 = 0xa;
}

/// The whole connection: whoever owns this drives all of its streams.
pub(crate) trait Conversation {
    /// Reads and writes what there is. Gives each CONNECT of the peer (serving side), `None` when the conversation
    /// ended as it should.
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Asked, StreamError>>>;

    /// Sends a PING; at most one may be unanswered.
    fn ping(&mut self);

    /// Ready when the PING has been answered.
    fn poll_pong(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Lets the peer have this many bytes in flight over all streams, what is held for slow readers included.
    fn set_window(&mut self, bytes: usize);

    /// Lets the peer send so much on each stream before it is taken, on open streams too. False when that cannot be
    /// said now, because the last such word is not acknowledged.
    fn set_stream_window(&mut self, bytes: u32) -> bool;

    /// Tells the peer to open no more streams; the conversation ends with the last one.
    fn wind_down(&mut self);
}

/// A request of the peer.
pub(crate) enum Asked {
    /// A CONNECT that waits for its answer.
    Connect(Box<ConnectRequest>, Box<dyn Responder>),
    /// Something else, which has been answered already.
    Malformed(Malformed),
}

/// Opens streams on a dialled conversation. Dropping it lets the conversation end with its last stream.
pub(crate) trait Opener {
    /// How many streams the peer allows at once, or why it allows none any more.
    fn limit(&mut self) -> Result<usize, StreamError>;

    /// Sends a CONNECT.
    fn open(&mut self, request: &ConnectRequest) -> Result<Opening, StreamError>;
}

/// A CONNECT on its way.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Answer, StreamError>>>>;

/// The answer to a CONNECT of ours.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) baggage: Baggage,
    pub(crate) stream: Box<dyn WireStream>,
}

/// Answers a CONNECT of the peer.
pub(crate) trait Responder {
    /// Ready when the peer has given up.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<StreamError>;

    /// Answers 200.
    fn accept(self: Box<Self>, about: &Baggage) -> Result<Box<dyn WireStream>, StreamError>;

    /// Answers with a failure.
    fn refuse(self: Box<Self>, status: u16);
}

/// One open stream.
pub(crate) trait WireStream {
    /// The next bytes from the peer, `None` after END_STREAM. Nothing is given back to the window by this.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>>;

    /// Whether END_STREAM has come and nothing is left to receive.
    fn is_recv_done(&self) -> bool;

    /// Gives `bytes` back to the stream's window: the application has taken them.
    fn release(&mut self, bytes: usize);

    /// How many bytes may be sent now, at least one. `want` is what there is to send.
    fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, StreamError>>;

    /// Sends bytes for which there is room, with END_STREAM when they are the last.
    fn send(&mut self, data: Bytes, last: bool) -> Result<(), StreamError>;

    /// Resets the stream. Nothing may be sent after this.
    fn reset(&mut self, code: u32);

    /// Ready when the peer has reset the stream or the conversation has failed, also while nothing is sent.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError>;
}
