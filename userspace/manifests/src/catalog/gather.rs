//! One pass over the files.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use super::{
    Catalog, File, Held, Standing,
    header::{Header, MESH, Meant, header, items, put_default_namespace},
};
use crate::{
    complaint::{Complaint, Severity},
    document::{Broken, documents},
    fields::Note,
    kinds::{self, Object},
    object::{ObjectKey, ObjectKind, Origin},
};

const NAME_REMEDY: &str = "give it a name, in quotes where YAML takes it for something else (y, no, 1)";
const NAMESPACE_REMEDY: &str = "write the namespace in quotes, or leave it out for \"default\"";

pub(super) fn gather(files: &[File], previous: &Catalog) -> (Catalog, Vec<Complaint>) {
    let mut order: Vec<&File> = files.iter().collect();
    order.sort_by(|a, b| a.name.cmp(&b.name));
    let mut pass = Pass::new(previous);
    for file in order {
        pass.read_file(file);
    }
    pass.keep_what_damaged_files_said();
    pass.stand_in_for_what_nobody_can_read();
    pass.list_ignored_kinds();
    pass.complaints.sort();
    let held = pass.held.into_iter().map(|(key, held)| (key, Arc::new(held))).collect();
    (Catalog { held, live: None }, pass.complaints)
}

struct Pass<'p> {
    previous: &'p Catalog,
    held: BTreeMap<ObjectKey, Held>,
    complaints: Vec<Complaint>,
    /// By apiVersion and kind: where first, and how many.
    ignored: BTreeMap<(String, String), (Origin, usize)>,
    /// Files of which a part could not be understood at all: any object of theirs may be the broken one.
    damaged: BTreeSet<String>,
    /// Objects that are there, but in no readable form.
    unreadable: BTreeMap<ObjectKey, (Origin, String)>,
}

impl<'p> Pass<'p> {
    fn new(previous: &'p Catalog) -> Self {
        Self {
            previous,
            held: BTreeMap::new(),
            complaints: Vec::new(),
            ignored: BTreeMap::new(),
            damaged: BTreeSet::new(),
            unreadable: BTreeMap::new(),
        }
    }

    fn read_file(&mut self, file: &File) {
        let text = match &file.text {
            Ok(text) => text,
            Err(why) => {
                let origin = Origin { file: file.name.clone(), line: 0 };
                self.damage(&origin, "file_unreadable", format!("the file cannot be read: {why}"), "mend or remove it");
                return;
            }
        };
        let documents = documents(&file.name, text);
        if documents.is_empty() && self.previous.held.values().any(|held| held.origin.file == file.name) {
            self.file_emptied(file);
        }
        for document in documents {
            match document.content {
                Ok(value) => items(value).into_iter().for_each(|value| self.read_value(&document.origin, value)),
                Err(broken) => self.read_broken(&document.origin, broken),
            }
        }
    }

    /// Rather cut off (by a full disk, or a writer that is not done) than meant: who means it removes the file.
    fn file_emptied(&mut self, file: &File) {
        let origin = Origin { file: file.name.clone(), line: 0 };
        let text = "it held objects and says nothing any more".to_owned();
        self.damage(&origin, "file_emptied", text, "remove the file if its objects are to go");
    }

    fn read_value(&mut self, origin: &Origin, mut value: Value) {
        match header(&value) {
            Header::Ours { key, defaulted } => {
                if defaulted {
                    put_default_namespace(&mut value);
                    let text = "no namespace is written: it is taken for \"default\"";
                    self.complain(origin, Some(&key), Severity::Info, "no_namespace", text, "write metadata.namespace");
                }
                self.read_object(origin, key, value);
            }
            Header::Misspelt { meant, api_version, kind } => {
                let text = format!("kind {kind} ({api_version}) is not read");
                let version = meant.kind.api_versions().first().copied().unwrap_or_default();
                let remedy = format!("did you mean kind {} of apiVersion {version}?", meant.kind.as_str());
                self.damage(origin, "kind_misspelt", text.clone(), &remedy);
                self.note_unreadable(origin, meant, &text);
            }
            Header::Foreign { api_version, kind } => {
                self.ignored.entry((api_version, kind)).or_insert_with(|| (origin.clone(), 0)).1 += 1;
            }
            Header::UnknownVersion { key, api_version } => {
                let text = format!("{} is not read in version {api_version}", key.kind.as_str());
                let remedy = format!("write apiVersion: {}", key.kind.api_versions().join(" or "));
                self.complain(origin, Some(&key), Severity::Error, "unknown_version", &text, &remedy);
                self.unreadable.insert(key, (origin.clone(), text));
            }
            Header::Nameless(meant) => {
                let text = format!("a {} whose metadata.name is missing or not a string", meant.kind.as_str());
                self.damage(origin, "no_name", text.clone(), NAME_REMEDY);
                self.note_unreadable(origin, meant, &text);
            }
            Header::NamespaceUnclear(meant) => {
                let what = meant.kind.as_str();
                let called = meant.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
                let text = format!("{what}{called}: metadata.namespace is not a string: it is in no namespace");
                self.damage(origin, "bad_namespace", text.clone(), NAMESPACE_REMEDY);
                for meant in meant.spelt() {
                    self.note_unreadable(origin, meant, &text);
                }
            }
            Header::Nothing { why, meant } => {
                self.damage(origin, "not_an_object", why.to_owned(), "write apiVersion, kind and metadata.name");
                if let Some(meant) = meant {
                    self.note_unreadable(origin, meant, why);
                }
            }
        }
    }

    fn read_object(&mut self, origin: &Origin, key: ObjectKey, value: Value) {
        let reading = kinds::read(&key, &value);
        for note in reading.notes {
            self.complaints.push(complaint(origin, &key, note));
        }
        let value = Arc::new(value);
        if let Some(first) = self.held.get(&key) {
            let same = first.value.as_ref() == Some(&value);
            let first = first.origin.clone();
            self.duplicate(origin, key, &first, same);
            return;
        }
        let fresh = reading.object.map(|object| Held {
            origin: origin.clone(),
            object,
            standing: Standing::Fresh,
            value: Some(value),
        });
        match fresh {
            Some(held) => drop(self.held.insert(key, held)),
            None => self.fall_back(origin, key, reading.stand_in),
        }
    }

    /// Two objects of one key: which of them is meant, nobody can tell.
    fn duplicate(&mut self, origin: &Origin, key: ObjectKey, first: &Origin, same: bool) {
        let text = format!("it is written at {first} as well");
        if same {
            self.complain(origin, Some(&key), Severity::Warning, "duplicate_object", &text, "remove one");
            return;
        }
        self.complain(origin, Some(&key), Severity::Error, "duplicate_object", &text, "remove one");
        if key.kind.fails_closed() {
            self.held.remove(&key);
            let stand_in = kinds::stand_in(&key, "it is written twice, differently");
            self.fall_back(origin, key, stand_in);
        }
    }

    /// The last good version, or the closed stand-in where the kind has one, or nothing.
    fn fall_back(&mut self, origin: &Origin, key: ObjectKey, stand_in: Option<Object>) {
        let (held, text) = if let Some(held) = self.last_good(&key) {
            (Some(held), "its last good version stays in force".to_owned())
        } else if let Some(object) = stand_in {
            let text = closed_text(&object);
            (Some(Held { origin: origin.clone(), object, standing: Standing::Invalid, value: None }), text)
        } else {
            (None, "it is left out: it has no last good version".to_owned())
        };
        self.complain(origin, Some(&key), Severity::Info, "fallback", &text, "");
        if let Some(held) = held {
            self.held.insert(key, held);
        }
    }

    fn last_good(&self, key: &ObjectKey) -> Option<Held> {
        let held = self.previous.held.get(key).filter(|held| held.standing != Standing::Invalid)?;
        Some(Held { standing: Standing::LastGood, ..(**held).clone() })
    }

    fn read_broken(&mut self, origin: &Origin, broken: Broken) {
        let at = Origin { file: origin.file.clone(), line: broken.line };
        let text = format!("the document that begins at line {} is not YAML: {}", origin.line, broken.why);
        self.damage(&at, "not_yaml", text, "the other documents of the file are read");
        let meant = meant_by(&broken);
        for meant in meant {
            self.note_unreadable(origin, meant, "its YAML cannot be read");
        }
    }

    fn note_unreadable(&mut self, origin: &Origin, meant: Meant, why: &str) {
        let Meant { kind, namespace, name } = meant;
        let namespace = if kind.namespaced() { namespace } else { String::new() };
        let name = match kind {
            ObjectKind::Mesh => MESH.to_owned(),
            _ => name.unwrap_or_else(|| format!("unnamed-{}-{}", origin.file, origin.line)),
        };
        self.unreadable.insert(ObjectKey { kind, namespace, name }, (origin.clone(), why.to_owned()));
    }

    fn keep_what_damaged_files_said(&mut self) {
        for (key, held) in &self.previous.held {
            if self.damaged.contains(&held.origin.file) && !self.held.contains_key(key) {
                let good = self.last_good(key);
                let text = match good {
                    Some(_) => {
                        "its file is damaged and does not show it any more: its last good version stays in force"
                    }
                    None => "its file is damaged and does not show it any more: it stays closed",
                };
                let kept = good.unwrap_or_else(|| (**held).clone());
                self.complain(&kept.origin, Some(key), Severity::Info, "fallback", text, "");
                self.held.insert(key.clone(), kept);
            }
        }
    }

    fn stand_in_for_what_nobody_can_read(&mut self) {
        for (key, (origin, why)) in std::mem::take(&mut self.unreadable) {
            let stand_in = kinds::stand_in(&key, &why);
            if !self.held.contains_key(&key) && (stand_in.is_some() || self.last_good(&key).is_some()) {
                self.fall_back(&origin, key, stand_in);
            }
        }
    }

    fn list_ignored_kinds(&mut self) {
        for ((api_version, kind), (origin, count)) in std::mem::take(&mut self.ignored) {
            let text =
                format!("kind {kind} ({api_version}) is ignored, here and wherever else it is written ({count})");
            self.complain(&origin, None, Severity::Info, "kind_ignored", &text, "");
        }
    }

    fn damage(&mut self, origin: &Origin, reason: &'static str, text: String, remedy: &str) {
        self.damaged.insert(origin.file.clone());
        self.complain(origin, None, Severity::Error, reason, &text, remedy);
    }

    fn complain(
        &mut self,
        origin: &Origin,
        object: Option<&ObjectKey>,
        severity: Severity,
        reason: &'static str,
        text: &str,
        remedy: &str,
    ) {
        self.complaints.push(Complaint {
            origin: origin.clone(),
            object: object.cloned(),
            severity,
            field: String::new(),
            reason,
            text: text.to_owned(),
            remedy: remedy.to_owned(),
        });
    }
}

/// What a document that cannot be read may hold: each kind that it names, in each namespace that it names. Rather too
/// much is closed than that a list's second item, or a namespace behind somebody's label, stays open.
fn meant_by(broken: &Broken) -> Vec<Meant> {
    let kinds = broken.kinds.iter().filter_map(|kind| ObjectKind::of(kind.strip_suffix("List").unwrap_or(kind)));
    let kinds: BTreeSet<ObjectKind> = kinds.collect();
    let default = BTreeSet::from(["default".to_owned()]);
    let namespaces = if broken.namespaces.is_empty() { &default } else { &broken.namespaces };
    let name = broken.names.first().filter(|_| broken.names.len() == 1 && kinds.len() == 1 && namespaces.len() == 1);
    let mut meant = Vec::new();
    for kind in kinds {
        if kind == ObjectKind::Namespace {
            let named = |name: &String| Meant { kind, namespace: String::new(), name: Some(name.clone()) };
            meant.extend(broken.names.iter().map(named));
            continue;
        }
        meant.extend(namespaces.iter().map(|namespace| Meant {
            kind,
            namespace: namespace.clone(),
            name: name.cloned(),
        }));
    }
    meant
}

pub(super) fn closed_text(stand_in: &Object) -> String {
    format!("until it is mended {}", stand_in.while_broken())
}

pub(super) fn complaint(origin: &Origin, key: &ObjectKey, note: Note) -> Complaint {
    Complaint {
        origin: origin.clone(),
        object: Some(key.clone()),
        severity: note.severity,
        field: note.field,
        reason: note.reason,
        text: note.text,
        remedy: note.remedy,
    }
}
