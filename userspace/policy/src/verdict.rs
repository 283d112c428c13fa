//! Answers: a permit or a denial.

use std::{fmt, net::IpAddr, net::SocketAddr};

use crate::{
    connection::{Connection, Peer},
    model::PolicyName,
};

/// The answer to one connection.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    /// It may happen, exactly as described by the permit.
    Allow(Permit),
    /// It may not.
    Deny(Denial),
}

/// Proof that one connection is allowed. Only [`crate::decide`] makes one; it is consumed by use and carries what
/// it was granted for, so that a permit for one place cannot open another.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    connection: Connection,
    basis: Basis,
}

/// Why a connection is allowed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Basis {
    /// An ALLOW rule is true.
    Rule(RuleRef),
    /// No enforced ALLOW policy selects the workload and the mesh's `defaultAction` is to allow.
    NoPolicy,
}

/// A rule by policy and number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyName,
    /// Index in `spec.rules`.
    pub rule: usize,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Denial {
    /// The stage that refused.
    pub reason: Reason,
    /// The object that decided, where one did.
    pub policy: Option<PolicyName>,
    /// Index in its `spec.rules`.
    pub rule: Option<usize>,
    /// The rule does not certainly match: it depends on what this layer cannot see.
    pub uncertain: bool,
}

/// Why a connection is refused; the word is the same in log, metric, status and CLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The mode is STRICT and the peer has no authenticated identity.
    PeerUnauthenticated,
    /// A policy that concerns the workload could not be understood.
    PolicyInvalid,
    /// A CUSTOM rule matches or may match, and no authorizer can be asked at this layer.
    CustomUnavailable,
    /// A DENY rule matches or may match.
    PolicyDenied,
    /// ALLOW policies concern the workload and none of their rules is true.
    NoAllowMatched,
    /// No ALLOW policy concerns the workload and the mesh's `defaultAction` is to refuse.
    DefaultDeny,
}

impl Reason {
    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerUnauthenticated => "peer_unauthenticated",
            Self::PolicyInvalid => "policy_invalid",
            Self::CustomUnavailable => "custom_unavailable",
            Self::PolicyDenied => "policy_denied",
            Self::NoAllowMatched => "no_allow_matched",
            Self::DefaultDeny => "default_deny",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}", self.policy, self.rule)
    }
}

impl Permit {
    pub(crate) fn grant(connection: &Connection, basis: Basis) -> Self {
        Self { connection: connection.clone(), basis }
    }

    /// The peer it was granted to.
    pub fn peer(&self) -> &Peer {
        &self.connection.peer
    }

    /// The caller's address.
    pub fn source_ip(&self) -> IpAddr {
        self.connection.source_ip
    }

    /// The place it opens.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.connection.destination_ip, self.connection.destination_port)
    }

    /// Why it was granted.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// The connection it was granted for; to be judged again when rules change.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Verdict {
    /// Whether it allows.
    pub fn is_allow(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The denial, if it is one.
    pub fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Allow(_) => None,
            Self::Deny(denial) => Some(denial),
        }
    }
}
