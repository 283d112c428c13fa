//! Strict reading of one object: every field that is not understood, and every value of the wrong shape, is noted.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use serde_json::{Map, Value};

use crate::complaint::Severity;

/// A complaint on its way: it does not know yet which file and object it is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Note {
    pub(crate) severity: Severity,
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    pub(crate) text: String,
    pub(crate) remedy: String,
}

/// Collects what is to be said about one object.
#[derive(Debug, Default)]
pub(crate) struct Notes(RefCell<Collected>);

/// Most notes of errors, and of everything else, that one object gets; the rest is counted.
const MOST: usize = 100;

#[derive(Debug, Default)]
struct Collected {
    notes: Vec<Note>,
    seen: HashSet<Note>,
    /// How many there were beyond the most, of errors and of everything else.
    more: [usize; 2],
}

impl Notes {
    pub(crate) fn add(
        &self,
        severity: Severity,
        reason: &'static str,
        field: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let note = Note { severity, reason, field: field.into(), text: text.into(), remedy: remedy.into() };
        let mut collected = self.0.borrow_mut();
        if !collected.seen.insert(note.clone()) {
            return;
        }
        let is_error = severity == Severity::Error;
        if collected.notes.iter().filter(|note| (note.severity == Severity::Error) == is_error).count() < MOST {
            collected.notes.push(note);
        } else {
            collected.more[usize::from(!is_error)] += 1;
        }
    }

    pub(crate) fn error(&self, reason: &'static str, field: impl Into<String>, text: impl Into<String>, remedy: &str) {
        self.add(Severity::Error, reason, field, text, remedy);
    }

    pub(crate) fn warn(&self, reason: &'static str, field: impl Into<String>, text: impl Into<String>, remedy: &str) {
        self.add(Severity::Warning, reason, field, text, remedy);
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.0.borrow().notes.iter().any(|note| note.severity == Severity::Error)
    }

    pub(crate) fn into_notes(self) -> Vec<Note> {
        let Collected { mut notes, more, .. } = self.0.into_inner();
        for (severity, count) in [Severity::Error, Severity::Warning].into_iter().zip(more) {
            if count > 0 {
                let (text, remedy) = (format!("{count} more of this kind"), "mend these first".to_owned());
                notes.push(Note { severity, reason: "and_more", field: String::new(), text, remedy });
            }
        }
        notes
    }
}

/// One mapping of the object, with its path.
#[derive(Clone)]
pub(crate) struct Fields<'v> {
    path: String,
    /// `None` where the mapping is absent: then every field is.
    map: Option<&'v Map<String, Value>>,
    notes: &'v Notes,
}

impl<'v> Fields<'v> {
    pub(crate) fn of(value: &'v Value, path: String, notes: &'v Notes) -> Self {
        let map = match value {
            Value::Object(map) => Some(map),
            Value::Null => None,
            other => {
                wrong_type(notes, &path, "a mapping", other);
                None
            }
        };
        Self { path, map, notes }
    }

    pub(crate) fn notes(&self) -> &'v Notes {
        self.notes
    }

    /// The path of one of its fields.
    pub(crate) fn at(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    pub(crate) fn present(&self) -> bool {
        self.map.is_some()
    }

    /// Warns of every field whose name is not one of `known`.
    pub(crate) fn known(self, known: &[&str]) -> Self {
        self.unknown(Severity::Warning, "unknown field, without any effect", known);
        self
    }

    /// The same where a part that nobody understands may be the one that closes something: each is an error.
    pub(crate) fn only(self, known: &[&str]) -> Self {
        self.unknown(Severity::Error, "unknown field", known);
        self
    }

    fn unknown(&self, severity: Severity, text: &str, known: &[&str]) {
        for key in self.map.into_iter().flat_map(Map::keys).filter(|key| !known.contains(&key.as_str())) {
            let remedy = match nearest(key, known) {
                Some(name) => format!("did you mean {name:?}?"),
                None => "remove it".to_owned(),
            };
            self.notes.add(severity, "unknown_field", self.at(key), text, remedy);
        }
    }

    fn get(&self, key: &str) -> Option<&'v Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl FnOnce(&'v Value) -> Option<T>) -> Option<T> {
        let value = self.get(key)?;
        let read = read(value);
        if read.is_none() {
            wrong_type(self.notes, &self.at(key), expected, value);
        }
        read
    }

    pub(crate) fn text(&self, key: &str) -> Option<&'v str> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// The names of its fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'v str> + use<'v> {
        self.map.into_iter().flat_map(Map::keys).map(String::as_str)
    }

    /// Items of a list; 0 where there is none.
    pub(crate) fn list_len(&self, key: &str) -> usize {
        self.list(key).len()
    }

    pub(crate) fn list_is_empty(&self, key: &str) -> bool {
        self.list_len(key) == 0
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A mapping; absent is an empty one.
    pub(crate) fn inner(&self, key: &str) -> Self {
        match self.get(key) {
            Some(value) => Self::of(value, self.at(key), self.notes),
            None => Self { path: self.at(key), map: None, notes: self.notes },
        }
    }

    fn list(&self, key: &str) -> &'v [Value] {
        self.typed(key, "a list", Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// A list of mappings.
    pub(crate) fn inners(&self, key: &str) -> Vec<Self> {
        let path = |index| format!("{}[{index}]", self.at(key));
        self.list(key).iter().enumerate().map(|(index, value)| Self::of(value, path(index), self.notes)).collect()
    }

    /// A list of strings, each with its path.
    pub(crate) fn texts(&self, key: &str) -> Vec<(String, &'v str)> {
        let mut texts = Vec::new();
        for (index, value) in self.list(key).iter().enumerate() {
            let path = format!("{}[{index}]", self.at(key));
            match value.as_str() {
                Some(text) => texts.push((path, text)),
                None => wrong_type(self.notes, &path, "a string", value),
            }
        }
        texts
    }

    /// A mapping from string to string, such as labels.
    pub(crate) fn text_map(&self, key: &str) -> BTreeMap<String, String> {
        let inner = self.inner(key);
        let mut texts = BTreeMap::new();
        for (name, value) in inner.map.into_iter().flatten() {
            match value.as_str() {
                Some(text) => drop(texts.insert(name.clone(), text.to_owned())),
                None => wrong_type(self.notes, &inner.at(name), "a string", value),
            }
        }
        texts
    }

    /// A port number.
    pub(crate) fn port(&self, key: &str) -> Option<u16> {
        let value = self.get(key)?;
        let port = value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0);
        if port.is_none() {
            let text = format!("{value} is not a port");
            self.notes.error("bad_port", self.at(key), text, "write a number between 1 and 65535, without quotes");
        }
        port
    }

    /// A port number or the name of a port.
    pub(crate) fn port_or_name(&self, key: &str) -> Option<PortOrName<'v>> {
        match self.get(key)? {
            Value::String(name) if is_port_name(name) => Some(PortOrName::Name(name)),
            Value::String(name) => {
                let text = format!("{name:?} is not the name of a port");
                let remedy = "a name has 1 to 15 characters of a-z, 0-9 and -, one of them a letter; a number is \
                              written without quotes";
                self.notes.error("bad_port", self.at(key), text, remedy);
                None
            }
            _ => self.port(key).map(PortOrName::Number),
        }
    }
}

/// A number, or a name that the pod resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortOrName<'v> {
    Number(u16),
    Name(&'v str),
}

/// IANA service name as Kubernetes checks it.
pub(crate) fn is_port_name(name: &str) -> bool {
    let plain = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let letter = name.bytes().any(|byte| byte.is_ascii_lowercase());
    let dashes = name.starts_with('-') || name.ends_with('-') || name.contains("--");
    (1..=15).contains(&name.len()) && plain && letter && !dashes
}

/// An address as people write it, IPv4 in IPv6 clothes undressed.
pub(crate) fn address(notes: &Notes, path: &str, text: &str) -> Option<IpAddr> {
    let address: Option<IpAddr> = text.parse().ok();
    match address.map(|address| address.to_canonical()) {
        Some(address) if usable(address) => Some(address),
        Some(_) => {
            let text = format!("{text:?} cannot be the address of a pod or service");
            notes.error("bad_address", path, text, "loopback, link-local, multicast and unspecified are nobody's");
            None
        }
        None => {
            notes.error(
                "bad_address",
                path,
                format!("{text:?} is not an IP address"),
                "write it without prefix length",
            );
            None
        }
    }
}

fn usable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

fn wrong_type(notes: &Notes, path: &str, expected: &str, got: &Value) {
    let kind = match got {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    };
    let remedy = if expected == "a string" { "put it in quotes" } else { "" };
    notes.error("bad_type", path, format!("expected {expected}, found {kind}"), remedy);
}

/// The known name that differs in at most two letters.
pub(crate) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let (key, length) = (key.to_ascii_lowercase(), key.chars().count());
    let as_long = |name: &&&str| name.chars().count().abs_diff(length) <= 2;
    let distance = |name: &&&str| edits(&key, &name.to_ascii_lowercase());
    known.iter().filter(as_long).min_by_key(distance).filter(|name| distance(name) <= 2).copied()
}

fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}
