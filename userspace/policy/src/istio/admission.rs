//! What Istio's webhook checks, and what an object says once it has passed.

use std::sync::Arc;

use serde_json::Value;

use super::{Complaint, Kind, Policy, authorization, complaint, hints, peer, selector};
use crate::model::{Action, PolicyName};

/// Go's spellings of true and false.
const TRUE: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];
const FALSE: [&str; 6] = ["0", "f", "F", "FALSE", "false", "False"];
const DRY_RUN: &str = "istio.io/dry-run";

/// The result of admission.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Review {
    /// Reasons to refuse the object.
    pub complaints: Vec<Complaint>,
    /// What is legal but probably not meant.
    pub warnings: Vec<Complaint>,
}

/// Checks what an object says, as Istio's webhook does. `None` for kinds that are not ours.
pub fn admit(object: &Value) -> Option<Review> {
    let kind = Kind::of(object)?;
    let mut review = Review::default();
    let empty = Value::Object(serde_json::Map::new());
    let spec = selector::present(object, "spec").unwrap_or(&empty);
    if object.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str).is_none_or(str::is_empty) {
        review.complaints.push(Complaint::new("metadata.name", "name_missing", "Required value", "name the object"));
    }
    match kind {
        Kind::AuthorizationPolicy => {
            check_dry_run(object, spec, &mut review.complaints);
            selector::check(spec, &mut review.complaints, &mut review.warnings);
            authorization::check(spec, &mut review.complaints, &mut review.warnings);
            hints::collect(object, &mut review.warnings);
        }
        Kind::PeerAuthentication => {
            if annotation(object).is_some() {
                review.complaints.push(dry_run_complaint(
                    "dry_run_unsupported",
                    "unsupported annotation istio.io/dry-run, please remove the annotation".to_owned(),
                ));
            }
            peer::check(spec, &mut review.complaints, &mut review.warnings);
        }
    }
    Some(review)
}

fn check_dry_run(object: &Value, spec: &Value, complaints: &mut Vec<Complaint>) {
    let Some(value) = annotation(object) else { return };
    let action = spec.get("action").and_then(Value::as_str).unwrap_or("ALLOW");
    if !matches!(action, "ALLOW" | "DENY") {
        let text = format!("the annotation {DRY_RUN} currently only supports action ALLOW/DENY, found action {action}");
        complaints.push(dry_run_complaint("dry_run_unsupported", text));
    } else if dry_run(value).is_none() {
        let text = format!("annotation {DRY_RUN} with invalid value ({value})");
        complaints.push(dry_run_complaint("dry_run_value", text));
    }
}

fn dry_run_complaint(code: &'static str, text: String) -> Complaint {
    let field = format!("metadata.annotations[{DRY_RUN}]");
    Complaint::new(
        field,
        code,
        text,
        "write \"true\" or \"false\" on an ALLOW or DENY AuthorizationPolicy, or remove it",
    )
}

/// The annotation as it stands there; a value that is no text is `null` and so no boolean.
fn annotation(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("annotations")?.get(DRY_RUN)
}

fn dry_run(value: &Value) -> Option<bool> {
    let text = value.as_str()?;
    if TRUE.contains(&text) { Some(true) } else { FALSE.contains(&text).then_some(false) }
}

/// The policy of an object without complaints.
pub(super) fn policy(kind: Kind, object: &Value) -> Policy {
    match kind {
        Kind::AuthorizationPolicy => {
            let mut policy = authorization::read(object);
            policy.dry_run = annotation(object).and_then(dry_run).unwrap_or(false);
            Policy::Authorization(policy)
        }
        Kind::PeerAuthentication => Policy::Authentication(peer::read(object)),
    }
}

/// What stands in for an object that is not understood: it selects the same and refuses all of it. `complaints`: all of
/// them, for one beyond those that people are told may be the one about the selector.
pub(super) fn stand_in(kind: Kind, object: &Value, complaints: &[Complaint]) -> Policy {
    let text = complaint::shortened(complaints).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let invalid: Option<Arc<str>> = Some(text.into());
    let wide = selector::read_wide(object.get("spec"), complaints);
    let name: PolicyName = selector::name_of(object);
    match policy(kind, object) {
        Policy::Authorization(mut policy) => {
            (policy.name, policy.selector, policy.invalid) = (name, wide, invalid);
            policy.rules.clear();
            // What only marks refuses nothing when it is broken, unless it may have been meant for something else.
            let doubtful = |c: &Complaint| c.field.starts_with("spec.action") || c.field.starts_with("spec.provider");
            if policy.action == Action::Audit && complaints.iter().any(doubtful) {
                policy.action = Action::Deny;
            }
            Policy::Authorization(policy)
        }
        Policy::Authentication(mut policy) => {
            (policy.name, policy.selector, policy.invalid) = (name, wide, invalid);
            Policy::Authentication(policy)
        }
    }
}
