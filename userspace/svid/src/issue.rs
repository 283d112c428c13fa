//! What is asked of an issuer, and what can go wrong.

use std::{future::Future, sync::Arc, time::Duration};

use culvert_identity::{SpiffeId, bundle::BundleError, x509::ProfileError};
use culvert_mtls::{CredentialsError, Refusal};
use rustls_pki_types::CertificateDer;

/// Who signs requests: the control plane's CA, or a stand-in of tests.
pub trait Issue: Send + Sync + 'static {
    /// Answers with a chain in DER, leaf first, without roots. Whoever asked checks it.
    fn issue(&self, request: Request) -> impl Future<Output = Result<Vec<CertificateDer<'static>>, IssueError>> + Send;
}

/// A request for one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whose certificate.
    pub id: SpiffeId,
    /// UID of a local pod that has this identity; `None` for the node itself.
    pub pod_uid: Option<Arc<str>>,
    /// PEM.
    pub csr: String,
    /// How long it should be valid; the issuer may give less.
    pub validity: Duration,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// aws-lc could not make or use a key.
    #[error("no key could be made")]
    Key,
    /// The signing request could not be built.
    #[error("the signing request could not be built")]
    Request,
    /// No pod on this node has the identity any more.
    #[error("no local pod has this identity")]
    NoPod,
    /// The issuer could not be reached, or the handshake with it failed.
    #[error("the CA could not be reached ({why}): {status}")]
    Unreachable {
        /// The handshake's reason, or `unavailable`.
        why: &'static str,
        /// What the client library says.
        status: String,
    },
    /// The issuer refuses this request.
    #[error("the CA refuses: {0}")]
    Denied(String),
    /// The issuer failed in another way.
    #[error("the CA failed: {0}")]
    Failed(String),
    /// No answer in time.
    #[error("the CA did not answer in time")]
    Timeout,
    /// The answer lacks a leaf, or a root at its end.
    #[error("the CA's answer is not a chain followed by roots")]
    AnswerIncomplete,
    /// The answer is not an X509-SVID.
    #[error("the CA's answer is not an X509-SVID: {0}")]
    AnswerProfile(#[from] ProfileError),
    /// The answer's roots cannot be read.
    #[error("the CA's roots cannot be read: {0}")]
    AnswerRoots(#[from] BundleError),
    /// The answer is for another identity than the one asked for.
    #[error("the CA answered for {got}, not for {wanted}")]
    AnswerOtherIdentity {
        /// Whose the answer is.
        got: SpiffeId,
        /// Whose it should be.
        wanted: SpiffeId,
    },
    /// The answer certifies another key.
    #[error("the CA certified another key than the one of the request")]
    AnswerOtherKey,
    /// Peers that hold the same bundle would not accept the answer.
    #[error("the CA's answer would be refused by peers: {0}")]
    AnswerNotTrusted(Refusal),
    /// rustls takes no configuration from it.
    #[error("the CA's answer cannot be used: {0}")]
    AnswerUnusable(CredentialsError),
}

impl IssueError {
    /// The stable word for logs, metric labels and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Key => "key_failed",
            Self::Request => "csr_failed",
            Self::NoPod => "no_pod",
            Self::Unreachable { why: "unavailable" | "closed" | "reset" | "timeout", .. } => "ca_unreachable",
            // The handshake's own reason, such as `unexpected_identity` or `no_svid`.
            Self::Unreachable { why, .. } => why,
            Self::Denied(_) => "ca_denied",
            Self::Failed(_) => "ca_failed",
            Self::Timeout => "ca_timeout",
            Self::AnswerIncomplete => "answer_incomplete",
            Self::AnswerProfile(_) => "answer_not_an_svid",
            Self::AnswerRoots(_) => "answer_bad_roots",
            Self::AnswerOtherIdentity { .. } => "answer_other_identity",
            Self::AnswerOtherKey => "answer_other_key",
            Self::AnswerNotTrusted(_) => "answer_not_trusted",
            Self::AnswerUnusable(_) => "answer_unusable",
        }
    }
}

impl From<tonic::Status> for IssueError {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        let text = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument | Code::FailedPrecondition => {
                Self::Denied(text)
            }
            Code::DeadlineExceeded => Self::Timeout,
            Code::Unavailable | Code::Unknown => Self::Unreachable { why: why(&status), status: text },
            code => Self::Failed(format!("{code:?}: {text}")),
        }
    }
}

/// What the handshake beneath a failed call says, if there was one.
pub(crate) fn why(status: &tonic::Status) -> &'static str {
    match culvert_mtls::failure_reason(status) {
        "tls_error" => "unavailable",
        word => word,
    }
}
