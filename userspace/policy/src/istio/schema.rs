//! The schemas of the two kinds, as the CRDs of security.istio.io state them, and the rules between fields that the
//! CRDs state as CEL.

use serde_json::Value;

use super::{
    Complaint, Kind,
    shape::{Shape, TEXT, TEXTS},
};

const LABEL_VALUE: Shape = Shape::Text { min: 0, max: 63, fits: |_| true };
pub(super) const SELECTOR: Shape =
    Shape::Record(&[("matchLabels", &Shape::Table { value: &LABEL_VALUE, min: 0, max: 4096 })], &[]);
const TARGET: Shape = Shape::Record(
    &[
        ("group", &Shape::Text { min: 0, max: 253, fits: is_group }),
        ("kind", &Shape::Text { min: 1, max: 63, fits: is_kind }),
        ("name", &Shape::Text { min: 1, max: 253, fits: |_| true }),
        ("namespace", &TEXT),
    ],
    &["kind", "name"],
);
pub(super) const TARGETS: Shape = Shape::List(&TARGET, 16);
const ACCOUNTS: Shape = Shape::List(&Shape::Text { min: 0, max: 320, fits: |_| true }, 16);
const SOURCE: Shape = Shape::Record(
    &[
        ("principals", &TEXTS),
        ("notPrincipals", &TEXTS),
        ("requestPrincipals", &TEXTS),
        ("notRequestPrincipals", &TEXTS),
        ("namespaces", &TEXTS),
        ("notNamespaces", &TEXTS),
        ("serviceAccounts", &ACCOUNTS),
        ("notServiceAccounts", &ACCOUNTS),
        ("trustDomains", &TEXTS),
        ("notTrustDomains", &TEXTS),
        ("ipBlocks", &TEXTS),
        ("notIpBlocks", &TEXTS),
        ("remoteIpBlocks", &TEXTS),
        ("notRemoteIpBlocks", &TEXTS),
    ],
    &[],
);
const OPERATION: Shape = Shape::Record(
    &[
        ("hosts", &TEXTS),
        ("notHosts", &TEXTS),
        ("ports", &TEXTS),
        ("notPorts", &TEXTS),
        ("methods", &TEXTS),
        ("notMethods", &TEXTS),
        ("paths", &TEXTS),
        ("notPaths", &TEXTS),
    ],
    &[],
);
const CONDITION: Shape = Shape::Record(&[("key", &TEXT), ("values", &TEXTS), ("notValues", &TEXTS)], &["key"]);
const RULE: Shape = Shape::Record(
    &[
        ("from", &Shape::List(&Shape::Record(&[("source", &SOURCE)], &[]), 512)),
        ("to", &Shape::List(&Shape::Record(&[("operation", &OPERATION)], &[]), usize::MAX)),
        ("when", &Shape::List(&CONDITION, usize::MAX)),
    ],
    &[],
);
pub(super) const AUTHORIZATION: Shape = Shape::Record(
    &[
        ("selector", &SELECTOR),
        ("targetRef", &TARGET),
        ("targetRefs", &TARGETS),
        ("action", &Shape::Choice(&["ALLOW", "DENY", "AUDIT", "CUSTOM"])),
        ("provider", &Shape::Record(&[("name", &TEXT)], &[])),
        ("rules", &Shape::List(&RULE, 512)),
    ],
    &[],
);
const MTLS: Shape = Shape::Record(&[("mode", &Shape::Choice(&["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]))], &[]);
pub(super) const AUTHENTICATION: Shape = Shape::Record(
    &[
        ("selector", &SELECTOR),
        ("mtls", &MTLS),
        ("portLevelMtls", &Shape::Table { value: &MTLS, min: 1, max: usize::MAX }),
    ],
    &[],
);

/// What the schema of its kind has against an object. Nothing for kinds that are not ours.
pub fn check_schema(object: &Value) -> Vec<Complaint> {
    let mut out = Vec::new();
    let (Some(kind), Some(members)) = (Kind::of(object), object.as_object()) else { return out };
    for name in members.keys() {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "spec" | "status") {
            out.push(Complaint::new(name, "unknown_field", format!("unknown field {name:?}"), "remove it"));
        }
    }
    let Some(spec) = members.get("spec") else { return out };
    match kind {
        Kind::AuthorizationPolicy => {
            AUTHORIZATION.check("spec", spec, &mut out);
            check_one_target(spec, &mut out);
            check_accounts_alone(spec, &mut out);
        }
        Kind::PeerAuthentication => {
            AUTHENTICATION.check("spec", spec, &mut out);
            check_ports(spec, &mut out);
        }
    }
    check_labels(spec, &mut out);
    out
}

fn check_one_target(spec: &Value, out: &mut Vec<Complaint>) {
    if ["selector", "targetRef", "targetRefs"].iter().filter(|name| spec.get(**name).is_some()).count() > 1 {
        out.push(Complaint::new(
            "spec",
            "one_target_only",
            "only one of targetRefs or selector can be set",
            "keep the one that is meant: selector for workloads, targetRefs for a waypoint",
        ));
    }
    let single = spec.get("targetRef").into_iter().map(|target| ("spec.targetRef".to_owned(), target));
    let many = items(spec, "targetRefs").map(|(i, target)| (format!("spec.targetRefs[{i}]"), target));
    for (field, target) in single.chain(many) {
        if target.get("namespace").and_then(Value::as_str).is_some_and(|namespace| !namespace.is_empty()) {
            out.push(Complaint::new(
                format!("{field}.namespace"),
                "target_namespace",
                "cross namespace referencing is not currently supported",
                "put the policy into the namespace of its target",
            ));
        }
    }
}

/// A present `serviceAccounts` excludes `principals` and `namespaces`, even when one of them is empty.
fn check_accounts_alone(spec: &Value, out: &mut Vec<Complaint>) {
    for (r, rule) in items(spec, "rules") {
        for (f, from) in items(rule, "from") {
            let has =
                |names: [&str; 2]| names.iter().any(|name| from.get("source").and_then(|s| s.get(name)).is_some());
            let accounts = has(["serviceAccounts", "notServiceAccounts"]);
            if accounts && (has(["principals", "notPrincipals"]) || has(["namespaces", "notNamespaces"])) {
                out.push(Complaint::new(
                    format!("spec.rules[{r}].from[{f}].source"),
                    "accounts_not_alone",
                    "Cannot set serviceAccounts with namespaces or principals",
                    "write NAMESPACE/ACCOUNT in serviceAccounts, or move one of them to a `from` entry of its own",
                ));
            }
        }
    }
}

fn check_ports(spec: &Value, out: &mut Vec<Complaint>) {
    let Some(ports) = spec.get("portLevelMtls") else { return };
    if labels(spec).is_none_or(|labels| labels.is_empty()) {
        out.push(Complaint::new(
            "spec.portLevelMtls",
            "ports_need_selector",
            "portLevelMtls requires selector",
            "add spec.selector.matchLabels: ports belong to workloads",
        ));
    }
    for key in ports.as_object().into_iter().flat_map(|ports| ports.keys()) {
        super::peer::check_port(key, out);
    }
}

fn check_labels(spec: &Value, out: &mut Vec<Complaint>) {
    for (key, value) in labels(spec).into_iter().flatten() {
        super::selector::check_label(key, value.as_str().unwrap_or_default(), out);
    }
}

fn labels(spec: &Value) -> Option<&serde_json::Map<String, Value>> {
    spec.get("selector")?.get("matchLabels")?.as_object()
}

fn items<'a>(parent: &'a Value, name: &str) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
    parent.get(name).and_then(Value::as_array).into_iter().flatten().enumerate()
}

/// A DNS subdomain, or nothing.
fn is_group(text: &str) -> bool {
    text.is_empty() || text.split('.').all(|part| is_name(part, |b| b.is_ascii_lowercase() || b.is_ascii_digit()))
}

fn is_kind(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && is_name(text, |b| b.is_ascii_alphanumeric())
}

/// Letters of one sort, with dashes inside.
fn is_name(text: &str, letter: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(|b| b == b'-' || letter(b))
}
