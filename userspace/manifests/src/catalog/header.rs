//! Which object is it: `apiVersion`, `kind`, `metadata.namespace`, `metadata.name`.

use serde_json::Value;

use crate::{
    fields::nearest,
    object::{ObjectKey, ObjectKind},
};

/// The namespace of what does not say one.
const DEFAULT_NAMESPACE: &str = "default";
/// There is one Mesh. In files it may be called anything; an API server can have several, and this one is meant.
pub(super) const MESH: &str = "mesh";

/// What a value is.
#[derive(Debug)]
pub(super) enum Header {
    /// An object of a kind that is read. `defaulted`: it had no namespace and got `default`.
    Ours { key: ObjectKey, defaulted: bool },
    /// An object of another kind.
    Foreign { api_version: String, kind: String },
    /// What closes something, most likely, with a slip in its kind or its group.
    Misspelt { meant: Meant, api_version: String, kind: String },
    /// Ours by its group, but in a version that nobody knows.
    UnknownVersion { key: ObjectKey, api_version: String },
    /// Ours, but it has no name.
    Nameless(Meant),
    /// Ours, but its namespace is something else than a text.
    NamespaceUnclear(Meant),
    /// Not an object; `meant` where one can be guessed.
    Nothing { why: &'static str, meant: Option<Meant> },
}

/// As much of an object's key as can be told.
#[derive(Debug, Clone)]
pub(super) struct Meant {
    pub(super) kind: ObjectKind,
    /// `default` where none is written.
    pub(super) namespace: String,
    pub(super) name: Option<String>,
}

impl Meant {
    /// The same in each namespace that may have been written: what YAML takes for a truth value has several spellings.
    pub(super) fn spelt(self) -> Vec<Self> {
        let words: &[&str] = match self.namespace.as_str() {
            "true" => &["true", "yes", "y", "on"],
            "false" => &["false", "no", "n", "off"],
            _ => return vec![self],
        };
        words.iter().map(|word| Self { namespace: (*word).to_owned(), ..self.clone() }).collect()
    }

    fn of(kind: ObjectKind, value: &Value) -> Self {
        let namespace = match metadata(value, "namespace") {
            _ if !kind.namespaced() => String::new(),
            Some(Value::String(text)) => text.clone(),
            // What people write without quotes where YAML takes it for something else.
            Some(other @ (Value::Number(_) | Value::Bool(_))) => other.to_string(),
            _ => DEFAULT_NAMESPACE.to_owned(),
        };
        let name = match (kind, metadata(value, "name").and_then(Value::as_str)) {
            (ObjectKind::Mesh, _) => Some(MESH),
            (_, name) => name,
        };
        Self { kind, namespace, name: name.map(str::to_owned) }
    }
}

pub(super) fn header(value: &Value) -> Header {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        let meant = text("kind").and_then(ObjectKind::of).map(|kind| Meant::of(kind, value));
        return Header::Nothing {
            why: if value.is_object() { "apiVersion or kind is missing" } else { "not an object" },
            meant,
        };
    };
    let ours =
        ObjectKind::of(kind).filter(|kind| kind.api_versions().iter().any(|known| group(known) == group(api_version)));
    let Some(kind) = ours else {
        let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
        return match misspelt(&api_version, &kind) {
            Some(meant) => Header::Misspelt { meant: Meant::of(meant, value), api_version, kind },
            None => Header::Foreign { api_version, kind },
        };
    };
    let meant = Meant::of(kind, value);
    let namespace = metadata(value, "namespace");
    if kind.namespaced() && namespace.is_some_and(|namespace| !namespace.is_string()) {
        return Header::NamespaceUnclear(meant);
    }
    let Meant { namespace: place, name: Some(name), .. } = meant else {
        return Header::Nameless(meant);
    };
    let key = ObjectKey { kind, namespace: place, name };
    if !kind.api_versions().contains(&api_version) {
        return Header::UnknownVersion { key, api_version: api_version.to_owned() };
    }
    Header::Ours { key, defaulted: kind.namespaced() && namespace.is_none() }
}

/// A member of `metadata` that says anything.
fn metadata<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    let says = |member: &&Value| !member.is_null() && member.as_str() != Some("");
    let members = value.as_object()?;
    // Whoever misspells it means it: what is refused for that closes its own namespace.
    let misspelt = || members.iter().find(|(name, _)| name.eq_ignore_ascii_case("metadata")).map(|(_, value)| value);
    members.get("metadata").or_else(misspelt)?.get(key).filter(says)
}

/// The kind that somebody meant who slipped in its kind or its group, of those that go unread at a price: what they should
/// close stays open.
fn misspelt(api_version: &str, kind: &str) -> Option<ObjectKind> {
    const CLOSING: [ObjectKind; 5] = [
        ObjectKind::AuthorizationPolicy,
        ObjectKind::PeerAuthentication,
        ObjectKind::RequestAuthentication,
        ObjectKind::Mesh,
        ObjectKind::Namespace,
    ];
    let group = group(api_version);
    let Some(near) = nearest(kind, &CLOSING.map(ObjectKind::as_str)) else {
        // The group has no other kinds: whatever it should be, it is about who may do what.
        return (group == culvert_policy::istio::GROUP).then_some(ObjectKind::AuthorizationPolicy);
    };
    let meant = CLOSING.into_iter().find(|known| known.as_str() == near)?;
    let part_of = |word: &str| group.split('.').any(|part| part == word);
    let its_own = match meant {
        ObjectKind::Namespace => group.is_empty(),
        ObjectKind::Mesh => part_of("culvert") || nearest(&group, &["culvert.dev"]).is_some(),
        _ => part_of("istio") || nearest(&group, &[culvert_policy::istio::GROUP]).is_some(),
    };
    // No kind of Kubernetes' own is called so.
    let of_no_group = group.is_empty() && kind.eq_ignore_ascii_case(near);
    (its_own || of_no_group).then_some(meant)
}

/// The group of an `apiVersion`, also where the version was forgotten.
fn group(api_version: &str) -> String {
    let group = api_version.rsplit_once('/').map(|(group, _)| group);
    group.or_else(|| api_version.contains('.').then_some(api_version)).unwrap_or_default().to_owned()
}

/// The key of an object that is ours, as files have it.
pub(super) fn key_in_files(value: &Value) -> Option<ObjectKey> {
    match header(value) {
        Header::Ours { key, .. } => Some(key),
        _ => None,
    }
}

/// The key of an object that is ours, as an API server has it: there a Mesh of another name is another object.
pub(crate) fn key_of(value: &Value) -> Option<ObjectKey> {
    let mut key = key_in_files(value)?;
    if key.kind == ObjectKind::Mesh {
        key.name = metadata(value, "name").and_then(Value::as_str).unwrap_or_default().to_owned();
    }
    Some(key)
}

/// Writes the namespace into an object that has none.
pub(super) fn put_default_namespace(value: &mut Value) {
    let object = value.as_object_mut();
    let metadata = object.and_then(|object| object.get_mut("metadata")).and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        metadata.insert("namespace".to_owned(), DEFAULT_NAMESPACE.into());
    }
}

/// The items of a `List`, or of a `PodList` and its like, whose items need not say what they are, and of a bare sequence;
/// else the value.
pub(super) fn items(mut value: Value) -> Vec<Value> {
    if let Value::Array(items) = value {
        return items.into_iter().flat_map(items_of_items).collect();
    }
    let kind = value.get("kind").and_then(Value::as_str);
    let of_items = |kind: &str| match kind.eq_ignore_ascii_case("list") {
        true => Some(String::new()),
        false => kind.strip_suffix("List").map(str::to_owned),
    };
    let kind = kind.and_then(of_items);
    let api_version = value.get("apiVersion").cloned();
    let mut members = value.as_object_mut().into_iter().flatten();
    let list = members.find(|(name, _)| name.eq_ignore_ascii_case("items")).map(|(_, list)| list.take());
    let (Some(kind), Some(list)) = (kind, list) else {
        return vec![value];
    };
    let items = match list {
        Value::Array(items) => items,
        // As Go writes a list without items.
        Value::Null => Vec::new(),
        // One item that should have been a list of one, or nothing that makes sense.
        item if kind.is_empty() || ObjectKind::of(&kind).is_some() => vec![item],
        _ => return vec![value],
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
