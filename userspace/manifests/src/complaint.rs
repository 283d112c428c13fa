//! What is wrong with what people wrote, said so that they can mend it.

use std::fmt;

use crate::object::{ObjectKey, Origin};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; what is written holds.
    Info,
    /// What is written holds but for what the complaint says.
    Warning,
    /// The object is not taken: its last good version holds, or none.
    Error,
}

/// One complaint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// Where it was read.
    pub origin: Origin,
    /// Which object, where it is known.
    pub object: Option<ObjectKey>,
    /// How bad it is.
    pub severity: Severity,
    /// Path of the field, as in `spec.ports[0].port`; empty when it concerns the whole object or file.
    pub field: String,
    /// The stable word for logs and metrics.
    pub reason: &'static str,
    /// What is wrong.
    pub text: String,
    /// What to do about it; empty where the text says it already.
    pub remedy: String,
}

impl Severity {
    /// The stable word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `error: pods.yaml:12: Pod shop/web: spec.nodeName: text; remedy [reason]`
impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.severity, self.origin)?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.text)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        write!(f, " [{}]", self.reason)
    }
}
