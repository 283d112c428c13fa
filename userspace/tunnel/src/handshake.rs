//! The TLS handshake of a tunnel: who the peer has proven to be, or why there is no tunnel.

use std::io;

use culvert_identity::x509::ProfileError;

use crate::error::Blame;

/// Why a TLS handshake gave no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// We refused the peer's certificate; the word is the verifier's reason.
    #[error("the peer's certificate is refused: {detail}")]
    PeerRefused {
        /// The verifier's stable reason.
        reason: &'static str,
        /// The verifier's explanation.
        detail: String,
    },
    /// The certificate that the verifier let pass does not have the shape of an SVID.
    #[error("the peer's certificate is not an SVID")]
    NotAnSvid(#[source] ProfileError),
    /// The peer refused our certificate, with this TLS alert.
    #[error("the peer refused our certificate (alert {0})")]
    RefusedByPeer(String),
    /// The two sides have no protocol, version, suite or group in common, or one broke the rules of TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// The peer closed the connection, or the connection broke.
    #[error("connection closed during the handshake: {0}")]
    Closed(io::ErrorKind),
    /// The handshake took longer than the limit.
    #[error("the handshake timed out")]
    Timeout,
    /// Our SVID, or the peer's, is over.
    #[error("an SVID of the handshake has expired")]
    Expired,
}

impl HandshakeError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PeerRefused { reason, .. } => reason,
            Self::NotAnSvid(error) => error.reason(),
            Self::RefusedByPeer(_) => "peer_refused_identity",
            Self::Tls(_) => "handshake_failed",
            Self::Closed(_) => "handshake_closed",
            Self::Timeout => "handshake_timeout",
            Self::Expired => "svid_expired",
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::PeerRefused { .. } | Self::NotAnSvid(_) | Self::Tls(_) => Blame::Peer,
            Self::RefusedByPeer(_) | Self::Expired => Blame::Us,
            Self::Closed(_) | Self::Timeout => Blame::Network,
        }
    }
}
