//! What metrics are made of.

use std::time::Duration;

use culvert_identity::SpiffeId;

/// Told of each step; must not block. All methods have empty bodies to begin with.
pub trait Observer: Send + Sync + 'static {
    /// A certificate was asked for.
    fn asked(&self, id: &SpiffeId) {
        let _ = id;
    }

    /// A certificate was published, `took` after it was asked for; `renewed` unless it is the first one.
    fn issued(&self, id: &SpiffeId, took: Duration, renewed: bool) {
        let _ = (id, took, renewed);
    }

    /// An attempt failed, for a reason of [`crate::IssueError::reason`].
    fn failed(&self, id: &SpiffeId, reason: &'static str) {
        let _ = (id, reason);
    }

    /// The certificate in use ended before there was a new one.
    fn expired(&self, id: &SpiffeId) {
        let _ = id;
    }

    /// The last pod went, and the key with it.
    fn erased(&self, id: &SpiffeId) {
        let _ = id;
    }
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}
