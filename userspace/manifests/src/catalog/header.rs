//! Which object is it: `apiVersion`, `kind`, `metadata.namespace`, `metadata.name`.

use serde_json::Value;

use crate::{
    fields::nearest,
    object::{ObjectKey, ObjectKind},
};

/// The namespace of what does not say one.
const DEFAULT_NAMESPACE: &str = "default";
/// There is one Mesh, whatever it is called.
const MESH: &str = "mesh";

/// What a value is.
#[derive(Debug)]
pub(super) enum Header {
    /// An object of a kind that is read. `defaulted`: it had no namespace and got `default`.
    Ours { key: ObjectKey, defaulted: bool },
    /// An object of another kind.
    Foreign {
        api_version: String,
        kind: String,
        /// A policy, most likely, with a slip in its kind or its group.
        meant: Option<ObjectKind>,
    },
    /// Ours by its group, but in a version that nobody knows.
    UnknownVersion { key: ObjectKey, api_version: String },
    /// Ours, but it has no name.
    Nameless { kind: ObjectKind, namespace: String },
    /// Not an object.
    Nothing(&'static str),
}

pub(super) fn header(value: &Value) -> Header {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return Header::Nothing(if value.is_object() { "apiVersion or kind is missing" } else { "not an object" });
    };
    let ours =
        ObjectKind::of(kind).filter(|kind| kind.api_versions().iter().any(|known| group(known) == group(api_version)));
    let Some(kind) = ours else {
        let meant = meant(api_version, kind);
        return Header::Foreign { api_version: api_version.to_owned(), kind: kind.to_owned(), meant };
    };
    let metadata = |key: &str| value.get("metadata")?.get(key)?.as_str().filter(|text| !text.is_empty());
    let namespace = if kind.namespaced() { metadata("namespace").unwrap_or(DEFAULT_NAMESPACE) } else { "" };
    let name = match (kind, metadata("name")) {
        (ObjectKind::Mesh, _) => MESH,
        (_, Some(name)) => name,
        (_, None) => return Header::Nameless { kind, namespace: namespace.to_owned() },
    };
    let key = ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    if !kind.api_versions().contains(&api_version) {
        return Header::UnknownVersion { key, api_version: api_version.to_owned() };
    }
    Header::Ours { key, defaulted: kind.namespaced() && metadata("namespace").is_none() }
}

/// The kind of policy that somebody meant who slipped in its kind or its group. A policy that goes unread leaves open what it
/// should close.
fn meant(api_version: &str, kind: &str) -> Option<ObjectKind> {
    let policies = [ObjectKind::AuthorizationPolicy, ObjectKind::PeerAuthentication, ObjectKind::RequestAuthentication];
    nearest(&group(api_version), &[culvert_policy::istio::GROUP])?;
    let near = nearest(kind, &policies.map(ObjectKind::as_str))?;
    policies.into_iter().find(|policy| policy.as_str() == near)
}

/// The group of an `apiVersion`, also where the version was forgotten.
fn group(api_version: &str) -> String {
    let group = api_version.rsplit_once('/').map(|(group, _)| group);
    group.or_else(|| api_version.contains('.').then_some(api_version)).unwrap_or_default().to_owned()
}

/// The key of an object that is ours.
pub(crate) fn key_of(value: &Value) -> Option<ObjectKey> {
    match header(value) {
        Header::Ours { key, .. } => Some(key),
        _ => None,
    }
}

/// Writes the namespace into an object that has none.
pub(super) fn put_default_namespace(value: &mut Value) {
    let object = value.as_object_mut();
    let metadata = object.and_then(|object| object.get_mut("metadata")).and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        metadata.insert("namespace".to_owned(), DEFAULT_NAMESPACE.into());
    }
}

/// The items of a `List`, or of a `PodList` and its like, whose items need not say what they are; else the value.
pub(super) fn items(mut value: Value) -> Vec<Value> {
    let kind = value.get("kind").and_then(Value::as_str).and_then(|kind| kind.strip_suffix("List")).map(str::to_owned);
    let api_version = value.get("apiVersion").cloned();
    let list = value.get_mut("items").map(Value::take);
    let (Some(kind), Some(Value::Array(items))) = (kind, list) else {
        return vec![value];
    };
    let named = |mut item: Value| {
        if let (Some(object), false) = (item.as_object_mut(), kind.is_empty()) {
            object.entry("kind").or_insert_with(|| kind.clone().into());
            object.entry("apiVersion").or_insert_with(|| api_version.clone().unwrap_or_default());
        }
        item
    };
    items.into_iter().map(named).flat_map(items_of_items).collect()
}

fn items_of_items(value: Value) -> Vec<Value> {
    items(value)
}
