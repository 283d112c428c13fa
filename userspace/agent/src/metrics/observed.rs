//! Counts what happens to identities.

use std::{sync::Arc, time::Duration};

use culvert_identity::SpiffeId;
use culvert_svid::Observer;

use super::{Metrics, Own};

/// The keeper's observer.
#[derive(Debug)]
pub struct Observed(Arc<Metrics>);

impl Observed {
    /// Counts into these metrics.
    pub fn observer(metrics: Arc<Metrics>) -> Arc<dyn Observer> {
        Arc::new(Self(metrics))
    }
}

impl Observer for Observed {
    fn issued(&self, _id: &SpiffeId, took: Duration, renewed: bool) {
        if renewed {
            self.0.own.rotations.inc();
        }
        self.0.own.issue_seconds.observe(took);
    }

    fn failed(&self, _id: &SpiffeId, reason: &'static str) {
        Own::word(&self.0.own.rotation_failures, reason);
    }

    fn expired(&self, _id: &SpiffeId) {
        Own::word(&self.0.own.rotation_failures, "svid_expired");
    }
}
