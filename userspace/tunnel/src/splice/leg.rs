//! A leg of a connection that is let through: a socket.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, Interest},
    net::TcpStream,
};

use super::{
    queue::Queue,
    socket::{self, Look},
};

/// A read buffer when little comes, in bytes.
const SMALLEST_READ: usize = 16 * 1024;
/// A read buffer under bulk, in bytes.
const LARGEST_READ: usize = 256 * 1024;
/// Slices per write.
const SLICES: usize = 16;

/// A leg that is a socket.
pub(super) struct Socket {
    tcp: TcpStream,
    buffer: BytesMut,
    read_size: usize,
    small_reads: u8,
    /// Whether the last take waits for the socket, which would wake us if it were reset.
    watches: bool,
    look: Option<Look>,
}

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        socket::prepare(&tcp);
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

    /// Takes what there is into the queue, when there is room for it. Ready when that changed the queue.
    pub(super) fn poll_take(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<()>> {
        self.watches = false;
        if queue.ended || !queue.is_empty() {
            return Poll::Pending;
        }
        // Idle connections have no buffer: first see whether there is anything to read.
        let ready = self.tcp.poll_read_ready(cx)?;
        let read = if ready.is_ready() { self.read(cx) } else { Poll::Pending };
        if read.is_pending() {
            self.watches = true;
            self.buffer = BytesMut::new();
            return Poll::Pending;
        }
        queue.ended = ready!(read)?;
        let data = self.buffer.split().freeze();
        self.fit(data.len());
        queue.push(data);
        Poll::Ready(Ok(()))
    }

    /// Passes on from the queue, and the end after the last byte. Ready with the number of bytes taken out.
    pub(super) fn poll_give(&mut self, cx: &mut Context<'_>, queue: &mut Queue) -> Poll<io::Result<usize>> {
        let mut given = 0;
        while !queue.is_empty() {
            match self.write(cx, queue)? {
                Poll::Ready(bytes) => {
                    queue.advance(bytes);
                    given += bytes;
                }
                Poll::Pending if given == 0 => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(given)),
            }
        }
        if queue.ended && !queue.closed {
            socket::finish(&self.tcp)?;
            queue.closed = true;
        }
        Poll::Ready(Ok(given))
    }

    /// Ready when the leg was reset, also where neither taking nor giving would show it.
    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.watches {
            self.look = None;
            return Poll::Pending;
        }
        // Nobody reads this socket now: its bytes wait for the other leg, or it has said FIN.
        let look = self.look.get_or_insert_default();
        look.poll_reset(cx, &self.tcp)
    }

    /// Resets the leg.
    pub(super) fn abort(&mut self) {
        socket::arm(&self.tcp);
    }
}
