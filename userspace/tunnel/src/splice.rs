//! Moving the bytes of one connection, both ways, until it ends.

mod leg;
mod queue;

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::net::TcpStream;

use self::{
    leg::{Broken, Leg, Socket, Stream},
    queue::Queue,
};
use crate::{error::StreamError, meter::Meter, revoke::Revocation, stream::TunnelStream};

/// One of the two legs of a connection, as seen from this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The application's socket, or the near socket of a passthrough.
    Near,
    /// The tunnel, or the far socket of a passthrough.
    Far,
}

/// How a connection ended. Exactly one of these is true of each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Both sides said that they were done.
    Closed,
    /// One side reset the connection; the other was reset in turn.
    Reset(Side),
    /// The connection was revoked, or its tunnel was ended by this agent, for this reason.
    Revoked(&'static str),
    /// The tunnel under the connection failed; the near side was reset.
    Failed(StreamError),
}

/// What a connection carried and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Payload handed to the far leg, in bytes.
    pub sent: u64,
    /// Payload handed to the near leg, in bytes.
    pub received: u64,
    /// How it ended.
    pub end: End,
}

impl End {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset(Side::Near) => "reset_by_app",
            Self::Reset(Side::Far) => "reset_by_peer",
            Self::Revoked(reason) => reason,
            Self::Failed(error) => error.reason(),
        }
    }
}

/// Moves bytes between an application's socket and its stream until both are done, one is reset, the tunnel fails
/// or the connection is revoked (which wins when several happen at once).
///
/// Half-close travels both ways (FIN, END_STREAM). A reset of one leg resets the other: RST_STREAM with
/// CONNECT_ERROR towards the peer, a TCP RST towards the application. `meter` counts while it runs. To be awaited on
/// the thread and in the `LocalSet` of the tunnel.
pub async fn splice(app: TcpStream, stream: TunnelStream, meter: Arc<Meter>, revocation: Revocation) -> Totals {
    Splice::new(Socket::new(app), Stream::new(stream), meter, revocation).run().await
}

/// The same between two sockets, for traffic that is let through without mTLS.
pub async fn passthrough(near: TcpStream, far: TcpStream, meter: Arc<Meter>, revocation: Revocation) -> Totals {
    Splice::new(Socket::new(near), Socket::new(far), meter, revocation).run().await
}

struct Splice<N, F> {
    near: N,
    far: F,
    /// From far to near.
    inward: Queue,
    /// From near to far.
    outward: Queue,
    meter: Arc<Meter>,
    revocation: Revocation,
}

impl<N: Leg, F: Leg> Splice<N, F> {
    fn new(near: N, far: F, meter: Arc<Meter>, revocation: Revocation) -> Self {
        Self { near, far, inward: Queue::default(), outward: Queue::default(), meter, revocation }
    }

    async fn run(mut self) -> Totals {
        let end = poll_fn(|cx| self.poll(cx)).await;
        if end != End::Closed {
            self.near.abort();
            self.far.abort();
        }
        Totals { sent: self.meter.sent(), received: self.meter.received(), end }
    }

    /// The order is the order of precedence of the recorded end: our own decisions, then the bytes, then resets.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(reason) = self.revocation.poll(cx) {
            return Poll::Ready(End::Revoked(reason));
        }
        if let Poll::Ready(ended) = self.far.poll_ended(cx) {
            return Poll::Ready(end_of(Side::Far, ended));
        }
        let inward = pump(cx, &mut self.far, &mut self.near, &mut self.inward, |n| self.meter.add_received(n));
        if let Err(Fault { taking, broken }) = inward {
            return Poll::Ready(end_of(if taking { Side::Far } else { Side::Near }, broken));
        }
        let outward = pump(cx, &mut self.near, &mut self.far, &mut self.outward, |n| self.meter.add_sent(n));
        if let Err(Fault { taking, broken }) = outward {
            return Poll::Ready(end_of(if taking { Side::Near } else { Side::Far }, broken));
        }
        if let (false, Poll::Ready(broken)) = (self.is_closed(), self.far.poll_broken(cx)) {
            return Poll::Ready(end_of(Side::Far, broken));
        }
        if self.far.is_deaf() {
            self.outward.abandon();
        }
        if self.is_closed() {
            return Poll::Ready(End::Closed);
        }
        if let Poll::Ready(broken) = self.near.poll_broken(cx) {
            return Poll::Ready(end_of(Side::Near, broken));
        }
        Poll::Pending
    }

    fn is_closed(&self) -> bool {
        self.inward.closed && self.outward.closed
    }
}

/// After so many bytes in one direction others have their turn.
const TURN: usize = 512 * 1024;

/// Which leg broke while bytes went through: the one they were taken from, or the one they were given to.
struct Fault {
    taking: bool,
    broken: Broken,
}

/// Moves what can be moved now from one leg to the other.
fn pump(
    cx: &mut Context<'_>,
    from: &mut impl Leg,
    to: &mut impl Leg,
    queue: &mut Queue,
    count: impl Fn(usize),
) -> Result<(), Fault> {
    let mut moved = 0;
    while !queue.closed {
        if moved >= TURN {
            cx.waker().wake_by_ref();
            return Ok(());
        }
        let taken = from.poll_take(cx, queue);
        if let Poll::Ready(Err(broken)) = taken {
            return Err(Fault { taking: true, broken });
        }
        let given = if queue.has_work() { to.poll_give(cx, queue) } else { Poll::Pending };
        match given {
            Poll::Ready(Ok(bytes)) => {
                moved += bytes;
                count(bytes);
                from.delivered(bytes);
            }
            Poll::Ready(Err(broken)) => return Err(Fault { taking: false, broken }),
            Poll::Pending if taken.is_pending() => return Ok(()),
            Poll::Pending => {}
        }
    }
    Ok(())
}

fn end_of(side: Side, broken: Broken) -> End {
    match broken {
        Broken::Reset => End::Reset(side),
        Broken::Failed(error) => End::Failed(error),
        Broken::Ended(reason) => End::Revoked(reason),
    }
}
