//! What a CNI plugin says when it fails.

use std::{fmt, io};

use serde::Serialize;

/// Error codes of the CNI specification.
pub mod code {
    /// The configuration's version is none of ours.
    pub const INCOMPATIBLE: u32 = 1;
    /// A variable of the environment is missing or wrong.
    pub const ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// The configuration cannot be read.
    pub const DECODE: u32 = 6;
    /// The configuration cannot be used.
    pub const CONFIG: u32 = 7;
    /// Passing trouble: the runtime should try again.
    pub const TRY_AGAIN: u32 = 11;
}

/// Version that an error is written in when the configuration names none that is known.
const OWN_VERSION: &str = "1.0.0";

/// An error, as the runtime and kubelet get to see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The configuration's version.
    #[serde(rename = "cniVersion")]
    pub version: String,
    /// One of [`code`].
    pub code: u32,
    /// One line: who, what, and a stable word where there is one.
    pub msg: String,
    /// What to do about it, or what exactly was wrong.
    pub details: String,
}

impl Failure {
    /// An error of this kind.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { version: OWN_VERSION.to_owned(), code, msg: msg.into(), details: details.into() }
    }

    /// Reading or writing failed.
    pub fn io(msg: &str, error: &io::Error) -> Self {
        Self::new(code::IO, msg, error.to_string())
    }

    /// The pod has to wait.
    pub fn wait(reason: &str, details: impl Into<String>) -> Self {
        Self::new(code::TRY_AGAIN, format!("culvert: the pod waits: {reason}"), details)
    }

    /// The same, written in the configuration's version.
    #[must_use]
    pub fn in_version(self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self }
    }

    /// As the specification wants it on standard output.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {}): {}", self.msg, self.code, self.details)
    }
}
