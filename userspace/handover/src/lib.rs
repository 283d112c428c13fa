//! What the programs of one node say to each other: a line of JSON each way over a Unix socket of root's, descriptors
//! beside it.
//!
//! ```text
//! culvert-cni, operators --enrolment::Request--> agent --keeping::Request--> culvert-keeper
//! ```

pub mod enrolment;
pub mod keeping;
pub mod known;
mod line;
mod pass;
#[cfg(test)]
mod tests;

pub use line::{MAX_LINE, complete};
pub use pass::{MAX_DESCRIPTORS, receive, send};

use std::io;

/// A request or an answer that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The socket failed.
    #[error("the enrolment socket failed")]
    Io(#[from] io::Error),
    /// Not a line of JSON as documented.
    #[error("the request is not one of docs/operating/settings.md: {0}")]
    Malformed(String),
    /// The UID cannot be a file's name.
    #[error("a pod's UID has 1 to 63 letters, digits, - and _")]
    BadUid,
}

impl ProtocolError {
    /// Stable word for log and answer.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io(_) => "enrol_socket_failed",
            Self::Malformed(_) => "enrol_malformed",
            Self::BadUid => "pod_uid_invalid",
        }
    }
}

/// Files and folders are named by UIDs: nothing else gets past this point.
pub(crate) fn is_uid(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&text.len()) && text.bytes().all(good)
}
