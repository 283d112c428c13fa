//! P-256 keys: made here, held by aws-lc, never written down.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use culvert_identity::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, SanType};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    sign::{Signer, SigningKey},
};
use rustls_pki_types::SubjectPublicKeyInfoDer;

use crate::IssueError;

/// A P-256 key. It signs, and its bytes cannot be had: aws-lc clears them when the last clone is dropped.
#[derive(Clone)]
pub struct Key {
    pair: Arc<EcdsaKeyPair>,
    /// SubjectPublicKeyInfo in DER.
    public: Arc<[u8]>,
}

impl Key {
    /// A new key.
    pub fn generate() -> Result<Self, IssueError> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| IssueError::Key).and_then(Self::of)
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// A certificate signing request in PEM: empty subject, and for an identity one critical URI SAN.
    pub fn request(&self, id: Option<&SpiffeId>) -> Result<String, IssueError> {
        let mut params = CertificateParams::default();
        // Without a subject the SAN is critical (RFC 5280 section 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        if let Some(id) = id {
            let uri = id.as_str().try_into().map_err(|_| IssueError::Request)?;
            params.subject_alt_names = vec![SanType::URI(uri)];
        }
        params.serialize_request(self).and_then(|request| request.pem()).map_err(|_| IssueError::Request)
    }

    /// For rustls.
    pub fn signing(&self) -> Arc<dyn SigningKey> {
        Arc::new(self.clone())
    }

    pub(crate) fn of(pair: EcdsaKeyPair) -> Result<Self, IssueError> {
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| IssueError::Key)?;
        Ok(Self { public: public.as_ref().into(), pair: Arc::new(pair) })
    }

    /// Only a node's own key is ever written out, and only to memory (see [`crate::node`]).
    pub(crate) fn pair(&self) -> &EcdsaKeyPair {
        &self.pair
    }

    fn sign_bytes(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.pair.sign(&SystemRandom::new(), message).ok().map(|signature| signature.as_ref().to_vec())
    }
}

/// Says nothing about the private part.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(P-256)")
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let ours = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        ours.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(&*self.public))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.sign_bytes(message).ok_or_else(|| rustls::Error::General("signing failed".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

impl rcgen::PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_bytes(message).ok_or(rcgen::Error::RemoteKeyError)
    }
}
