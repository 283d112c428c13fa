//! What an application says before its request is answered.
//!
//! The client of most protocols speaks first, and its first bytes are there when its connection is taken. They follow
//! the request at once, in the same record: one message less for both agents, and one round trip less for the
//! application. HTTP/2 lets data follow a CONNECT (RFC 9113 section 8.5), and a peer that refuses drops them; it is the
//! peer that has proven to be the destination, so that nobody reads them who would not have read them later.
//!
//! They are kept until the answer. Only when it is certain that no application got them are they said again elsewhere;
//! where there is no room for them at once they follow when the connection stands, like everything after them.

use std::io::{ErrorKind, Read as _};

use bytes::BufMut as _;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{http2::session::Session, meter::Meter};

/// Most that is said early, in bytes. What the application has said beyond it goes the usual way.
const MOST: usize = 4 * 1024;

/// The first bytes of an application, on their way with its request.
#[derive(Debug, Default)]
pub struct Early {
    /// The socket was looked at: once, because what it says of its end it says only once.
    taken: bool,
    bytes: Vec<u8>,
    /// They went with a request, and have not come back.
    said: bool,
    /// They are with a peer that has not said whether it takes the connection.
    out: bool,
    broken: bool,
}

impl Early {
    /// What was taken from the socket.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the socket turned out to be reset, which it tells only once.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether an application may have got bytes although its connection has failed. Then nobody else may get them.
    pub fn is_out(&self) -> bool {
        self.out
    }

    /// Counts as sent what an application has got, or may have got.
    pub fn count(&self, meter: &Meter) {
        meter.add_sent(if self.said { self.bytes.len() } else { 0 });
    }

    /// They are on their way to somebody who may get a part of them.
    pub fn goes_out(&mut self) {
        self.said = true;
        self.out = !self.bytes.is_empty();
    }

    /// The peer has taken the connection.
    pub fn arrives(&mut self) {
        self.out = false;
    }

    /// The peer has not taken the connection, and so nobody has got the bytes.
    pub(crate) fn comes_back(&mut self) {
        (self.said, self.out) = (false, false);
    }

    /// What is still to be said.
    pub(crate) fn into_unsaid(self) -> Vec<u8> {
        if self.said { Vec::new() } else { self.bytes }
    }

    /// Says behind the request of stream `id` what there is to say: what a peer before did not take, or what `app` has to
    /// say now. Nothing when there is no room for it: then it is said by who carries the connection. Gives whether
    /// anything was said.
    pub(crate) fn say(&mut self, session: &mut Session, id: u32, app: Option<&TcpStream>) -> bool {
        let room = session.room_at_once(id).min(MOST);
        if let Some(app) = app.filter(|_| !self.taken && room > 0) {
            self.take(app, room);
        }
        if self.bytes.is_empty() || room < self.bytes.len() {
            return false;
        }
        self.goes_out();
        // A vector takes all of it.
        let _ = session.append(id, self.bytes.len(), |frame| {
            frame.put_slice(&self.bytes);
            Ok(self.bytes.len())
        });
        true
    }

    /// Takes at most `most` bytes from the socket. Its end, if that is what comes, can be read again later.
    fn take(&mut self, app: &TcpStream, most: usize) {
        self.taken = true;
        let mut buffer = [0; MOST];
        // Past the runtime, which has not heard yet what the kernel has for a socket that is this new.
        match (&*SockRef::from(app)).read(&mut buffer[..most]) {
            Ok(got) => self.bytes.extend_from_slice(&buffer[..got]),
            Err(error) => self.broken = !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }
}
