//! Objects one by one, as an API server tells of them.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Catalog, Held, Standing,
    gather::{closed_text, complaint},
    header::{MESH, key_of},
};
use crate::{
    complaint::{Complaint, Severity},
    fields::Note,
    kinds,
    object::{ObjectKey, ObjectKind, Origin},
};

/// Where objects of an API server are "written".
const ORIGIN: &str = "kubernetes";
/// Complaints about kinds that the API server checks itself: they are about files, or about newer servers.
const MOOT: [&str; 6] = ["unknown_field", "no_node", "no_vip", "no_selector", "field_missing", "not_tcp"];

/// What holds for a catalog of an API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Live {
    /// `istio.io/dataplane-mode: ambient | none` means the same as `culvert.dev/enroll: "true" | "false"`.
    pub istio_labels: bool,
}

impl Catalog {
    /// An empty catalog for the objects of an API server. Other than one of files, it leaves out pods whose namespace
    /// is not known yet.
    pub fn of_api_server(live: Live) -> Self {
        Self { live: Some(live), ..Self::default() }
    }

    /// What holds where it is of an API server.
    pub fn live(&self) -> Option<Live> {
        self.live
    }

    /// Puts the present version of an object in. What is broken keeps its last good version; without one it is closed
    /// or left out, as in files. A Mesh of another name than `mesh` changes nothing. `None`: not an object of a kind that is
    /// read.
    pub fn put(&mut self, value: &Value) -> Option<(ObjectKey, Vec<Complaint>)> {
        let key = key_of(value)?;
        let origin = Origin { file: ORIGIN.to_owned(), line: 0 };
        if key.kind == ObjectKind::Mesh && key.name != MESH {
            let complaint = other_mesh(origin, &key);
            return Some((key, vec![complaint]));
        }
        let reading = kinds::read(&key, value);
        let notes = reading.notes.into_iter().filter(|note| !moot(key.kind, note));
        let mut complaints: Vec<Complaint> = notes.map(|note| complaint(&origin, &key, note)).collect();
        match reading.object {
            Some(object) => {
                let held = Held { origin, object, standing: Standing::Fresh, value: None };
                // What says the same stays the same object: readers compare by address first.
                if self.get(&key) != Some(&held) {
                    self.held.insert(key.clone(), Arc::new(held));
                }
            }
            None => {
                let text = self.fall_back(&key, &origin, reading.stand_in);
                complaints.push(Complaint {
                    origin,
                    object: Some(key.clone()),
                    severity: Severity::Info,
                    field: String::new(),
                    reason: "fallback",
                    text,
                    remedy: String::new(),
                });
            }
        }
        Some((key, complaints))
    }

    /// Takes an object out. `false`: there was none.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        self.held.remove(key).is_some()
    }

    fn fall_back(&mut self, key: &ObjectKey, origin: &Origin, stand_in: Option<kinds::Object>) -> String {
        if let Some(held) = self.held.get(key).filter(|held| held.standing != Standing::Invalid) {
            let held = Held { standing: Standing::LastGood, ..(**held).clone() };
            self.held.insert(key.clone(), Arc::new(held));
            return "its last good version stays in force".to_owned();
        }
        match stand_in {
            Some(object) => {
                let text = closed_text(&object);
                let held = Held { origin: origin.clone(), object, standing: Standing::Invalid, value: None };
                self.held.insert(key.clone(), Arc::new(held));
                text
            }
            None => {
                self.held.remove(key);
                "it is left out: it has no last good version".to_owned()
            }
        }
    }
}

/// Were it taken for the Mesh, deleting it would take away what the Mesh says.
fn other_mesh(origin: Origin, key: &ObjectKey) -> Complaint {
    Complaint {
        origin,
        object: Some(key.clone()),
        severity: Severity::Error,
        field: "metadata.name".to_owned(),
        reason: "mesh_name",
        text: format!("there is one Mesh, and it is called {MESH:?}: this one is not read"),
        remedy: format!("write its spec into the Mesh {MESH:?} and delete this one"),
    }
}

fn moot(kind: ObjectKind, note: &Note) -> bool {
    let own = matches!(
        kind,
        ObjectKind::Mesh
            | ObjectKind::PeerAuthentication
            | ObjectKind::AuthorizationPolicy
            | ObjectKind::RequestAuthentication
    );
    // Status is the cluster's to write, and every object of an API server has one.
    let status = note.field.starts_with("status") && note.reason == "unknown_field";
    status || !own && note.severity != Severity::Error && MOOT.contains(&note.reason)
}

#[cfg(test)]
mod tests;
