//! The bundles of this process: one per trust domain, replaced as a whole, never pooled.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use culvert_identity::{
    SpiffeId, TrustDomain,
    bundle::X509Bundle,
    x509::{self, Validity},
};
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::credentials::next_generation;

/// The bundles that verifiers of this process use. A cheap handle; clones share the content.
#[derive(Clone)]
pub struct TrustBundles(Arc<Shared>);

struct Shared {
    current: ArcSwap<BundleSet>,
    /// Held by whoever replaces `current`, so that no change is lost.
    writing: Mutex<()>,
}

/// What was known at one moment. Immutable.
#[derive(Clone, Default)]
pub struct BundleSet {
    generation: u64,
    held: HashMap<TrustDomain, Arc<Held>>,
}

pub(crate) struct Held {
    bundle: X509Bundle,
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    pub(crate) validities: Vec<Validity>,
    generation: u64,
}

/// Why a bundle could not be used to build paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("authority {at} of trust domain {trust_domain} cannot be used: {cause}")]
pub struct AuthorityError {
    /// Whose authority.
    pub trust_domain: TrustDomain,
    /// Which one of the bundle, from 0.
    pub at: usize,
    /// What is wrong with it.
    pub cause: String,
}

impl AuthorityError {
    /// The stable word for logs, metric labels and status.
    pub fn reason(&self) -> &'static str {
        "bad_authority"
    }
}

impl TrustBundles {
    /// No bundle at all: nobody is trusted.
    pub fn new() -> Self {
        Self(Arc::new(Shared { current: ArcSwap::default(), writing: Mutex::new(()) }))
    }

    /// Sets the bundle of one trust domain; true if that changed anything. A bundle that cannot be used
    /// leaves the held one as it was.
    pub fn set(&self, bundle: X509Bundle) -> Result<bool, AuthorityError> {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.snapshot();
        if now.held.get(bundle.trust_domain()).is_some_and(|held| held.bundle == bundle) {
            return Ok(false);
        }
        let generation = next_generation();
        let held = Held::new(bundle, generation)?;
        let mut next = BundleSet { generation, held: now.held.clone() };
        next.held.insert(held.bundle.trust_domain().clone(), Arc::new(held));
        self.0.current.store(Arc::new(next));
        Ok(true)
    }

    /// Forgets a trust domain; true if it was held. From then on none of its peers is trusted.
    pub fn remove(&self, trust_domain: &TrustDomain) -> bool {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = BundleSet::clone(&self.snapshot());
        let removed = next.held.remove(trust_domain).is_some();
        if removed {
            next.generation = next_generation();
            self.0.current.store(Arc::new(next));
        }
        removed
    }

    /// What is known now.
    pub fn snapshot(&self) -> Arc<BundleSet> {
        self.0.current.load_full()
    }

    /// Grows with every change of any bundle.
    pub fn generation(&self) -> u64 {
        self.0.current.load().generation
    }

    /// The generation in which the bundle of that trust domain last changed; 0 if there is none.
    pub fn generation_of(&self, trust_domain: &str) -> u64 {
        self.0.current.load().generation_of(trust_domain)
    }
}

impl Default for TrustBundles {
    fn default() -> Self {
        Self::new()
    }
}

impl BundleSet {
    /// Grows with every change of any bundle.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation in which the bundle of that trust domain last changed; 0 if there is none.
    pub fn generation_of(&self, trust_domain: &str) -> u64 {
        self.held.get(trust_domain).map_or(0, |held| held.generation)
    }

    /// The bundle of one trust domain.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&X509Bundle> {
        self.held.get(trust_domain).map(|held| &held.bundle)
    }

    /// The trust domains that have a bundle.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.held.keys()
    }

    pub(crate) fn of_peer(&self, id: &SpiffeId) -> Option<&Held> {
        self.held.get(&id.trust_domain()).map(Arc::as_ref)
    }
}

impl Held {
    fn new(bundle: X509Bundle, generation: u64) -> Result<Self, AuthorityError> {
        let fault = |at, cause| AuthorityError { trust_domain: bundle.trust_domain().clone(), at, cause };
        let (mut anchors, mut validities) = (Vec::new(), Vec::new());
        for (at, der) in bundle.authorities().iter().enumerate() {
            let der = CertificateDer::from(der.as_slice());
            let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|e| fault(at, e.to_string()))?;
            anchors.push(anchor.to_owned());
            validities.push(x509::validity(&der).map_err(|e| fault(at, e.to_string()))?);
        }
        Ok(Self { bundle, anchors, validities, generation })
    }
}

impl fmt::Debug for TrustBundles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}

impl fmt::Debug for BundleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = self.held.iter().map(|(td, held)| (td, held.anchors.len()));
        write!(f, "BundleSet {}: ", self.generation)?;
        f.debug_map().entries(sizes).finish()
    }
}
