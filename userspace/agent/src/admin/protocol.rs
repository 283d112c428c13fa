//! The admin socket's messages: a line of JSON each way. The answers are what `culvert --json` prints.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{outcome::Record, worker::Tunnels};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// How things stand.
    Status,
    /// What would happen to a connection, and why.
    Why {
        /// A pod as `namespace/name`, a service as `namespace/name`, or an address.
        source: String,
        /// The same.
        destination: String,
        /// Its port (a service's own port for a service).
        port: u16,
    },
    /// The last outcomes, oldest first.
    Recent {
        /// At most so many.
        limit: usize,
    },
    /// What is open now.
    Connections,
}

/// An answer, or why there is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// The answer.
    Ok(T),
    /// Why there is none.
    Error {
        /// Stable word.
        reason: String,
        /// For people.
        message: String,
    },
}

/// How things stand.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub node: String,
    /// Generation of the control plane's state that is enforced; none before the first.
    pub generation: Option<u64>,
    /// The control plane's stream is up.
    pub control_connected: bool,
    /// The enrolled pods.
    pub pods: Vec<PodStatus>,
    /// Pods that the kernel keeps closed and the agent does not hold: UID and reason.
    #[serde(default)]
    pub closed: BTreeMap<String, String>,
    /// Their identities.
    pub identities: Vec<IdentityStatus>,
    /// Tunnels of all workers.
    pub tunnels: Tunnels,
    /// One line on what is still open.
    pub open: String,
}

/// One pod.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Addresses read in its namespace.
    pub addresses: Vec<IpAddr>,
    /// Whom it proves to be.
    pub identity: String,
    /// As read from the kernel just now.
    pub captured: bool,
    /// What is wrong, in the kernel's words; empty when nothing is.
    pub deviations: Vec<String>,
    /// Open connections.
    pub connections: usize,
    /// Connections that were open before its enrolment and still go on, outside of the mesh.
    #[serde(default)]
    pub pre_enrolment: usize,
    /// Its mode: `strict`, `permissive` or `disable`.
    pub mtls: String,
}

/// One identity of this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// The SPIFFE ID.
    pub identity: String,
    /// Seconds until its SVID ends; none without one.
    pub expires_in: Option<i64>,
    /// Serial number of the SVID.
    pub serial: Option<String>,
    /// Why the last renewal failed.
    pub last_failure: Option<String>,
}

/// One open connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connection {
    /// The local pod.
    pub pod: String,
    /// As it stood when it was opened.
    pub record: Record,
    /// Bytes that the client has sent so far.
    pub from_client: u64,
    /// Bytes that the client has got so far.
    pub to_client: u64,
}

/// What would happen to a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Why {
    /// Who calls.
    pub source: End,
    /// Who is called.
    pub destination: End,
    /// The port at the destination, after a service's port was translated.
    pub port: u16,
    /// How it would cross the wire: `hbone`, `plaintext`, `passthrough`, `hairpin` or `none`.
    pub transport: String,
    /// How the destination would know the caller.
    pub identity_from: String,
    /// Would it be.
    pub allowed: bool,
    /// Stable word: what refused it, or `allowed`.
    pub reason: String,
    /// The policy that decided.
    pub policy: Option<String>,
    /// Its rule.
    pub rule: Option<usize>,
    /// The whole explanation of the policy engine, with near misses; none where no policy is asked.
    pub explanation: Option<serde_json::Value>,
    /// Sentences for people.
    pub notes: Vec<String>,
}

/// One end of a connection that is asked about.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct End {
    /// What was asked for.
    pub asked: String,
    /// Its address.
    pub address: IpAddr,
    /// `namespace/name` of the pod.
    pub pod: Option<String>,
    /// Its identity, where it is enrolled.
    pub identity: Option<String>,
    /// Its node.
    pub node: Option<String>,
}
