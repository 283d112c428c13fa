//! Warnings beyond Istio's: what is legal but probably not what was meant.

use serde_json::Value;

use super::Complaint;

/// Collects the hints for an AuthorizationPolicy.
pub(super) fn collect(_spec: &Value, _warnings: &mut Vec<Complaint>) {}
