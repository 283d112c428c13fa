//! Keys that are kept by others, such as Secrets of Kubernetes: what a rotation job wrote, or what a user brought.

use std::{
    sync::{PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use culvert_identity::{SpiffeId, TrustDomain, bundle::X509Bundle, x509};
use culvert_mtls::{TrustBundles, verify_chain};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{
    Authority, CaError, ISSUING_LIFE, Keys, Roots, SigningRequest,
    authority::{Issuing, belongs, broken, issuing, make_issuing, make_root, own_trust_domain, pem_of, signing},
    profile::Role,
};

/// What an authority signs with: the three entries of a `kubernetes.io/tls` Secret, as cert-manager writes them too.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    /// `tls.key`.
    pub key: Zeroizing<String>,
    /// `tls.crt`: the issuing certificate, then those between it and the root.
    pub chain: String,
    /// `ca.crt`: the roots.
    pub roots: String,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Given")
    }
}

impl Given {
    /// The trust domain that the issuing certificate, or else the root, carries in a URI SAN of its own.
    pub fn trust_domain(&self) -> Option<TrustDomain> {
        let certificates = [&self.chain, &self.roots]
            .into_iter()
            .filter_map(|pem| x509::certificates_of_pem(pem.as_bytes()).ok()?.into_iter().next());
        let domains = certificates.filter_map(|der| own_trust_domain(&der));
        domains.filter_map(|domain| TrustDomain::parse(&domain).ok()).next()
    }

    /// The roots, each by itself.
    pub fn roots(&self) -> Result<Roots, CaError> {
        Roots::of_pem(&self.roots)
    }

    /// Is less than a third of the issuing certificate's life left.
    pub fn due(&self, now: SystemTime) -> Result<bool, CaError> {
        Ok(self.issuing()?.due(now))
    }

    fn issuing(&self) -> Result<Issuing, CaError> {
        let key = KeyPair::from_pem(&self.key).map_err(|error| broken("tls.key", &error))?;
        let mut issuing = issuing(key, &self.chain)?;
        if let Ok(roots) = self.roots() {
            // Some write the root behind the chain; peers have it already.
            let roots: Vec<String> = roots.ders.into_iter().map(pem_of).collect();
            issuing.chain.retain(|pem| !roots.contains(pem));
        }
        if !belongs(&issuing.der, &issuing.key) {
            return Err(CaError::Broken { file: "tls.key", why: "it is not the key of tls.crt".to_owned() });
        }
        Ok(issuing)
    }
}

impl Roots {
    /// Of PEM.
    pub fn of_pem(pem: &str) -> Result<Self, CaError> {
        let ders = x509::certificates_of_pem(pem.as_bytes()).map_err(|error| broken("ca.crt", &error))?;
        if ders.is_empty() {
            return Err(CaError::Broken { file: "ca.crt", why: "no certificate in it".to_owned() });
        }
        Ok(Self::of_ders(ders))
    }

    /// All of these and of those, each once.
    pub fn with(&self, more: &Self) -> Self {
        let new = more.ders.iter().filter(|der| !self.ders.contains(der));
        Self::of_ders(self.ders.iter().chain(new).cloned().collect())
    }

    /// Are all of `others` among these.
    pub fn hold(&self, others: &Self) -> bool {
        others.ders.iter().all(|der| self.ders.contains(der))
    }

    /// Of certificates in DER.
    pub fn of_ders(ders: Vec<Vec<u8>>) -> Self {
        Self { pem: ders.iter().cloned().map(pem_of).collect(), ders }
    }
}

impl Authority {
    /// An authority whose keys others look after. `roots` are verified with; those of `given` have to be among them.
    pub fn of(trust_domain: TrustDomain, given: &Given, roots: &Roots, now: SystemTime) -> Result<Self, CaError> {
        let issuing = tried(given, &trust_domain, now)?;
        let keys = Keys { issuing, roots: roots.clone() };
        Ok(Self { trust_domain, keys: RwLock::new(keys), home: None })
    }

    /// Verifies with these from now on.
    pub fn set_roots(&self, roots: &Roots) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).roots = roots.clone();
    }

    /// Signs with this from now on. Nothing changes where it cannot be used.
    pub fn set_issuing(&self, given: &Given, now: SystemTime) -> Result<(), CaError> {
        let issuing = tried(given, &self.trust_domain, now)?;
        self.keys.write().unwrap_or_else(PoisonError::into_inner).issuing = issuing;
        Ok(())
    }
}

/// Makes a root: `tls.key` and `tls.crt` of a Secret of its own.
pub fn new_root(domain: &TrustDomain, now: SystemTime) -> Result<(Zeroizing<String>, String), CaError> {
    make_root(domain, now)
}

/// Makes an issuing key under a root.
pub fn new_issuing(domain: &TrustDomain, root_key: &str, root_pem: &str, now: SystemTime) -> Result<Given, CaError> {
    let (key, chain) = make_issuing(domain, root_key, root_pem, ISSUING_LIFE, now)?;
    Ok(Given { key: Zeroizing::new(key.serialize_pem()), chain, roots: root_pem.to_owned() })
}

/// Reads it, and shows by a leaf that peers which hold its roots accept what it signs.
fn tried(given: &Given, domain: &TrustDomain, now: SystemTime) -> Result<Issuing, CaError> {
    let issuing = given.issuing()?;
    if let Some(held) = given.trust_domain().filter(|held| held != domain) {
        return Err(CaError::OtherTrustDomain { held: held.to_string(), wanted: domain.to_string() });
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(signing)?;
    let request = CertificateParams::default().serialize_request(&key).and_then(|request| request.pem());
    let request =
        SigningRequest::from_pem(&request.map_err(signing)?).map_err(|error| CaError::Signing(error.to_string()))?;
    let id = SpiffeId::of_control(domain);
    let issued = issuing.sign(&Role::Leaf(&id), &request, Duration::from_secs(60), now)?;
    let bundles = TrustBundles::new();
    let bundle = X509Bundle::parse_pem(domain.clone(), &given.roots).map_err(|error| broken("ca.crt", &error))?;
    bundles.set(bundle).map_err(|error| broken("ca.crt", &error))?;
    let mut chain = Vec::new();
    for pem in &issued.chain {
        let ders = x509::certificates_of_pem(pem.as_bytes()).map_err(|error| broken("tls.crt", &error))?;
        chain.extend(ders.into_iter().map(CertificateDer::from));
    }
    verify_chain(&chain, &bundles.snapshot(), culvert_mtls::Role::Server, now)
        .map_err(|refusal| CaError::NotTrusted(refusal.reason()))?;
    Ok(issuing)
}
