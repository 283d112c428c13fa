//! The enrolment socket's messages: one JSON line each way, the network namespace beside it as a descriptor.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use crate::{MAX_LINE, ProtocolError, receive};
use crate::{is_uid, line};

/// Longest answer.
const MAX_ANSWER: usize = MAX_LINE * 4;

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Capture the pod whose network namespace comes along.
    Enrol {
        /// The pod's UID.
        uid: String,
        /// What else the caller says of the pod.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<Claim>,
    },
    /// Let the pod go. If a network namespace comes along, only where it is the pod's: a pod whose sandbox was made
    /// anew keeps its UID.
    Withdraw {
        /// The pod's UID.
        uid: String,
    },
    /// Ask the kernel whether the pod is captured.
    Check {
        /// The pod's UID.
        uid: String,
    },
    /// Take culvert's CNI configuration and plugin away, let all pods go and take on no new ones.
    Uninstall,
}

/// What a CNI plugin says of a pod: compared with the record, never believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Interfaces on the node's side, as the plugins before say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub veths: Vec<String>,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Answer {
    /// Done, or was so already.
    pub ok: bool,
    /// The pod's addresses, read in its namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The SPIFFE ID that the pod proves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Why not: a word of docs/operating/reasons.md.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Reads a complete request line. `None`: more bytes are needed.
pub fn parse(buffer: &[u8]) -> Result<Option<Request>, ProtocolError> {
    let Some(text) = line::complete(buffer)? else { return Ok(None) };
    let request: Request = line::read(text)?;
    match &request {
        Request::Enrol { uid, .. } | Request::Withdraw { uid } | Request::Check { uid } if !is_uid(uid) => {
            Err(ProtocolError::BadUid)
        }
        _ => Ok(Some(request)),
    }
}

/// The client's half: asks the agent behind `socket` and waits for its answer, at most `patience` per read.
pub fn ask(
    socket: &Path,
    request: &Request,
    netns: Option<&OwnedFd>,
    patience: Option<Duration>,
) -> Result<Answer, ProtocolError> {
    let fds: Vec<_> = netns.iter().map(|netns| netns.as_fd()).collect();
    let (answer, _) = line::exchange(socket, &line::written(request)?, &fds, patience, MAX_ANSWER)?;
    serde_json::from_slice(&answer).map_err(|error| ProtocolError::Malformed(format!("the agent's answer: {error}")))
}
