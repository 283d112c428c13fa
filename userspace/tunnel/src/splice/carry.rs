//! A connection between an application's socket and a stream of a tunnel.
//!
//! Bytes from the application are read straight into the tunnel's outgoing frames. Bytes from the tunnel are written to
//! the socket by the tunnel itself ([`App`]); only what the socket did not take waits in the stream and is written here.

use std::{
    future::Future,
    io::{ErrorKind, IoSlice},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BufMut as _;
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::{
    End, Side, Totals,
    socket::{self, AppSocket, Look},
};
use crate::{
    error::StreamError,
    http2::{
        code,
        session::{Given, Near},
    },
    meter::Meter,
    revoke::Revocation,
    stream::TunnelStream,
    turns,
};

/// Bytes asked of a socket that sends little.
const SMALLEST_READ: usize = 4 * 1024;
/// Bytes asked of a socket under bulk.
const LARGEST_READ: usize = 64 * 1024;
/// After so many bytes in one direction others have their turn.
const TURN: usize = 256 * 1024;

/// A connection that is carried by a tunnel.
pub(super) struct Carry {
    app: Rc<TcpStream>,
    stream: TunnelStream,
    meter: Arc<Meter>,
    revocation: Revocation,
    read_size: usize,
    /// The application has said FIN, or nobody wants its bytes any more.
    outward_closed: bool,
    /// The application was told the end.
    inward_closed: bool,
    /// Whether we wait for the socket to be readable: it would wake us if it were reset.
    watches: bool,
    /// The socket was reset before the connection stood.
    broken: bool,
    /// What it said before that and goes before all that it says now.
    unsaid: Vec<u8>,
    look: Option<Look>,
}

/// Where the tunnel delivers.
struct App {
    tcp: Rc<TcpStream>,
    meter: Arc<Meter>,
}

impl Near for App {
    fn give(&self, bytes: &[u8], more: bool) -> Given {
        // More follows at once: the kernel need not send a segment for this part alone.
        let flags = if more { libc::MSG_MORE } else { 0 };
        let send = || SockRef::from(&*self.tcp).send_with_flags(bytes, flags | libc::MSG_NOSIGNAL);
        match self.tcp.try_io(Interest::WRITABLE, send) {
            Ok(taken) => {
                self.meter.add_received(taken);
                Given::Took(taken)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Given::Took(0),
            Err(_) => Given::Broken,
        }
    }
}

/// Written out, because thousands wait in it: an `async fn` would keep a second copy of what it was given.
impl Future for Carry {
    type Output = Totals;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Totals> {
        let end = std::task::ready!(self.poll_end(cx));
        if end != End::Closed {
            socket::arm(&self.app);
            self.stream.abort();
        }
        Poll::Ready(Totals { sent: self.meter.sent(), received: self.meter.received(), end })
    }
}

impl Carry {
    pub(super) fn new(app: AppSocket, stream: TunnelStream, meter: Arc<Meter>, revocation: Revocation) -> Self {
        let AppSocket { tcp, broken, unsaid } = app;
        let app = Rc::new(tcp);
        let near = App { tcp: Rc::clone(&app), meter: Arc::clone(&meter) };
        stream.session().attach(stream.id(), Box::new(near));
        Self {
            app,
            stream,
            meter,
            revocation,
            read_size: SMALLEST_READ,
            outward_closed: false,
            inward_closed: false,
            watches: false,
            broken,
            unsaid,
            look: None,
        }
    }

    /// The order is the order of precedence of the recorded end: our own decisions, then the bytes, then resets.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(reason) = self.revocation.poll(cx) {
            return Poll::Ready(End::Revoked(reason));
        }
        if let Poll::Ready(ended) = self.stream.poll_ended(cx) {
            return Poll::Ready(end_of(ended));
        }
        if self.broken {
            return Poll::Ready(End::Reset(Side::Near));
        }
        let reset = self.stream.session().poll_gone(self.stream.id(), cx);
        if let Err(end) = self.deliver(cx) {
            // What it said before it stopped listening, such as why it refuses an upload, is on its way all the same.
            self.collect_last(cx);
            return Poll::Ready(end);
        }
        self.watches = false;
        if let Err(end) = self.collect(cx) {
            return Poll::Ready(end);
        }
        if let (Poll::Ready(why), false) = (reset, self.is_closed())
            && let Err(end) = self.gone(why)
        {
            return Poll::Ready(end);
        }
        if self.is_closed() {
            return Poll::Ready(End::Closed);
        }
        if self.watches {
            self.look = None;
        } else if self.look.get_or_insert_default().poll_reset(cx, &self.app).is_ready() {
            return Poll::Ready(End::Reset(Side::Near));
        }
        Poll::Pending
    }

    fn is_closed(&self) -> bool {
        self.inward_closed && self.outward_closed
    }

    /// Writes what the tunnel could not deliver, and the end after it.
    fn deliver(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let id = self.stream.id();
        while !self.inward_closed {
            let session = self.stream.session();
            if session.is_near_broken(id) {
                return Err(End::Reset(Side::Near));
            }
            let (first, second) = session.queued(id);
            if first.is_empty() {
                if session.is_recv_done(id) {
                    socket::finish(&self.app).map_err(|_| End::Reset(Side::Near))?;
                    self.inward_closed = true;
                }
                return Ok(());
            }
            if self.app.poll_write_ready(cx).map_err(|_| End::Reset(Side::Near))?.is_pending() {
                return Ok(());
            }
            let written = self.app.try_write_vectored(&[IoSlice::new(first), IoSlice::new(second)]);
            drop(session);
            match written {
                Ok(bytes) => {
                    self.meter.add_received(bytes);
                    self.stream.session().took(id, bytes);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(End::Reset(Side::Near)),
            }
        }
        Ok(())
    }

    /// Reads what the application has sent into the tunnel, as far as there is room.
    fn collect(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if self.say_rest(cx).is_pending() {
            return Ok(());
        }
        let mut moved = 0;
        while !self.outward_closed {
            if self.app.poll_read_ready(cx).map_err(|_| End::Reset(Side::Near))?.is_pending() {
                self.watches = true;
                return Ok(());
            }
            if moved >= TURN {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            let room = match self.stream.session().poll_room(self.stream.id(), cx) {
                Poll::Ready(Ok(room)) => room.min(self.read_size),
                // What it means that the stream was reset is looked at when all bytes are delivered.
                Poll::Ready(Err(_)) | Poll::Pending => return Ok(()),
            };
            let read = self.stream.session().append(self.stream.id(), room, |buffer| {
                turns::read(&self.app, room, || self.app.try_read_buf(buffer))
            });
            match read {
                Ok(0) => {
                    self.stream.session().finish(self.stream.id());
                    self.outward_closed = true;
                }
                Ok(bytes) => {
                    self.meter.add_sent(bytes);
                    self.fit(bytes, room);
                    moved += bytes;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(End::Reset(Side::Near)),
            }
        }
        Ok(())
    }

    /// Reads what an application has sent before it broke. Never its end: what was cut off must not look whole.
    fn collect_last(&mut self, cx: &mut Context<'_>) {
        if self.say_rest(cx).is_pending() {
            return;
        }
        let mut moved = 0;
        while !self.outward_closed && moved < TURN {
            let Poll::Ready(Ok(room)) = self.stream.session().poll_room(self.stream.id(), cx) else { return };
            let read = self.stream.session().append(self.stream.id(), room, |buffer| {
                turns::read(&self.app, room, || self.app.try_read_buf(buffer))
            });
            match read {
                Ok(bytes) if bytes > 0 => {
                    self.meter.add_sent(bytes);
                    moved += bytes;
                }
                _ => return,
            }
        }
    }

    /// What was taken from the socket before there was room for it.
    fn say_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.unsaid.is_empty() && !self.outward_closed {
            let Poll::Ready(Ok(room)) = self.stream.session().poll_room(self.stream.id(), cx) else {
                return Poll::Pending;
            };
            let part = room.min(self.unsaid.len());
            // A vector takes all of it.
            let _ = self.stream.session().append(self.stream.id(), part, |frame| {
                frame.put_slice(&self.unsaid[..part]);
                Ok(part)
            });
            self.meter.add_sent(part);
            self.unsaid.drain(..part);
        }
        Poll::Ready(())
    }

    /// Asks for more when reads fill what there is, and for less when they do not.
    fn fit(&mut self, got: usize, room: usize) {
        if got == room {
            self.read_size = (self.read_size * 4).min(LARGEST_READ);
        } else if got < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(SMALLEST_READ);
        }
    }

    /// The peer has reset the stream, or the tunnel is broken.
    ///
    /// NO_ERROR and CANCEL say that the peer wants nothing more; NO_ERROR that it has sent everything as well.
    fn gone(&mut self, why: StreamError) -> Result<(), End> {
        let received = self.stream.session().is_recv_done(self.stream.id());
        match why {
            StreamError::Reset(code::NO_ERROR) | StreamError::Reset(code::CANCEL) if received => {
                self.stop_collecting();
                Ok(())
            }
            StreamError::Reset(code::NO_ERROR) => {
                self.stop_collecting();
                let delivered = self.stream.session().queued(self.stream.id()).0.is_empty();
                if delivered {
                    socket::finish(&self.app).map_err(|_| End::Reset(Side::Near))?;
                    self.inward_closed = true;
                }
                Ok(())
            }
            // Both ends have said everything, and the peer has closed the tunnel after it: what waits is delivered.
            StreamError::Lost(_) | StreamError::GoAway(_) if received && self.outward_closed => Ok(()),
            why => Err(end_of(why)),
        }
    }

    fn stop_collecting(&mut self) {
        self.outward_closed = true;
        self.stream.session().forgo(self.stream.id());
    }
}

fn end_of(why: StreamError) -> End {
    match why {
        StreamError::Reset(_) => End::Reset(Side::Far),
        StreamError::Ended(reason) => End::Revoked(reason),
        why => End::Failed(why),
    }
}
