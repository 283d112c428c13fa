//! A connection between two sockets.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::net::TcpStream;

use super::{End, Side, Totals, leg::Socket, queue::Queue};
use crate::{meter::Meter, revoke::Revocation};

/// A connection that is let through.
pub(super) struct Pass {
    near: Socket,
    far: Socket,
    /// From far to near.
    inward: Queue,
    /// From near to far.
    outward: Queue,
    meter: Arc<Meter>,
    revocation: Revocation,
}

impl Future for Pass {
    type Output = Totals;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Totals> {
        let end = std::task::ready!(self.poll_end(cx));
        if end != End::Closed {
            self.near.abort();
            self.far.abort();
        }
        Poll::Ready(Totals { sent: self.meter.sent(), received: self.meter.received(), end })
    }
}

impl Pass {
    pub(super) fn new(near: TcpStream, far: TcpStream, meter: Arc<Meter>, revocation: Revocation) -> Self {
        let (near, far) = (Socket::new(near), Socket::new(far));
        Self { near, far, inward: Queue::default(), outward: Queue::default(), meter, revocation }
    }

    /// The order is the order of precedence of the recorded end: our own decisions, then the bytes, then resets.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(reason) = self.revocation.poll(cx) {
            return Poll::Ready(End::Revoked(reason));
        }
        let inward = pump(cx, &mut self.far, &mut self.near, &mut self.inward, |n| self.meter.add_received(n));
        if let Err(Fault { taking }) = inward {
            return Poll::Ready(End::Reset(if taking { Side::Far } else { Side::Near }));
        }
        let outward = pump(cx, &mut self.near, &mut self.far, &mut self.outward, |n| self.meter.add_sent(n));
        if let Err(Fault { taking }) = outward {
            return Poll::Ready(End::Reset(if taking { Side::Near } else { Side::Far }));
        }
        if self.inward.closed && self.outward.closed {
            return Poll::Ready(End::Closed);
        }
        for (side, leg) in [(Side::Near, &mut self.near), (Side::Far, &mut self.far)] {
            if leg.poll_broken(cx).is_ready() {
                return Poll::Ready(End::Reset(side));
            }
        }
        Poll::Pending
    }
}

/// After so many bytes in one direction others have their turn.
const TURN: usize = 512 * 1024;

/// Which leg broke while bytes went through: the one they were taken from, or the one they were given to.
struct Fault {
    taking: bool,
}

/// Moves what can be moved now from one leg to the other.
fn pump(
    cx: &mut Context<'_>,
    from: &mut Socket,
    to: &mut Socket,
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
        if let Poll::Ready(Err(_)) = taken {
            return Err(Fault { taking: true });
        }
        let given = if queue.has_work() { to.poll_give(cx, queue) } else { Poll::Pending };
        match given {
            Poll::Ready(Ok(bytes)) => {
                moved += bytes;
                count(bytes);
            }
            Poll::Ready(Err(_)) => return Err(Fault { taking: false }),
            Poll::Pending if taken.is_pending() => return Ok(()),
            Poll::Pending => {}
        }
    }
    Ok(())
}
