//! What is known of a policy object besides what it means: enough to write its status.

use std::collections::BTreeMap;

use culvert_manifests::{ObjectKey, ObjectKind};
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
}

impl Record {
    /// Of an object of a kind that gets a status.
    pub(super) fn of(kind: ObjectKind, object: &Value) -> Option<Self> {
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
        })
    }
}
