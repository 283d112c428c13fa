//! The two kinds of legs: a socket, and a stream of a tunnel.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, Interest},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use super::queue::Queue;
use crate::{error::StreamError, stream::TunnelStream, wire::code};

/// A read buffer when little comes, in bytes.
const SMALLEST_READ: usize = 16 * 1024;
/// A read buffer under bulk, in bytes.
const LARGEST_READ: usize = 256 * 1024;
/// How often a socket that is not being read is asked whether it was reset.
const LOOK_FOR_RESET: Duration = Duration::from_secs(2);
/// Slices per write.
const SLICES: usize = 16;

/// Why a leg cannot go on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Broken {
    /// The other end of the leg has reset it.
    Reset,
    /// The tunnel under the leg has failed.
    Failed(StreamError),
    /// This agent has ended it.
    Ended(&'static str),
}

/// One end of a splice.
pub(super) trait Leg {
    /// Takes what there is into the queue, when there is room for it. Ready when that changed the queue.
    fn poll_take(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<Result<(), Broken>>;

    /// Passes on from the queue, and the end after the last byte. Ready with the number of bytes taken out.
    fn poll_give(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<Result<usize, Broken>>;

    /// The other leg has passed on bytes that came from here.
    fn delivered(&mut self, bytes: usize);

    /// Ready when this agent has ended the leg.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Broken>;

    /// Ready when the leg is broken, also where neither taking nor giving would show it.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken>;

    /// Whether the other end of the leg has said that it wants nothing more.
    fn is_deaf(&self) -> bool;

    /// Resets the leg.
    fn abort(&mut self);
}

/// A leg that is a socket.
pub(super) struct Socket {
    tcp: TcpStream,
    buffer: BytesMut,
    read_size: usize,
    small_reads: u8,
    /// Whether the last take waits for the socket, which would wake us if it were reset.
    watches: bool,
    look: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        // A socket that takes no options is about to fail anyway.
        let _ = tcp.set_nodelay(true);
        // Should this process be killed, the kernel closes the socket: with a reset, because a FIN would make a clean
        // end of a connection that broke. What has ended well takes this back before its FIN.
        let _ = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
        let buffer = BytesMut::new();
        Self { tcp, buffer, read_size: SMALLEST_READ, small_reads: 0, watches: false, look: None }
    }

    /// Reads until the buffer is full, nothing is left or the end has come.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.buffer.reserve(self.read_size);
        let full = self.buffer.capacity().min(LARGEST_READ);
        while self.buffer.len() < full {
            match pin!(self.tcp.read_buf(&mut self.buffer)).poll(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(true)),
                Poll::Ready(Ok(_)) => {}
                // What was read before the error is lost with the connection.
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if self.buffer.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(false))
    }

    /// Grows the buffer when reads fill it, and shrinks it after some that do not.
    fn fit(&mut self, got: usize) {
        if got >= self.read_size {
            self.read_size = (self.read_size * 4).min(LARGEST_READ);
            self.small_reads = 0;
        } else if got < self.read_size / 4 && self.read_size > SMALLEST_READ {
            self.small_reads += 1;
            if self.small_reads >= 8 {
                self.read_size /= 2;
                self.small_reads = 0;
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, queue: &Queue) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = queue.slices(&mut slices);
        let slices = &slices[..count];
        let all = slices.iter().map(|slice| slice.len()).sum::<usize>() == queue.len();
        if !(queue.ended && all) {
            return Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        }
        // The last bytes wait in the socket for the FIN, which follows at once, and share its segment.
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            let socket = SockRef::from(&self.tcp);
            let send = || socket.send_vectored_with_flags(slices, libc::MSG_MORE);
            match self.tcp.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl Leg for Socket {
    fn poll_take(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<Result<(), Broken>> {
        self.watches = false;
        if queue.ended || !queue.is_empty() {
            return Poll::Pending;
        }
        // Idle connections have no buffer: first see whether there is anything to read.
        let ready = self.tcp.poll_read_ready(cx).map_err(|_| Broken::Reset)?;
        let read = if ready.is_ready() { self.read(cx) } else { Poll::Pending };
        if read.is_pending() {
            self.watches = true;
            self.buffer = BytesMut::new();
            return Poll::Pending;
        }
        queue.ended = ready!(read).map_err(|_| Broken::Reset)?;
        let data = self.buffer.split().freeze();
        self.fit(data.len());
        queue.push(data);
        Poll::Ready(Ok(()))
    }

    fn poll_give(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<Result<usize, Broken>> {
        let mut given = 0;
        while !queue.is_empty() {
            match self.write(cx, queue).map_err(|_| Broken::Reset)? {
                Poll::Ready(bytes) => {
                    queue.advance(bytes);
                    given += bytes;
                }
                Poll::Pending if given == 0 => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(given)),
            }
        }
        if queue.ended && !queue.closed {
            let _ = SockRef::from(&self.tcp).set_linger(None);
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx)).map_err(|_| Broken::Reset)?;
            queue.closed = true;
        }
        Poll::Ready(Ok(given))
    }

    fn delivered(&mut self, _bytes: usize) {}

    fn poll_ended(&mut self, _cx: &mut Context<'_>) -> Poll<Broken> {
        Poll::Pending
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if self.watches {
            self.look = None;
            return Poll::Pending;
        }
        // Nobody reads this socket now (its bytes wait for the other leg, or it has said FIN): look from time to time.
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK_FOR_RESET)));
        while look.as_mut().poll(cx).is_ready() {
            if !matches!(self.tcp.take_error(), Ok(None)) {
                return Poll::Ready(Broken::Reset);
            }
            look.as_mut().reset(Instant::now() + LOOK_FOR_RESET);
        }
        Poll::Pending
    }

    fn is_deaf(&self) -> bool {
        false
    }

    fn abort(&mut self) {
        // With a linger time of zero, close() sends RST. It fails only on a socket that has nothing to reset.
        let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
    }
}

/// A leg that is a stream of a tunnel.
pub(super) struct Stream {
    stream: TunnelStream,
    /// The peer wants nothing more.
    deaf: bool,
}

impl Stream {
    pub(super) fn new(stream: TunnelStream) -> Self {
        Self { stream, deaf: false }
    }
}

impl Leg for Stream {
    /// Takes everything, because a stream that is not emptied would hold up its tunnel; the stream's window is the
    /// bound, and it opens only as the bytes are delivered.
    fn poll_take(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<Result<(), Broken>> {
        let mut taken = false;
        while !queue.ended {
            match self.stream.poll_recv(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    queue.push(data);
                    queue.ended = self.stream.is_recv_done();
                }
                Poll::Ready(None | Some(Err(StreamError::Reset(code::NO_ERROR)))) => queue.ended = true,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
                Poll::Pending => break,
            }
            taken = true;
        }
        if taken { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_give(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<Result<usize, Broken>> {
        let mut given = 0;
        while !queue.is_empty() {
            let room = match self.stream.poll_room(cx, queue.len()) {
                Poll::Ready(Ok(room)) => room,
                Poll::Ready(Err(error)) => return self.refused(error),
                Poll::Pending if given == 0 => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(given)),
            };
            let data = queue.pop(room);
            given += data.len();
            let last = queue.ended && queue.is_empty();
            if let Err(error) = self.stream.send(data, last) {
                return self.refused(error);
            }
            queue.closed |= last;
        }
        if queue.ended && !queue.closed {
            queue.closed = true;
            if let Err(error) = self.stream.send(bytes::Bytes::new(), true) {
                return self.refused(error);
            }
        }
        Poll::Ready(Ok(given))
    }

    fn delivered(&mut self, bytes: usize) {
        self.stream.delivered(bytes);
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.stream.poll_ended(cx).map(broken)
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if self.deaf {
            return Poll::Pending;
        }
        match ready!(self.stream.poll_broken(cx)) {
            error if is_leave(error) => {
                self.deaf = true;
                Poll::Pending
            }
            error => Poll::Ready(broken(error)),
        }
    }

    fn is_deaf(&self) -> bool {
        self.deaf
    }

    fn abort(&mut self) {
        self.stream.abort();
    }
}

impl Stream {
    /// Sending failed.
    fn refused(&mut self, error: StreamError) -> Poll<Result<usize, Broken>> {
        if is_leave(error) {
            self.deaf = true;
            return Poll::Ready(Ok(0));
        }
        Poll::Ready(Err(broken(error)))
    }
}

/// RST_STREAM with NO_ERROR or CANCEL says that the peer wants nothing more. Whether it has sent everything is for
/// the receiving direction to find out: there CANCEL before END_STREAM is a reset.
fn is_leave(error: StreamError) -> bool {
    matches!(error, StreamError::Reset(code::NO_ERROR | code::CANCEL))
}

fn broken(error: StreamError) -> Broken {
    match error {
        StreamError::Reset(_) => Broken::Reset,
        StreamError::Ended(reason) => Broken::Ended(reason),
        error => Broken::Failed(error),
    }
}
