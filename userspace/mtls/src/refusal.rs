//! Why a handshake did not happen, and how that is found again under the errors of other layers.

use std::{error::Error as StdError, io, sync::Arc, time::SystemTime};

use culvert_identity::{SpiffeId, TrustDomain, x509::ProfileError};
use rustls::{CertificateError, OtherError};

use crate::Expected;

/// Why this side refused a peer, or could not present itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The peer's chain does not have the shape of an X509-SVID.
    #[error("the peer's certificate is not an X509-SVID: {0}")]
    Profile(#[from] ProfileError),
    /// There is no bundle for the peer's trust domain.
    #[error("no bundle for the peer's trust domain {0}")]
    NoBundle(TrustDomain),
    /// The bundle of the peer's trust domain has no authority.
    #[error("the bundle of trust domain {0} is empty")]
    EmptyBundle(TrustDomain),
    /// Each authority of the peer's trust domain is outside of its validity.
    #[error("no authority of trust domain {0} is valid now")]
    AuthoritiesExpired(TrustDomain),
    /// No authority of the peer's trust domain has signed this.
    #[error("signed by no authority of trust domain {0}")]
    UnknownAuthority(TrustDomain),
    /// The certificate's extendedKeyUsage does not allow the role that the peer plays.
    #[error("the peer's certificate is not for this role (extendedKeyUsage)")]
    WrongPurpose,
    /// The path to the authority is broken in another way.
    #[error("no valid path from the peer's certificate to an authority: {0}")]
    BadPath(String),
    /// The peer's certificate has ended.
    #[error("the peer's certificate has ended")]
    Expired {
        /// Its last moment.
        not_after: SystemTime,
    },
    /// The peer's certificate is not valid yet.
    #[error("the peer's certificate is not valid yet")]
    NotYetValid {
        /// Its first moment.
        not_before: SystemTime,
    },
    /// A certificate between leaf and authority is outside of its validity.
    #[error("a certificate above the peer's is outside of its validity")]
    SignerNotValid,
    /// The peer proved an identity, but not the one expected.
    #[error("the peer is {got}, not {expected}")]
    UnexpectedIdentity {
        /// Who it is.
        got: SpiffeId,
        /// Who was expected.
        expected: Expected,
    },
    /// The client presented no certificate.
    #[error("the client presented no certificate")]
    NoClientCertificate,
    /// The peer of this connection has no certificate, or the handshake has not ended.
    #[error("the peer has proven nothing")]
    NotProven,
    /// This side has no SVID for the identity yet (or not any more).
    #[error("no SVID for {0}")]
    NoSvid(SpiffeId),
    /// This side's SVID for the identity has ended.
    #[error("the SVID of {0} has ended")]
    SvidExpired(SpiffeId),
}

impl Refusal {
    /// The stable word for logs, metric labels and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Profile(error) => error.reason(),
            Self::NoBundle(_) => "no_bundle_for_trust_domain",
            Self::EmptyBundle(_) => "empty_bundle",
            Self::AuthoritiesExpired(_) => "authorities_expired",
            Self::UnknownAuthority(_) => "unknown_authority",
            Self::WrongPurpose => "wrong_purpose",
            Self::BadPath(_) => "bad_path",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::SignerNotValid => "signer_not_valid",
            Self::UnexpectedIdentity { .. } => "unexpected_identity",
            Self::NoClientCertificate => "no_client_certificate",
            Self::NotProven => "not_proven",
            Self::NoSvid(_) => "no_svid",
            Self::SvidExpired(_) => "svid_expired",
        }
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, refusal)
    }
}

/// Finds this side's refusal in an error of TLS or of anything above it (`io::Error`, h2, tonic).
///
/// `None` means that this side refused nothing: the peer did, or the network failed.
pub fn refusal_of(error: &(dyn StdError + 'static)) -> Option<Refusal> {
    layers(error).find_map(|layer| match layer.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) => {
            inner.downcast_ref::<Refusal>().cloned()
        }
        Some(rustls::Error::NoCertificatesPresented) => Some(Refusal::NoClientCertificate),
        _ => layer.downcast_ref::<Refusal>().cloned(),
    })
}

/// The stable word for any failed handshake: this side's refusal if there is one, else what TLS or the
/// network said (`refused_by_peer`, `incompatible`, `bad_signature`, `no_common_protocol`, `not_tls`, `closed`, `reset`,
/// `timeout`, `tls_error`).
pub fn failure_reason(error: &(dyn StdError + 'static)) -> &'static str {
    if let Some(refusal) = refusal_of(error) {
        return refusal.reason();
    }
    layers(error).find_map(word_of).unwrap_or("tls_error")
}

/// Whether the peer ends the handshake with this because of us: our certificate, its proof, or who we are (the alerts that RFC
/// 8446 section 6.2 gives for it). All other alerts may also come later, when it has read what we said.
pub fn is_certificate_refused(error: &rustls::Error) -> bool {
    use rustls::AlertDescription as Alert;
    matches!(
        error,
        rustls::Error::AlertReceived(
            Alert::HandshakeFailure
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::DecryptError
                | Alert::CertificateRequired
        )
    )
}

fn word_of(layer: &(dyn StdError + 'static)) -> Option<&'static str> {
    if let Some(error) = layer.downcast_ref::<rustls::Error>() {
        return Some(match error {
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol) => "no_common_protocol",
            rustls::Error::AlertReceived(rustls::AlertDescription::CloseNotify) => "closed",
            rustls::Error::AlertReceived(_) => "refused_by_peer",
            rustls::Error::PeerIncompatible(_) => "incompatible",
            rustls::Error::InvalidCertificate(CertificateError::BadSignature) => "bad_signature",
            rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => "not_tls",
            _ => "tls_error",
        });
    }
    let error = layer.downcast_ref::<io::Error>()?;
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Some("closed"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Some("reset"),
        io::ErrorKind::TimedOut => Some("timeout"),
        _ => None,
    }
}

/// The error and what lies beneath it. `io::Error::source` passes over the error that it carries, so
/// that one is stepped into explicitly.
fn layers<'e>(error: &'e (dyn StdError + 'static)) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |layer| beneath(*layer))
}

fn beneath<'e>(layer: &'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
    match layer.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => layer.source(),
    }
}
