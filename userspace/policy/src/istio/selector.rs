//! Whom a policy concerns: metadata, `selector` and `targetRefs`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Complaint, GROUP};
use crate::model::{PolicyName, Selector};

/// Namespace of an object that states none, as in Kubernetes.
const DEFAULT_NAMESPACE: &str = "default";

/// `metadata.namespace` and `metadata.name`.
pub(super) fn name_of(object: &Value) -> PolicyName {
    let text = |name: &str| object.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str);
    let namespace = text("namespace").filter(|namespace| !namespace.is_empty()).unwrap_or(DEFAULT_NAMESPACE);
    PolicyName::new(namespace, text("name").unwrap_or_default())
}

/// The selector of an object. `selector: {}` counts as no selector.
pub(super) fn read(spec: Option<&Value>) -> Selector {
    let Some(spec) = spec else { return Selector::Namespace };
    let labels: BTreeMap<String, String> = spec
        .get("selector")
        .and_then(|s| s.get("matchLabels"))
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    if !labels.is_empty() {
        return Selector::Labels(labels);
    }
    let targets = targets(spec);
    if spec.get("selector").is_some() || targets.is_empty() {
        return Selector::Namespace;
    }
    let services: BTreeSet<String> = targets.iter().filter_map(|(_, target)| service(target)).collect();
    if services.is_empty() { Selector::Waypoint } else { Selector::Services(services) }
}

/// The name of a target that is a Service.
fn service(target: &Value) -> Option<String> {
    let text = |name: &str| target.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_service = text("kind") == "Service" && matches!(text("group"), "" | "core");
    is_service.then(|| text("name").to_owned())
}

/// The selector for a stand-in: when labels or targets cannot be trusted to say what was meant, all of the namespace.
pub(super) fn read_wide(spec: Option<&Value>, complaints: &[Complaint]) -> Selector {
    let doubtful = |field: &str| field.starts_with("spec.selector") || field.starts_with("spec.targetRef");
    if complaints.iter().any(|c| doubtful(&c.field) || c.field == "spec") {
        return Selector::Namespace;
    }
    read(spec)
}

/// Checks `selector`, `targetRef` and `targetRefs`.
pub(super) fn check(spec: &Value, complaints: &mut Vec<Complaint>, warnings: &mut Vec<Complaint>) {
    let selector = present(spec, "selector");
    let several = present(spec, "targetRefs").and_then(Value::as_array).is_some_and(|refs| !refs.is_empty());
    let used = [selector.is_some(), present(spec, "targetRef").is_some(), several];
    if used.into_iter().filter(|used| *used).count() > 1 {
        complaints.push(Complaint::new(
            "spec",
            "one_target_only",
            "only one of targetRefs or workloadSelector can be set",
            "keep the one that is meant: selector for workloads, targetRefs for a waypoint",
        ));
    }
    if let Some(selector) = selector {
        check_labels(selector, complaints, warnings);
    }
    for (field, target) in targets(spec) {
        check_target(&field, target, complaints);
        if service(target).is_none() {
            warnings.push(Complaint::new(
                field,
                "no_l7_layer",
                "only a waypoint holds what this target has to keep, and culvert has none: nothing is enforced for it",
                "name the Services behind it (kind: Service), or select their pods with spec.selector",
            ));
        }
    }
}

fn check_labels(selector: &Value, complaints: &mut Vec<Complaint>, warnings: &mut Vec<Complaint>) {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        check_label(key, value.as_str().unwrap_or_default(), complaints);
    }
    if labels.is_none_or(|labels| labels.is_empty()) {
        warnings.push(Complaint::new(
            "spec.selector",
            "selector_without_labels",
            "workload selector specified without labels",
            "it concerns all of the namespace; leave the selector out to say so",
        ));
    }
}

/// Checks one label of a selector.
pub(super) fn check_label(key: &str, value: &str, complaints: &mut Vec<Complaint>) {
    let field = format!("spec.selector.matchLabels[{key}]");
    if key.is_empty() {
        let text = format!("empty key is not supported in selector: \"={value}\"");
        complaints.push(Complaint::new(field.clone(), "empty_label_key", text, "name the label"));
    }
    if key.contains('*') || value.contains('*') {
        let text = format!("wildcard is not supported in selector: \"{key}={value}\"");
        complaints.push(Complaint::new(
            field,
            "wildcard_in_selector",
            text,
            "labels are compared whole; write the value",
        ));
    }
}

fn check_target(field: &str, target: &Value, complaints: &mut Vec<Complaint>) {
    let text = |name: &str| target.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("name").is_empty() {
        let field = format!("{field}.name");
        complaints.push(Complaint::new(field, "target_name", "targetRef name must be set", "name the object"));
    }
    if !text("namespace").is_empty() {
        complaints.push(Complaint::new(
            format!("{field}.namespace"),
            "target_namespace",
            "targetRef namespace must not be set; cross namespace referencing is not supported",
            "put the policy into the namespace of its target",
        ));
    }
    let known = matches!(
        (text("group"), text("kind")),
        ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
            | ("" | "core", "Service")
            | ("networking.istio.io", "ServiceEntry")
    );
    if !known {
        complaints.push(Complaint::new(
            format!("{field}.kind"),
            "target_kind",
            format!(
                "targetRef must be to one of Service, networking.istio.io/ServiceEntry, \
                 gateway.networking.k8s.io/Gateway, gateway.networking.k8s.io/GatewayClass but was {}/{}",
                text("group"),
                text("kind")
            ),
            format!("to select pods use spec.selector ({GROUP} knows no other target)"),
        ));
    }
}

fn targets(spec: &Value) -> Vec<(String, &Value)> {
    let single = present(spec, "targetRef").map(|target| ("spec.targetRef".to_owned(), target));
    // What a null entry is worth is the schema's business.
    let several = spec.get("targetRefs").and_then(Value::as_array).into_iter().flatten().enumerate();
    let several = several.filter(|(_, target)| !target.is_null());
    single.into_iter().chain(several.map(|(i, target)| (format!("spec.targetRefs[{i}]"), target))).collect()
}

/// A member that is there and not null.
pub(super) fn present<'a>(parent: &'a Value, name: &str) -> Option<&'a Value> {
    parent.get(name).filter(|value| !value.is_null())
}
