//! The certificate authority: a root that signs issuing keys, an issuing key that signs leaves.
//!
//! ```text
//! root.key, root.pem       P-384, 10 years, pathLen 1: read only to sign a new issuing key, may be moved away
//! issuing.key, issuing.pem P-256, 30 days, pathLen 0: signs leaves, replaced when a third of its life is left
//! ```

mod authority;
mod given;
mod profile;
mod request;

use std::{
    sync::{PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use culvert_identity::{SpiffeId, TrustDomain};

use crate::state_dir::{StateDir, StateError};

use authority::Issuing;
pub use authority::{ISSUING_LIFE, ROOT_LIFE};
pub use given::{Given, new_issuing, new_root};
pub use profile::MAX_LEAF_LIFE;
use profile::Role;
pub use request::{RequestError, SigningRequest};

/// Life of a leaf when nobody asks for another.
pub const DEFAULT_LEAF_LIFE: Duration = Duration::from_secs(3600);

/// The authority of one trust domain. Shared by all calls.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    keys: RwLock<Keys>,
    /// Where the two keys are kept, and how long an issuing key lives; `None` where others look after them.
    home: Option<(StateDir, Duration)>,
}

/// What is signed with, and what is verified with.
#[derive(Debug)]
struct Keys {
    issuing: Issuing,
    roots: Roots,
}

/// The roots of the trust domain; more than one while one follows another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// All of them.
    pub pem: String,
    /// Each by itself.
    pub ders: Vec<Vec<u8>>,
}

/// A certificate that was signed.
#[derive(Debug, Clone)]
pub struct Issued {
    /// PEM: leaf, then the issuing certificate.
    pub chain: Vec<String>,
    /// Lower-case hex, as in logs of both sides.
    pub serial: String,
    /// Its end.
    pub not_after: SystemTime,
}

/// Why the authority cannot work.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file of it does not hold what it should.
    #[error("{file} cannot be used: {why}")]
    Broken {
        /// Which one.
        file: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The folder belongs to another trust domain.
    #[error("the state folder is of trust domain {held:?}, not {wanted:?}; begin a new one to change it")]
    OtherTrustDomain {
        /// Whose root it holds.
        held: String,
        /// What was asked for.
        wanted: String,
    },
    /// The root key is not there, and a new issuing key is due.
    #[error("a new issuing key is due, and root.key is not in the state folder: put it back for a moment")]
    RootKeyAway,
    /// The issuing key has ended.
    #[error("the issuing key has ended and could not be replaced")]
    IssuingEnded,
    /// What was given to sign with would be refused by every peer.
    #[error("what is signed with it would be refused by peers ({0})")]
    NotTrusted(&'static str),
    /// The library refuses to sign.
    #[error("signing failed: {0}")]
    Signing(String),
}

impl CaError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::State(error) => error.reason(),
            Self::Broken { .. } => "ca_broken",
            Self::OtherTrustDomain { .. } => "ca_other_trust_domain",
            Self::RootKeyAway => "root_key_away",
            Self::IssuingEnded => "issuing_ended",
            Self::NotTrusted(_) => "ca_not_trusted",
            Self::Signing(_) => "signing_failed",
        }
    }
}

impl Authority {
    /// The trust domain that it signs for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots that peers are verified with.
    pub fn roots(&self) -> Roots {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).roots.clone()
    }

    /// End of the issuing key.
    pub fn issuing_not_after(&self) -> SystemTime {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).issuing.not_after
    }

    /// Signs a leaf for `id` over the public key of `request`. `life` is cut to [`MAX_LEAF_LIFE`] and to what is left
    /// of the issuing key. Who may have this identity is not asked here.
    pub fn sign(
        &self,
        id: &SpiffeId,
        request: &SigningRequest,
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).issuing.sign(&Role::Leaf(id), request, life, now)
    }

    /// Signs a server's certificate for these DNS names: no SPIFFE ID, no use as a client.
    pub fn sign_server(
        &self,
        names: &[String],
        request: &SigningRequest,
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).issuing.sign(&Role::Server(names), request, life, now)
    }

    /// Replaces the issuing key where it is time and where it is ours to replace. `true`: it was replaced.
    pub fn rotate_if_due(&self, now: SystemTime) -> Result<bool, CaError> {
        let Some((state, life)) = &self.home else {
            return Ok(false);
        };
        let (due, roots) = {
            let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
            (keys.issuing.due(now), keys.roots.clone())
        };
        if due {
            let fresh = authority::new_issuing(state, &self.trust_domain, &roots.pem, *life, now)?;
            self.keys.write().unwrap_or_else(PoisonError::into_inner).issuing = fresh;
        }
        Ok(due)
    }

    /// Signs a new issuing key with the root key of the folder, which has to be that of the first root.
    pub fn renew_issuing(&self, now: SystemTime) -> Result<(), CaError> {
        let Some((state, life)) = &self.home else {
            return Ok(());
        };
        let fresh = authority::new_issuing(state, &self.trust_domain, &self.roots().pem, *life, now)?;
        self.keys.write().unwrap_or_else(PoisonError::into_inner).issuing = fresh;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
