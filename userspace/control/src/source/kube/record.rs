//! What is known of a policy object besides what it means: enough to write its status.

use std::collections::BTreeMap;

use culvert_manifests::{Complaint, Held, ObjectKey, ObjectKind, Severity};
use serde_json::Value;

/// Records of policy objects by key.
pub type Records = BTreeMap<ObjectKey, Record>;

/// One policy object.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// `apiVersion` in which it was read.
    pub api_version: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`: grows with each change of `spec`.
    pub generation: i64,
    /// `status` as it is now.
    pub status: Value,
    /// What stands for it: itself, its last good version, or what refuses everything.
    pub held: Option<Held>,
    /// Why it is refused; empty when it is not.
    pub errors: Vec<String>,
}

impl Record {
    /// Of an object of a kind that gets a status.
    pub(super) fn of(kind: ObjectKind, object: &Value, held: Option<&Held>, complaints: &[Complaint]) -> Option<Self> {
        let written = matches!(
            kind,
            ObjectKind::AuthorizationPolicy | ObjectKind::PeerAuthentication | ObjectKind::RequestAuthentication
        );
        let metadata = &object["metadata"];
        written.then(|| Self {
            api_version: object["apiVersion"].as_str().unwrap_or_default().to_owned(),
            uid: metadata["uid"].as_str().unwrap_or_default().to_owned(),
            generation: metadata["generation"].as_i64().unwrap_or_default(),
            status: object["status"].clone(),
            held: held.cloned(),
            errors: complaints.iter().filter(|complaint| complaint.severity == Severity::Error).map(sentence).collect(),
        })
    }
}

fn sentence(complaint: &Complaint) -> String {
    let field = if complaint.field.is_empty() { "" } else { ": " };
    format!("{}{field}{} [{}]", complaint.field, complaint.text, complaint.reason)
}
