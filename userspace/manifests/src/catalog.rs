//! Everything that a directory says, object by object, with the last good version where the present one is broken.

mod gather;
mod header;
mod live;

use std::sync::Arc;

use culvert_workload::SharedMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    complaint::Complaint,
    kinds::{self, Object},
    object::{ObjectKey, ObjectKind, Origin},
};

pub use live::Live;

pub(crate) use header::key_of;

/// One file of the directory.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name within the directory.
    pub name: String,
    /// What it says, or why it cannot be read.
    pub text: Result<String, String>,
}

/// What an object stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// As it is written now.
    Fresh,
    /// As it was when it could last be understood.
    LastGood,
    /// It could never be understood: a closed stand-in.
    Invalid,
}

/// One object of the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Where it is written.
    pub origin: Origin,
    /// What it says.
    pub object: Object,
    /// Since when, so to speak.
    pub standing: Standing,
    /// Its text as a value, to be kept on disk; `None` for a stand-in.
    value: Option<Arc<Value>>,
}

/// All objects by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    held: SharedMap<ObjectKey, Arc<Held>>,
    /// `None`: it comes from files.
    live: Option<Live>,
}

/// The last good version of an object, as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedObject {
    /// The file it was read from.
    pub file: String,
    /// The line it began at.
    pub line: u64,
    /// The whole object.
    pub value: Arc<Value>,
}

impl Catalog {
    /// Reads files, in the order of their names. What is broken keeps its version of `previous`; what is gone is gone.
    pub fn read(files: &[File], previous: &Self) -> (Self, Vec<Complaint>) {
        gather::gather(files, previous)
    }

    /// All objects, ordered by key.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectKey, &Held)> {
        self.held.iter().map(|(key, held)| (key, &**held))
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<&Held> {
        self.held.get(key).map(|held| &**held)
    }

    /// The objects of one kind, ordered by key.
    pub fn of_kind(&self, kind: ObjectKind) -> impl Iterator<Item = (&ObjectKey, &Held)> {
        let first = ObjectKey { kind, namespace: String::new(), name: String::new() };
        let all = self.held.range(first..).take_while(move |(key, _)| key.kind == kind);
        all.map(|(key, held)| (key, &**held))
    }

    /// One object, to be put into another catalog by [`Catalog::set`].
    pub fn share(&self, key: &ObjectKey) -> Option<Arc<Held>> {
        self.held.get(key).cloned()
    }

    /// Puts in what another catalog has of an object; nothing takes it out. Answers what was there.
    pub fn set(&mut self, key: ObjectKey, held: Option<Arc<Held>>) -> Option<Arc<Held>> {
        match held {
            Some(held) => self.held.insert(key, held),
            None => self.held.remove(&key),
        }
    }

    /// Says nothing at all.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What to keep on disk.
    pub fn saved(&self) -> Vec<SavedObject> {
        // An API server keeps its objects itself.
        if self.live.is_some() {
            return Vec::new();
        }
        let save = |held: &Held| {
            let value = held.value.clone()?;
            Some(SavedObject { file: held.origin.file.clone(), line: held.origin.line, value })
        };
        self.held.values().filter_map(|held| save(held)).collect()
    }

    /// The catalog that was kept on disk. What this version does not understand any more is left out.
    pub fn restore(saved: Vec<SavedObject>) -> Self {
        let restore = |saved: SavedObject| {
            let key = header::key_in_files(&saved.value)?;
            let object = kinds::read(&key, &saved.value).object?;
            let origin = Origin { file: saved.file, line: saved.line };
            let held = Held { origin, object, standing: Standing::LastGood, value: Some(saved.value) };
            Some((key, Arc::new(held)))
        };
        Self { held: saved.into_iter().filter_map(restore).collect(), live: None }
    }
}

#[cfg(test)]
mod tests;
