//! Certificate signing requests: proof that the caller holds a key, and nothing else is taken from them.

use rcgen::{CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKey};

/// Longest request that is read, in bytes of PEM.
const LONGEST: usize = 16 * 1024;

/// A request whose signature is good: its public key. Names and extensions of it are dropped.
#[derive(Debug)]
pub struct SigningRequest {
    pub(super) public_key: PublicKey,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More than 16 KiB.
    #[error("the request is longer than 16 KiB")]
    TooLong,
    /// Not a PKCS#10 request in PEM.
    #[error("not a certificate signing request in PEM")]
    NotARequest,
    /// Signed by another key than the one it carries, or not at all.
    #[error("the request is not signed by the key that it carries")]
    BadSignature,
    /// Leaves have P-256 or P-384 keys.
    #[error("the key is neither P-256 nor P-384")]
    KeyType,
}

impl RequestError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "csr_too_long",
            Self::NotARequest => "csr_malformed",
            Self::BadSignature => "csr_bad_signature",
            Self::KeyType => "csr_key_type",
        }
    }
}

impl SigningRequest {
    /// Reads a request in PEM and checks its signature.
    pub fn from_pem(text: &str) -> Result<Self, RequestError> {
        if text.len() > LONGEST {
            return Err(RequestError::TooLong);
        }
        let request = CertificateSigningRequestParams::from_pem(text).map_err(|error| match error {
            rcgen::Error::InvalidCertificationRequestSignature => RequestError::BadSignature,
            _ => RequestError::NotARequest,
        })?;
        let public_key = request.public_key;
        let allowed = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384];
        if !allowed.contains(&public_key.algorithm()) {
            return Err(RequestError::KeyType);
        }
        Ok(Self { public_key })
    }
}
