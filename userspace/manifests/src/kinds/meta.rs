//! `metadata`: names, UID, enrolment.

use std::collections::BTreeMap;

use culvert_workload::WorkloadUid;
use uuid::Uuid;

use crate::{
    complaint::Severity,
    fields::{Fields, Notes},
    object::{ObjectKey, ObjectKind},
};

/// The label or annotation that brings a namespace or pod under culvert.
const ENROLL: &str = "culvert.dev/enroll";
/// Istio's counterpart, which culvert follows only when told to, and does not fight either.
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";

/// What an object says about enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Enroll {
    /// `culvert.dev/enroll`; `None` where it says nothing.
    pub(crate) wanted: Option<bool>,
    /// `istio.io/dataplane-mode`: ambient, none, or nothing that concerns anybody here.
    pub(crate) istio: Option<bool>,
}

impl Enroll {
    /// What is wanted, where Istio's label means the same as culvert's.
    pub(crate) fn wish(self, istio_labels: bool) -> Option<bool> {
        self.wanted.or(self.istio.filter(|_| istio_labels))
    }

    /// Istio's data plane claims it.
    pub(crate) fn claimed_by_istio(self) -> bool {
        self.istio == Some(true)
    }
}

/// The UID of a pod whose manifest has none: UUIDv5 of `namespace/name` under UUIDv5(DNS, `culvert.dev`).
pub fn pod_uid(namespace: &str, name: &str) -> WorkloadUid {
    let space = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"culvert.dev");
    WorkloadUid::new(&Uuid::new_v5(&space, format!("{namespace}/{name}").as_bytes()).to_string())
}

const METADATA: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// `metadata`, with its field names checked.
pub(super) fn metadata<'v>(object: &Fields<'v>) -> Fields<'v> {
    object.inner("metadata").known(METADATA)
}

/// Names become part of identities and of resource names: they are checked as Kubernetes checks them.
pub(super) fn check_names(key: &ObjectKey, object: &Fields<'_>) {
    let label_only = matches!(key.kind, ObjectKind::Namespace | ObjectKind::Service);
    let good = if label_only { is_dns_label(&key.name) } else { is_dns_subdomain(&key.name) };
    let remedy = "use a-z, 0-9 and -, beginning and ending with a letter or digit, as Kubernetes asks for";
    if !good {
        let text = format!("{:?} is not a name of a {}", key.name, key.kind.as_str());
        object.notes().error("bad_name", "metadata.name", text, remedy);
    }
    if key.kind.namespaced() && !is_dns_label(&key.namespace) {
        let text = format!("{:?} is not the name of a namespace", key.namespace);
        object.notes().error("bad_name", "metadata.namespace", text, remedy);
    }
}

pub(crate) fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_dns_part(name)
}

/// Kubernetes bounds the whole of such a name and not its parts (`IsDNS1123Subdomain`).
pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_part)
}

fn is_dns_part(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    edge(name.as_bytes().first()) && edge(name.as_bytes().last()) && name.bytes().all(inner)
}

/// `metadata.labels`, and what labels and annotations say about enrolment.
pub(super) fn labels_and_enroll(metadata: &Fields<'_>) -> (BTreeMap<String, String>, Enroll) {
    let labels = metadata.text_map("labels");
    let annotations = metadata.text_map("annotations");
    let notes = metadata.notes();
    let label = wish(notes, "metadata.labels", &labels);
    let annotation = wish(notes, "metadata.annotations", &annotations);
    if let (Some(label), Some(annotation)) = (label, annotation)
        && label != annotation
    {
        let text = format!("{ENROLL} is {annotation} here and {label} as a label; the label holds");
        notes.warn("enroll_conflict", "metadata.annotations", text, "keep one of them");
    }
    let istio = match labels.get(DATAPLANE_MODE).map(String::as_str) {
        Some("ambient") => Some(true),
        Some("none") => Some(false),
        _ => None,
    };
    (labels, Enroll { wanted: label.or(annotation), istio })
}

fn wish(notes: &Notes, path: &str, map: &BTreeMap<String, String>) -> Option<bool> {
    match map.get(ENROLL)?.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        other => {
            let text = format!("{ENROLL} is {other:?}");
            notes.error("bad_enroll", path, text, "write \"true\" or \"false\", with quotes");
            None
        }
    }
}

/// Notes keys of culvert's own prefix that mean nothing: most of them are typing errors.
pub(super) fn check_own_keys(metadata: &Fields<'_>, known: &[&str]) {
    for section in ["labels", "annotations"] {
        let unknown = |key: &&String| key.starts_with("culvert.dev/") && !known.contains(&key.as_str());
        for key in metadata.text_map(section).keys().filter(unknown) {
            let text = format!("{key:?} means nothing here");
            let remedy = format!("culvert knows {}", known.join(", "));
            metadata.notes().add(Severity::Warning, "unknown_key", metadata.at(section), text, remedy);
        }
    }
}

pub(super) const NAMESPACE_KEYS: &[&str] = &[ENROLL];
pub(super) const POD_KEYS: &[&str] = &[ENROLL, super::pod::NON_TCP];
