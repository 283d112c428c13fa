//! Policies of security.istio.io: `culvert_policy` reads them, here they are given a place and a name.

use std::{collections::BTreeMap, sync::Arc};

use culvert_policy::{
    Action, AuthorizationPolicy, MtlsMode, PeerAuthentication, PolicyName, Selector,
    istio::{self, Policy},
};
use serde_json::Value;

use super::{Object, Reading, meta};
use crate::{
    complaint::Severity,
    fields::{Fields, Notes},
    object::{ObjectKey, ObjectKind},
};

pub(super) fn read(key: &ObjectKey, value: &Value) -> Reading {
    let notes = Notes::default();
    let value = &without_nulls(value);
    meta::check_names(key, &Fields::of(value, String::new(), &notes));
    if key.kind == ObjectKind::RequestAuthentication {
        let text =
            "accepted, but nobody looks at tokens: a bad one is not refused, and what policies ask of one is unknown";
        let remedy = "have the application or its gateway check tokens; policies that ask for one let nobody in";
        notes.add(Severity::Warning, "not_enforced_at_l4", "", text, remedy);
        let object = super::request::read(&Fields::of(value, String::new(), &notes));
        return Reading::of(object, notes);
    }
    let (object, stand_in) = match istio::read(value) {
        Some(Ok(accepted)) => {
            add(&notes, Severity::Warning, accepted.warnings);
            (object(accepted.policy), None)
        }
        Some(Err(rejected)) => {
            add(&notes, Severity::Error, rejected.complaints);
            let stand_in = object(rejected.stand_in);
            (stand_in.clone(), Some(stand_in))
        }
        None => {
            notes.error("unknown_version", "apiVersion", "no such kind in this version", "write security.istio.io/v1");
            let stand_in = refusing(key, "unknown version");
            (stand_in.clone(), Some(stand_in))
        }
    };
    let stand_in = stand_in.or_else(|| notes.has_errors().then(|| refusing(key, "bad name")));
    Reading { stand_in, ..Reading::of(object, notes) }
}

/// The object as an API server would keep it: a member that is null counts as left out. A label's value that is null stays,
/// and is refused: without it the selector would concern more.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, value)| !value.is_null());
            let kept = kept.map(|(name, value)| {
                let value = if name == "matchLabels" { value.clone() } else { without_nulls(value) };
                (name.clone(), value)
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// A policy that refuses its whole namespace, for an object of which no more than its name can be told.
pub(super) fn refusing(key: &ObjectKey, why: &str) -> Object {
    let name = PolicyName::new(&key.namespace, &key.name);
    let invalid: Option<Arc<str>> = Some(why.into());
    if key.kind == ObjectKind::PeerAuthentication {
        return Object::PeerAuthentication(PeerAuthentication {
            name,
            selector: Selector::Namespace,
            mode: MtlsMode::Strict,
            port_modes: BTreeMap::new(),
            created: 0,
            invalid,
        });
    }
    Object::AuthorizationPolicy(AuthorizationPolicy {
        name,
        selector: Selector::Namespace,
        action: Action::Deny,
        dry_run: false,
        rules: Vec::new(),
        invalid,
    })
}

fn object(policy: Policy) -> Object {
    match policy {
        Policy::Authorization(policy) => Object::AuthorizationPolicy(policy),
        Policy::Authentication(policy) => Object::PeerAuthentication(policy),
    }
}

fn add(notes: &Notes, severity: Severity, complaints: Vec<istio::Complaint>) {
    for complaint in complaints {
        notes.add(severity, complaint.code, complaint.field, complaint.text, complaint.remedy);
    }
}
