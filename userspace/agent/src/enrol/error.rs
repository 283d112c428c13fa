//! Why a pod is not enrolled, or not let go.

use std::{io, sync::Arc};

use culvert_redirect as redirect;

use crate::cni::InstallError;

/// Why a pod was not enrolled, or not let go.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The caller is not root.
    #[error("only uid 0 may enrol pods; the caller has uid {0}")]
    NotRoot(u32),
    /// The request carries no namespace.
    #[error("the request carries no network namespace (one file descriptor by SCM_RIGHTS)")]
    NoNetns,
    /// No record of this UID.
    #[error("the control plane has no pod with this UID on node {0}")]
    NoRecord(Arc<str>),
    /// The control plane has not said anything yet.
    #[error("the control plane has not said yet who lives where")]
    NotSynced,
    /// The record says another node.
    #[error("the pod belongs to node {0:?}")]
    OtherNode(Arc<str>),
    /// The namespace's label or the pod says so.
    #[error("the pod is not enrolled: label its namespace culvert.dev/enroll=true")]
    NotEnrolled,
    /// It shares the node's network.
    #[error("the pod uses the node's own network: it cannot be enrolled")]
    HostNetwork,
    /// It is over.
    #[error("the pod has ended")]
    Ended,
    /// No identity can be made of its names.
    #[error("namespace and service account do not fit in a SPIFFE ID")]
    BadIdentity,
    /// The record's addresses are none of those in the namespace.
    #[error("the namespace has none of the addresses that the control plane knows of the pod")]
    AddressMismatch,
    /// The kernel side.
    #[error("the pod could not be captured")]
    Redirect(#[from] redirect::EnrolError),
    /// The kernel side, on the way out.
    #[error("the pod could not be let go")]
    Withdraw(#[from] redirect::WithdrawError),
    /// The SVID did not come in time. The pod is captured and closed; a repeated request waits on.
    #[error("captured, but without an SVID after 15 s ({0}): the pod stays closed until it has one")]
    NoSvid(&'static str),
    /// The book of pods.
    #[error("the pod could not be written down")]
    Book(#[source] io::Error),
    /// The record changed under the enrolment.
    #[error("the pod's identity has changed while it was enrolled: ask again")]
    IdentityChanged,
    /// The caller means another pod than the record.
    #[error("the caller says {claimed}, the control plane {recorded}")]
    NameMismatch {
        /// Namespace and name of the request.
        claimed: String,
        /// Those of the record.
        recorded: String,
    },
    /// The pod is not held.
    #[error("no such pod is enrolled here")]
    NotHeld,
    /// The kernel does not have what the pod needs.
    #[error("the pod is not captured: {0}")]
    NotCaptured(&'static str),
    /// Culvert is leaving the node.
    #[error("culvert is being uninstalled from this node")]
    Uninstalling,
    /// CNI configuration or plugin.
    #[error("the CNI configuration could not be taken away")]
    Cni(#[source] InstallError),
    /// The pins.
    #[error("the pins cannot be read: {0}")]
    Pins(String),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

impl EnrolError {
    /// Stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotRoot(_) => "not_root",
            Self::NoNetns => "no_netns",
            Self::NoRecord(_) => "no_record",
            Self::NotSynced => "not_synced",
            Self::OtherNode(_) => "other_node",
            Self::NotEnrolled => "namespace_not_enrolled",
            Self::HostNetwork => "host_network",
            Self::Ended => "pod_ended",
            Self::BadIdentity => "bad_identity",
            Self::AddressMismatch => "address_mismatch",
            Self::Redirect(error) => error.reason(),
            Self::Withdraw(error) => error.reason(),
            Self::NoSvid(_) => "no_svid",
            Self::Book(_) => "book_failed",
            Self::IdentityChanged => "identity_changed",
            Self::NameMismatch { .. } => "pod_name_mismatch",
            Self::NotHeld => "not_enrolled",
            Self::NotCaptured(word) => word,
            Self::Uninstalling => "uninstalling",
            Self::Cni(error) => error.reason(),
            Self::Pins(_) => "pins_unreadable",
            Self::Stopping => "draining",
        }
    }
}
