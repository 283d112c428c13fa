//! What this side proves an identity with: a chain and a key that signs, never the key's bytes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use culvert_identity::{
    SpiffeId,
    x509::{self, ProfileError, Svid},
};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroize;

use crate::config::provider;

/// A number that is higher than every one given out before, in the whole process.
pub(crate) fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// An SVID with its key. Neither `Debug` nor serialisable; the key can sign and cannot be read.
///
/// ```compile_fail,E0277
/// fn print<T: std::fmt::Debug>() {}
/// print::<culvert_mtls::Credentials>();
/// ```
pub struct Credentials {
    svid: Svid,
    pub(crate) certified: Arc<CertifiedKey>,
    generation: u64,
}

/// Why a chain and a key do not make credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The chain is not an X509-SVID.
    #[error("the chain is not an X509-SVID")]
    Profile(#[from] ProfileError),
    /// The key cannot be read or is of an unsupported kind.
    #[error("the private key cannot be used: {0}")]
    BadKey(String),
    /// The key is not the one that the leaf certifies.
    #[error("the private key is not the one that the certificate is for")]
    KeyMismatch,
    /// The credentials are for another identity than the one they were offered for.
    #[error("the SVID is for {got}, not for {wanted}")]
    OtherIdentity {
        /// Whose they are.
        got: SpiffeId,
        /// Whose they should be.
        wanted: SpiffeId,
    },
    /// rustls refuses to build a configuration from them.
    #[error("no TLS configuration: {0}")]
    Config(String),
}

impl CredentialsError {
    /// The stable word for logs, metric labels and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Profile(error) => error.reason(),
            Self::BadKey(_) => "bad_key",
            Self::KeyMismatch => "key_mismatch",
            Self::OtherIdentity { .. } => "other_identity",
            Self::Config(_) => "tls_config",
        }
    }
}

impl Credentials {
    /// Checks the profile of the chain (DER, leaf first) and that `key` belongs to its leaf.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Result<Self, CredentialsError> {
        let svid = x509::check_chain(&chain)?;
        match key.public_key() {
            Some(public) if public.as_ref() == svid.public_key => {}
            _ => return Err(CredentialsError::KeyMismatch),
        }
        let certified = Arc::new(CertifiedKey::new(chain, key));
        Ok(Self { svid, certified, generation: next_generation() })
    }

    /// The same from PEM texts, which may be one and the same: certificates from `chain`, leaf first,
    /// and the first private key (PKCS#8, SEC 1 or PKCS#1) of `key`.
    pub fn from_pem(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, CredentialsError> {
        let (chain, _) = x509::load_chain_pem(chain)?;
        let mut key =
            PrivateKeyDer::from_pem_slice(key.as_ref()).map_err(|e| CredentialsError::BadKey(e.to_string()))?;
        let signing = provider().key_provider.load_private_key(key.clone_key());
        key.zeroize();
        let signing = signing.map_err(|e| CredentialsError::BadKey(e.to_string()))?;
        Self::new(chain.into_iter().map(CertificateDer::from).collect(), signing)
    }

    /// Whose they are.
    pub fn id(&self) -> &SpiffeId {
        &self.svid.id
    }

    /// What the leaf says.
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// First moment of validity.
    pub fn not_before(&self) -> SystemTime {
        self.svid.not_before
    }

    /// Last moment of validity.
    pub fn not_after(&self) -> SystemTime {
        self.svid.not_after
    }

    /// The certificates in DER, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Higher for each new set of credentials of this process, whatever the identity.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}
