//! Ending a running connection from outside, with a reason that is recorded.

use std::{
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

#[derive(Debug, Default)]
struct Cell {
    reason: OnceLock<&'static str>,
    waker: AtomicWaker,
}

/// Ends one connection. Any thread may hold a clone.
#[derive(Debug, Clone)]
pub struct Revoker(Arc<Cell>);

/// The connection's side: what [`crate::splice()`] watches.
#[derive(Debug)]
pub struct Revocation(Arc<Cell>);

/// A new pair of handles for one connection.
pub fn revocation() -> (Revoker, Revocation) {
    let cell = Arc::new(Cell::default());
    (Revoker(cell.clone()), Revocation(cell))
}

impl Revoker {
    /// Ends the connection with a stable snake_case `reason`. The first reason stays; says whether this was it.
    pub fn revoke(&self, reason: &'static str) -> bool {
        let first = self.0.reason.set(reason).is_ok();
        self.0.waker.wake();
        first
    }

    /// Whether the connection's side is gone, so that this handle can be forgotten.
    pub fn is_over(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Revocation {
    /// The reason, if it has been given already.
    pub fn reason(&self) -> Option<&'static str> {
        self.0.reason.get().copied()
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<&'static str> {
        self.0.waker.register(cx.waker());
        match self.reason() {
            Some(reason) => Poll::Ready(reason),
            None => Poll::Pending,
        }
    }

    /// Waits until the connection is revoked; for the steps before the splice.
    pub async fn revoked(&self) -> &'static str {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}
