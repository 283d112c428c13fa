//! The wire on the h2 crate.
//!
//! h2 returns window to the peer for a stream and for the connection together, when the stream's bytes are released.
//! So that a slow reader does not eat the connection's window, what streams hold is added to the connection's target
//! window ([`Conversation::set_window`]); the stream's own window stays as it is.

mod client;
mod io;
mod request;
mod server;
mod stream;

pub(crate) use client::dial;
pub(crate) use server::serve;

use h2::{Ping, PingPong};
use std::{
    io::ErrorKind,
    task::{Context, Poll},
};

use crate::error::StreamError;

/// Streams that we have reset are remembered this many at a time, so that what the peer sent before it knew is not
/// taken for a mistake.
const REMEMBERED_RESETS: usize = 1024;

/// What an error of h2 means to a stream.
pub(super) fn stream_error(error: &h2::Error) -> StreamError {
    let code = error.reason().map_or(0, u32::from);
    match error.get_io() {
        Some(broken) if broken.kind() == io::REFUSED_BY_PEER => StreamError::RefusedByPeer,
        Some(broken) => StreamError::Lost(broken.kind()),
        None if error.is_reset() && error.is_remote() => StreamError::Reset(code),
        None if error.is_go_away() && error.is_remote() => StreamError::GoAway(code),
        None if error.is_library() => StreamError::Protocol(code),
        None => StreamError::Lost(ErrorKind::Other),
    }
}

/// PING and its answer.
struct Pinger(Option<PingPong>);

impl Pinger {
    fn ping(&mut self) {
        if let Some(pinger) = &mut self.0 {
            // It fails while one is unanswered, or when the connection is over; the deadline covers both.
            let _ = pinger.send_ping(Ping::opaque());
        }
    }

    fn poll_pong(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(pinger) => match pinger.poll_pong(cx) {
                Poll::Ready(Ok(_)) => Poll::Ready(()),
                _ => Poll::Pending,
            },
            None => Poll::Pending,
        }
    }
}

/// A window as h2 takes it.
fn window(bytes: usize) -> u32 {
    const MAX: usize = (1 << 31) - 1;
    u32::try_from(bytes.min(MAX)).unwrap_or(u32::MAX >> 1)
}
