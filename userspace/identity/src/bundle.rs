//! Trust bundles: the authorities of one trust domain, never mixed with those of another.
//!
//! Source: SPIFFE Trust Domain and Bundle. [`X509Bundle`] is what a verifier needs; [`Document`] is the
//! JWK set in which bundles travel between trust domains.

mod document;

pub use document::{BundleMap, DEFAULT_REFRESH, Document, DocumentError, JwtAuthority};

use std::sync::Arc;

use crate::{TrustDomain, x509};

/// The X.509 authorities of one trust domain. It may be empty, and then nobody of that trust domain is
/// trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Bundle {
    trust_domain: TrustDomain,
    authorities: Arc<[Vec<u8>]>,
}

/// Why a bundle was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The text is not PEM.
    #[error("not PEM")]
    NotPem,
    /// No certificate in the text.
    #[error("no certificate found")]
    NoCertificate,
    /// Certificate `.0` is not DER, or has bytes after it.
    #[error("certificate {0} of the bundle is not a DER certificate")]
    NotDer(usize),
    /// Certificate `.0` says that it is not a CA.
    #[error("certificate {0} of the bundle is not a CA certificate")]
    NotCa(usize),
}

impl BundleError {
    /// The stable word for logs, metric labels and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotPem => "not_pem",
            Self::NoCertificate => "no_certificate",
            Self::NotDer(_) => "not_der",
            Self::NotCa(_) => "authority_not_ca",
        }
    }
}

impl X509Bundle {
    /// A bundle of authorities in DER, in the order given; an authority given twice is held once.
    /// No authority at all is a bundle too: the one that trusts nobody.
    pub fn from_der<C: AsRef<[u8]>>(trust_domain: TrustDomain, authorities: &[C]) -> Result<Self, BundleError> {
        let mut held: Vec<Vec<u8>> = Vec::with_capacity(authorities.len());
        for (at, der) in authorities.iter().enumerate() {
            check_authority(at, der.as_ref())?;
            if !held.iter().any(|h| h == der.as_ref()) {
                held.push(der.as_ref().to_vec());
            }
        }
        Ok(Self { trust_domain, authorities: held.into() })
    }

    /// Reads a PEM text with at least one certificate; blocks of other kinds are passed over.
    pub fn parse_pem(trust_domain: TrustDomain, text: impl AsRef<[u8]>) -> Result<Self, BundleError> {
        let authorities = x509::certificates_of_pem(text.as_ref()).map_err(|_| BundleError::NotPem)?;
        if authorities.is_empty() {
            return Err(BundleError::NoCertificate);
        }
        Self::from_der(trust_domain, &authorities)
    }

    /// Reads certificates in DER, one after the other without anything between them (the form of the
    /// Workload API).
    pub fn parse_concatenated_der(trust_domain: TrustDomain, mut bytes: &[u8]) -> Result<Self, BundleError> {
        let mut authorities = Vec::new();
        while !bytes.is_empty() {
            let (rest, _) =
                x509_parser::parse_x509_certificate(bytes).map_err(|_| BundleError::NotDer(authorities.len()))?;
            authorities.push(&bytes[..bytes.len() - rest.len()]);
            bytes = rest;
        }
        if authorities.is_empty() {
            return Err(BundleError::NoCertificate);
        }
        Self::from_der(trust_domain, &authorities)
    }

    /// Whose authorities they are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities in DER.
    pub fn authorities(&self) -> &[Vec<u8>] {
        &self.authorities
    }

    /// The authorities as PEM text.
    pub fn to_pem(&self) -> String {
        let blocks: Vec<_> = self.authorities.iter().map(|der| pem::Pem::new("CERTIFICATE", der.clone())).collect();
        pem::encode_many_config(&blocks, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
    }
}

fn check_authority(at: usize, der: &[u8]) -> Result<(), BundleError> {
    let certificate = x509::parse(at, der).map_err(|_| BundleError::NotDer(at))?;
    match x509::says_it_is_ca(&certificate) {
        // A root of version 1 has no extension to say it with.
        Ok(None | Some(true)) => Ok(()),
        Ok(Some(false)) => Err(BundleError::NotCa(at)),
        Err(_) => Err(BundleError::NotDer(at)),
    }
}

#[cfg(test)]
mod tests;
