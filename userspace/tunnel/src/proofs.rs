//! Until when each peer has proven who it is.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use culvert_identity::SpiffeId;

/// The ends between which a proof holds. A tunnel and its successor have the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ProofKey {
    pub(crate) own: SpiffeId,
    pub(crate) peer: SpiffeId,
    /// A peer that we dial: where. A peer that dials us: its address, port 0.
    pub(crate) peer_address: SocketAddr,
    pub(crate) own_address: IpAddr,
    /// The peer's workload UID where it is known (we dial), else empty.
    pub(crate) uid: Arc<str>,
}

/// One end of validity, shared by all tunnels between the same two ends.
#[derive(Debug)]
pub(crate) struct Proof(AtomicU64);

/// What peers have proven, over all threads of the agent.
///
/// Each TLS handshake with a peer extends the life of all older tunnels between the same two ends to the end of the
/// SVIDs that were used in it; a tunnel whose proof runs out ends its streams as `svid_expired`. The lock is taken
/// once per handshake, never for a stream or a byte.
#[derive(Debug, Default)]
pub struct Proofs(Mutex<HashMap<ProofKey, Weak<Proof>>>);

impl Proofs {
    /// An empty table; an agent has one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Notes that `key` has proven itself until `until`, and gives the shared end of validity.
    pub(crate) fn proven(&self, key: &ProofKey, until: SystemTime) -> Arc<Proof> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(proof) = table.get(key).and_then(Weak::upgrade) {
            proof.0.fetch_max(seconds(until), Ordering::Relaxed);
            return proof;
        }
        let proof = Arc::new(Proof(AtomicU64::new(seconds(until))));
        if table.len() == table.capacity() {
            table.retain(|_, proof| proof.strong_count() > 0);
        }
        table.insert(key.clone(), Arc::downgrade(&proof));
        proof
    }
}

impl Proof {
    /// The end of validity.
    pub(crate) fn until(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

/// Whole seconds, rounded down: never longer than the certificate.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests;
