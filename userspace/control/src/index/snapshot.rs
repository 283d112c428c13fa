//! Resources with their versions, by type.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use culvert_manifests::State;
use culvert_wire::{Kind, Resource, TrustBundle};
use prost_types::Any;
use sha2::{Digest, Sha256};

/// Everything that agents are told, at one generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Grows with every change, across restarts.
    pub generation: u64,
    tables: HashMap<Kind, Arc<Table>>,
}

/// The resources of one type by name.
pub type Table = BTreeMap<String, Arc<Entry>>;

/// One resource.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// SHA-256 of the body, hex.
    pub version: String,
    /// The body.
    pub body: Any,
}

impl Snapshot {
    /// The first one.
    pub fn new(generation: u64, state: &State, bundle: &TrustBundle) -> Self {
        let empty = Self { generation, tables: HashMap::new() };
        let tables = empty.tables_of(state, bundle);
        Self { generation, tables }
    }

    /// The next one, which shares what did not change; `None` when nothing did.
    pub fn next(&self, state: &State, bundle: &TrustBundle) -> Option<Self> {
        let tables = self.tables_of(state, bundle);
        (tables != self.tables).then_some(Self { generation: self.generation + 1, tables })
    }

    /// The resources of a type.
    pub fn table(&self, kind: Kind) -> Arc<Table> {
        self.tables.get(&kind).cloned().unwrap_or_default()
    }

    fn tables_of(&self, state: &State, bundle: &TrustBundle) -> HashMap<Kind, Arc<Table>> {
        let mut tables: HashMap<Kind, Table> = Kind::ALL.into_iter().map(|kind| (kind, Table::new())).collect();
        for resource in resources(state, bundle) {
            let (kind, name, body) = (resource.kind(), resource.name(), resource.encode());
            let old = self.tables.get(&kind).and_then(|table| table.get(&name)).filter(|old| old.body == body);
            let entry = old.cloned().unwrap_or_else(|| Arc::new(Entry { version: version(&body), body }));
            tables.entry(kind).or_default().insert(name, entry);
        }
        let share = |(kind, table): (Kind, Table)| {
            let old = self.tables.get(&kind).filter(|old| ***old == table);
            (kind, old.cloned().unwrap_or_else(|| Arc::new(table)))
        };
        tables.into_iter().map(share).collect()
    }
}

fn resources(state: &State, bundle: &TrustBundle) -> impl Iterator<Item = Resource> {
    let mesh = [Resource::Mesh(state.mesh.clone()), Resource::Bundle(bundle.clone())];
    mesh.into_iter()
        .chain(state.workloads.values().cloned().map(Resource::Workload))
        .chain(state.services.values().cloned().map(Resource::Service))
        .chain(state.authorization.values().cloned().map(Resource::AuthorizationPolicy))
        .chain(state.authentication.values().cloned().map(Resource::PeerAuthentication))
}

fn version(body: &Any) -> String {
    hex::encode(Sha256::digest(&body.value))
}
