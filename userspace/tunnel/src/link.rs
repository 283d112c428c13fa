//! A tunnel's socket: records in, records out, once per turn each.

use std::{
    cell::{Cell, RefCell},
    io::{self, ErrorKind},
    rc::Rc,
    task::{Context, Poll, ready},
};

use culvert_mtls::is_certificate_refused;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{
    error::StreamError,
    handshake::LARGEST_FLIGHT,
    http2::session::{Asked, Session},
    tls::{CHUNK, Failure, SEALED, Tls},
    turns,
};

/// Bytes that are read at once.
const READ: usize = 128 * 1024;
/// Bytes of a record, or of a handshake message over several, that may wait for the rest. TLS itself allows 64 KiB.
const REST: usize = 96 * 1024;
// What a handshake leaves over is put where there is room for that much.
const _: () = assert!(LARGEST_FLIGHT <= REST);
/// Most bytes of TLS's own that are written together with what is sealed: the end of a handshake, with a chain of certificates.
const OWN: usize = 16 * 1024;
/// Reads before others have their turn.
const READS: usize = 4;
/// Bytes in the socket that are not on their way yet, from which on nothing more is written: what waits there can
/// neither be reordered nor taken back, so that a small message would wait behind all of it.
const UNSENT: u32 = 128 * 1024;

thread_local! {
    /// Where all tunnels of this thread read, one after the other.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ + REST].into());
    /// The buffer of the tunnel that wrote last. One whose socket is full keeps its own.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// A connection with its TLS and HTTP/2 state. Dropping it closes the connection.
pub(crate) struct Link {
    tcp: TcpStream,
    tls: Tls,
    session: Rc<RefCell<Session>>,
    /// Read and not opened: the beginning of a record.
    rest: Vec<u8>,
    /// TLS's own messages, to be written before anything that is sealed later.
    own: Vec<u8>,
    sealed: Option<Sealed>,
    closing: bool,
}

/// Records on their way into the socket.
struct Sealed {
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
}

/// A connection whose handshake is done, and what came with the handshake's last bytes.
pub(crate) struct Shaken {
    pub(crate) tcp: TcpStream,
    pub(crate) tls: Tls,
    /// Bytes that are not opened yet.
    pub(crate) rest: Vec<u8>,
    /// Payload that is opened already.
    pub(crate) early: Vec<u8>,
    /// The end of our side of the handshake, to be written.
    pub(crate) own: Vec<u8>,
}

impl Link {
    /// Begins HTTP/2 on a connection whose handshake is done.
    pub(crate) fn new(shaken: Shaken, session: &Rc<RefCell<Session>>) -> Result<Self, StreamError> {
        let Shaken { tcp, tls, rest, early, own } = shaken;
        // A matter of latency only: a kernel that does not know it carries the bytes all the same.
        let _ = SockRef::from(&tcp).set_tcp_notsent_lowat(UNSENT);
        let mut link = Self { tcp, tls, session: Rc::clone(session), rest, own, sealed: None, closing: false };
        let taken_in = session.borrow_mut().absorb(&early, false);
        taken_in.map_err(|code| link.accuse(code))?;
        Ok(link)
    }

    /// Reads and writes what there is. Gives each request of the peer, `None` when the connection ended as it should.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Asked, StreamError>>> {
        let driven = self.poll_turn(cx);
        if let Poll::Ready(Some(Err(why))) = &driven {
            self.session.borrow_mut().fail(*why);
        }
        driven
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Asked, StreamError>>> {
        self.session.borrow_mut().drive_by(cx.waker());
        for turn in 0.. {
            if let Some(asked) = self.session.borrow_mut().take_asked() {
                return Poll::Ready(Some(Ok(asked)));
            }
            if turn == READS {
                cx.waker().wake_by_ref();
                break;
            }
            match self.poll_read(cx)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(self.ended()),
                Poll::Pending => break,
            }
        }
        ready!(self.poll_flush(cx))?;
        if self.session.borrow().is_over() && !self.closing {
            self.closing = true;
            self.tls.close(&mut self.rest, &mut self.own);
            ready!(self.poll_flush(cx))?;
        }
        if self.closing {
            // Whether the peer still hears that is its own affair.
            let _ = SockRef::from(&self.tcp).shutdown(std::net::Shutdown::Write);
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// The peer has closed.
    fn ended(&self) -> Option<Result<Asked, StreamError>> {
        let done = self.session.borrow().is_empty();
        (!done).then_some(Err(StreamError::Lost(ErrorKind::UnexpectedEof)))
    }

    /// Reads once. False: the peer sends nothing more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        loop {
            ready!(self.tcp.poll_read_ready(cx)).map_err(|e| lost(&e))?;
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let begun = self.rest.len();
                scratch[..begun].copy_from_slice(&self.rest);
                let buffer = &mut scratch[begun..begun + READ];
                match turns::read(&self.tcp, READ, || self.tcp.try_read(buffer)) {
                    Ok(0) => Ok(Some(false)),
                    Ok(bytes) => self.open(&mut scratch[..begun + bytes]).map(Some),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                    Err(error) => Err(lost(&error)),
                }
            });
            if let Some(read) = read.transpose() {
                return Poll::Ready(read);
            }
        }
    }

    /// Opens what was read, and hands it on.
    fn open(&mut self, input: &mut [u8]) -> Result<bool, StreamError> {
        let mut session = self.session.borrow_mut();
        let (used, opened) = self.tls.open(input, &mut self.own, |payload, follows| session.absorb(payload, follows));
        let are_in = session.is_acknowledged();
        drop(session);
        self.rest.clear();
        self.rest.extend_from_slice(&input[used..]);
        match opened {
            Ok(_) if self.rest.len() > REST => Err(StreamError::Lost(ErrorKind::InvalidData)),
            Ok(closed) => Ok(!closed),
            Err(Failure::Payload(code)) => {
                // Records behind the offence are not looked at, and must not keep TLS from sealing the answer to it.
                self.rest.clear();
                Err(self.accuse(code))
            }
            Err(Failure::Tls(error)) => {
                self.tls.last_words(&mut self.rest, &mut self.own);
                // Nothing can be sealed any more, and the alert does not wait for it.
                self.try_own();
                Err(broken(&error, are_in))
            }
        }
    }

    /// The peer breaks the rules: it is told, and that is the end.
    fn accuse(&mut self, code: u32) -> StreamError {
        self.session.borrow_mut().accuse(code);
        // What follows the offence may keep TLS from sealing: its own messages go first.
        self.try_own();
        let _ = self.poll_flush(&mut Context::from_waker(std::task::Waker::noop()));
        StreamError::Protocol(code)
    }

    /// Writes what the socket takes at once of what is sealed and of TLS's own messages.
    fn try_own(&mut self) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if matches!(self.poll_sealed(&mut cx), Poll::Ready(Ok(()))) {
            let _ = self.poll_own(&mut cx);
        }
    }

    /// Ready when all that was to be sent is in the socket.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            ready!(self.poll_sealed(cx))?;
            let has_out = self.session.borrow().has_out();
            if !has_out || self.own.len() > OWN {
                ready!(self.poll_own(cx))?;
            }
            if !has_out {
                return Poll::Ready(Ok(()));
            }
            self.seal()?;
        }
    }

    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if let Some(sealed) = &mut self.sealed {
            ready!(poll_write(&self.tcp, cx, &sealed.buffer[..sealed.end], &mut sealed.at))?;
            SPARE.set(self.sealed.take().map(|sealed| sealed.buffer));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut at = 0;
        let written = poll_write(&self.tcp, cx, &self.own, &mut at);
        self.own.drain(..at);
        written
    }

    /// Seals what the session has to say, behind what TLS has to say.
    fn seal(&mut self) -> Result<(), StreamError> {
        let mut buffer = SPARE.take().unwrap_or_else(|| vec![0; OWN + SEALED].into());
        let (own, out) = buffer.split_at_mut(self.own.len());
        own.copy_from_slice(&self.own);
        let sealed = self.session.borrow_mut().drain(CHUNK, |plain| self.tls.seal(plain, &mut self.rest, out));
        let end = self.own.len() + sealed.map_err(|_| StreamError::Lost(ErrorKind::InvalidData))?;
        self.own.clear();
        self.sealed = Some(Sealed { buffer, at: 0, end });
        Ok(())
    }

    /// The socket, after everything has been said.
    pub(crate) fn into_socket(self) -> TcpStream {
        self.tcp
    }

    /// Gives memory back that an idle connection does not need.
    pub(crate) fn tidy(&mut self) {
        for buffer in [&mut self.rest, &mut self.own] {
            buffer.shrink_to_fit();
        }
        self.session.borrow_mut().tidy();
    }
}

/// Writes `bytes` from `at` on, and moves `at`.
fn poll_write(tcp: &TcpStream, cx: &mut Context<'_>, bytes: &[u8], at: &mut usize) -> Poll<Result<(), StreamError>> {
    while *at < bytes.len() {
        ready!(tcp.poll_write_ready(cx)).map_err(|e| lost(&e))?;
        match tcp.try_write(&bytes[*at..]) {
            Ok(written) => *at += written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(lost(&error))),
        }
    }
    Poll::Ready(Ok(()))
}

fn lost(error: &io::Error) -> StreamError {
    StreamError::Lost(error.kind())
}

/// In TLS 1.3 the client's handshake ends before the server has judged it; its refusal comes later, as an alert. But where
/// we `are_in`, the server having read what came behind our certificate, it may have read all that we said: an alert about a
/// certificate is about its end then, and the words must not be said elsewhere. Nor after alerts about anything else.
fn broken(error: &rustls::Error, are_in: bool) -> StreamError {
    if is_certificate_refused(error) && !are_in {
        StreamError::RefusedByPeer
    } else {
        StreamError::Lost(ErrorKind::InvalidData)
    }
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, Error};

    use super::*;

    #[test]
    fn only_an_alert_about_the_certificate_of_one_who_has_not_let_us_in_is_a_refusal() {
        let lost = StreamError::Lost(ErrorKind::InvalidData);
        for (alert, are_in, wanted) in [
            (AlertDescription::UnknownCA, false, StreamError::RefusedByPeer),
            (AlertDescription::CertificateExpired, false, StreamError::RefusedByPeer),
            (AlertDescription::CertificateExpired, true, lost),
            (AlertDescription::BadRecordMac, false, lost),
            (AlertDescription::InternalError, false, lost),
        ] {
            assert_eq!(broken(&Error::AlertReceived(alert), are_in), wanted, "{alert:?} {are_in}");
        }
        assert_eq!(broken(&Error::DecryptError, false), lost, "our own finding");
    }
}
