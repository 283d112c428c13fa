//! What all watches have said, as one catalog. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use culvert_manifests::{Catalog, Complaint, Live, ObjectKey};
use serde_json::Value;

use crate::index::Objects;

use super::{
    kinds::{WATCHED, Watched},
    record::{Record, Records},
};

/// What one watch says.
#[derive(Debug)]
pub(super) enum Heard {
    /// A list begins.
    Begin,
    /// The list was whole: what it did not show is gone.
    End,
    /// An object as it is now.
    Put(Value),
    /// An object as it was when it was deleted.
    Gone(Value),
    /// The watch runs.
    Fine,
    /// It does not, and is tried again.
    Failing(String),
}

/// Everything known so far.
#[derive(Debug)]
pub(super) struct Gather {
    catalog: Catalog,
    complaints: BTreeMap<ObjectKey, Vec<Complaint>>,
    /// The same one after the other, until one changes.
    said: Option<Arc<Vec<Complaint>>>,
    records: Records,
    /// What has changed since it was last asked for.
    touched: BTreeSet<ObjectKey>,
    /// Keys that each watch brought.
    known: BTreeMap<Watched, BTreeSet<ObjectKey>>,
    /// Of lists that are under way: what they have shown.
    listing: BTreeMap<Watched, BTreeSet<ObjectKey>>,
    /// Not listed once yet.
    waiting: BTreeSet<Watched>,
    failing: BTreeMap<Watched, String>,
}

impl Gather {
    pub(super) fn new(live: Live) -> Self {
        Self {
            catalog: Catalog::of_api_server(live),
            complaints: BTreeMap::new(),
            said: None,
            records: Records::new(),
            touched: BTreeSet::new(),
            known: BTreeMap::new(),
            listing: BTreeMap::new(),
            waiting: WATCHED.into_iter().collect(),
            failing: BTreeMap::new(),
        }
    }

    /// Takes one message. Answers whether anything is different now.
    pub(super) fn hear(&mut self, watched: Watched, heard: Heard) -> bool {
        match heard {
            Heard::Begin => {
                self.listing.insert(watched, BTreeSet::new());
                false
            }
            Heard::End => self.end(watched),
            Heard::Put(object) => self.put(watched, &object),
            Heard::Gone(object) => ObjectKey::of(&object).is_some_and(|key| self.remove(watched, &key)),
            Heard::Fine => self.failing.remove(&watched).is_some(),
            Heard::Failing(why) => self.failing.insert(watched, why).is_none(),
        }
    }

    /// Has every kind been listed.
    pub(super) fn is_complete(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What is waited for, or fails, for people.
    pub(super) fn waiting_for(&self) -> String {
        let names: Vec<&str> = self.waiting.iter().map(|watched| watched.name()).collect();
        names.join(", ")
    }

    /// Why the watches as a whole cannot be trusted to show the present.
    pub(super) fn failing(&self) -> Option<String> {
        self.failing.values().next().cloned()
    }

    /// Everything at once.
    pub(super) fn catalog(&mut self) -> (Catalog, Vec<Complaint>) {
        self.touched.clear();
        (self.catalog.clone(), self.complaints().to_vec())
    }

    /// What has changed since it was last asked for, with all that is to be said of single objects.
    pub(super) fn changes(&mut self) -> (Objects, Arc<Vec<Complaint>>) {
        let touched = std::mem::take(&mut self.touched);
        let now = |key: ObjectKey| {
            let held = self.catalog.share(&key);
            (key, held)
        };
        (touched.into_iter().map(now).collect(), self.complaints())
    }

    fn complaints(&mut self) -> Arc<Vec<Complaint>> {
        let said = || Arc::new(self.complaints.values().flatten().cloned().collect());
        Arc::clone(self.said.get_or_insert_with(said))
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    fn end(&mut self, watched: Watched) -> bool {
        let shown = self.listing.remove(&watched).unwrap_or_default();
        let known = self.known.get(&watched).cloned().unwrap_or_default();
        let gone: Vec<ObjectKey> = known.difference(&shown).cloned().collect();
        let removed = gone.iter().filter(|key| self.remove(watched, key)).count();
        let first = self.waiting.remove(&watched);
        let mended = self.failing.remove(&watched).is_some();
        removed > 0 || first || mended
    }

    fn put(&mut self, watched: Watched, object: &Value) -> bool {
        let ended =
            object["kind"] == "Pod" && matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if ended {
            // Nothing runs in it any more: no address, no identity.
            return ObjectKey::of(object).is_some_and(|key| self.remove(watched, &key));
        }
        let before = ObjectKey::of(object).and_then(|key| self.catalog.share(&key));
        let Some((key, complaints)) = self.catalog.put(object) else {
            tracing::warn!(kind = watched.name(), "the API server sent an object that is not of the kind");
            return false;
        };
        let mut changed = false;
        if let Some(record) = Record::of(key.kind, object, self.catalog.get(&key), &complaints) {
            changed |= self.records.get(&key) != Some(&record);
            self.records.insert(key.clone(), record);
        }
        // What reads the same is kept as the same object.
        let same = match (&before, self.catalog.share(&key)) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, &now),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.touched.insert(key.clone());
        }
        if let Some(shown) = self.listing.get_mut(&watched) {
            shown.insert(key.clone());
        }
        if self.complaints.get(&key).map_or(&[][..], Vec::as_slice) != complaints {
            self.said = None;
            changed = true;
            match complaints.is_empty() {
                true => drop(self.complaints.remove(&key)),
                false => drop(self.complaints.insert(key.clone(), complaints)),
            }
        }
        self.known.entry(watched).or_default().insert(key);
        changed || !same
    }

    fn remove(&mut self, watched: Watched, key: &ObjectKey) -> bool {
        if let Some(known) = self.known.get_mut(&watched) {
            known.remove(key);
        }
        if self.complaints.remove(key).is_some() {
            self.said = None;
        }
        self.touched.insert(key.clone());
        self.records.remove(key);
        self.catalog.remove(key)
    }
}
