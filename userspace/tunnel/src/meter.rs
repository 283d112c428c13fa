//! Live byte counters of one connection.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the payload of one connection while it runs; any thread may read it.
///
/// `sent` and `received` are from this agent's point of view towards the far leg: `sent` left the near leg (the
/// application, or the near socket of a passthrough) for the far leg, `received` came back.
#[derive(Debug, Default)]
pub struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    /// Bytes handed to the far leg so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes handed to the near leg so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        add(&self.sent, bytes);
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        add(&self.received, bytes);
    }
}

/// Only the thread that runs the splice writes, so a plain store is enough and costs no locked instruction.
fn add(counter: &AtomicU64, bytes: usize) {
    let now = counter.load(Ordering::Relaxed);
    counter.store(now.wrapping_add(bytes as u64), Ordering::Relaxed);
}
