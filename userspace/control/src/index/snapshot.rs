//! Resources with their versions, by type.

mod changes;
mod touched;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use culvert_manifests::State;
use culvert_wire::{Kind, Resource, TrustBundle};
use culvert_workload::{Mesh, Namespace, Protocol, Roster, ServiceName, SharedMap, Workload, WorkloadUid};
use prost_types::Any;
use sha2::{Digest, Sha256};

use changes::diff;
pub use touched::Touched;

/// The namespace whose services every guard may have to know, for DNS.
pub(crate) const DNS_NAMESPACE: &str = "kube-system";
/// Generations of which it is remembered what changed: a stream that is further behind is compared as a whole.
const REMEMBERED: usize = 64;

/// Everything that agents are told, at one generation.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows with every change, across restarts.
    pub generation: u64,
    tables: HashMap<Kind, Arc<Table>>,
    state: Arc<State>,
    bundle: Arc<TrustBundle>,
    roster: Roster,
    by_node: HashMap<Arc<str>, Arc<BTreeSet<WorkloadUid>>>,
    strays: Arc<Strays>,
    recent: VecDeque<Arc<Changes>>,
}

/// What has an address outside of the mesh's ranges, where an agent takes whom it does not know for the outside world:
/// agents have to know these beforehand.
#[derive(Debug, Default, Clone)]
pub struct Strays {
    /// Enrolled workloads.
    pub workloads: BTreeSet<WorkloadUid>,
    /// Services with such a virtual address.
    pub services: BTreeSet<ServiceName>,
}

/// The resources of one type by name.
pub type Table = SharedMap<Arc<str>, Arc<Entry>>;

/// The names that one generation changed.
pub type Names = HashMap<Kind, Vec<Arc<str>>>;

/// What made a generation of the one before it.
#[derive(Debug)]
pub struct Changes {
    generation: u64,
    /// The names that changed, by type.
    pub names: Names,
    /// Whom it may concern where nodes are served a part of the mesh.
    pub touched: Touched,
}

/// One resource.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// SHA-256 of the body, hex.
    pub version: String,
    /// The body.
    pub body: Any,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        (self.generation, &self.tables) == (other.generation, &other.tables)
    }
}

impl Snapshot {
    /// The first one.
    pub fn new(generation: u64, state: &State, bundle: &TrustBundle) -> Self {
        let mut first = Self {
            generation,
            tables: HashMap::new(),
            state: Arc::new(State::empty(state.mesh.clone())),
            bundle: Arc::new(bundle.clone()),
            roster: Roster::new(&state.mesh.cluster_ranges),
            by_node: HashMap::new(),
            strays: Arc::default(),
            recent: VecDeque::new(),
        };
        first.put(Resource::Mesh(state.mesh.clone()));
        first.put(Resource::Bundle(bundle.clone()));
        first.take(&Arc::new(state.clone()));
        first
    }

    /// The next one, which shares what did not change; `None` when nothing did.
    pub fn next(&self, state: &State, bundle: &TrustBundle) -> Option<Self> {
        let mut next = self.clone();
        next.generation += 1;
        let mut names = Names::new();
        if *bundle != *next.bundle {
            next.bundle = Arc::new(bundle.clone());
            names.entry(Kind::Bundle).or_default().push(next.put(Resource::Bundle(bundle.clone())));
        }
        if state.mesh != next.state.mesh {
            names.entry(Kind::Mesh).or_default().push(next.put(Resource::Mesh(state.mesh.clone())));
        }
        names.extend(next.take(&Arc::new(state.clone())));
        if names.is_empty() {
            return None;
        }
        let touched = Touched::of(self, &next, &names);
        next.recent.push_back(Arc::new(Changes { generation: next.generation, names, touched }));
        if next.recent.len() > REMEMBERED {
            next.recent.pop_front();
        }
        Some(next)
    }

    /// The resources of a type.
    pub fn table(&self, kind: Kind) -> Arc<Table> {
        self.tables.get(&kind).cloned().unwrap_or_default()
    }

    /// The same as domain objects.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Who lives where.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// What every agent has to know.
    pub fn strays(&self) -> &Strays {
        &self.strays
    }

    /// The workloads of a node.
    pub fn of_node(&self, node: &str) -> impl Iterator<Item = &WorkloadUid> {
        self.by_node.get(node).into_iter().flat_map(|uids| uids.iter())
    }

    /// What has changed since a former generation; `None` where that is too long ago.
    pub fn since(&self, generation: u64) -> Option<Vec<&Changes>> {
        let missing = self.generation.checked_sub(generation)?;
        let changes = self.recent.iter().filter(|changes| changes.generation > generation);
        let changes: Vec<&Changes> = changes.map(|changes| &**changes).collect();
        (changes.len() as u64 == missing).then_some(changes)
    }

    /// Takes over a state; gives the names that differ.
    fn take(&mut self, state: &Arc<State>) -> Names {
        let before = std::mem::replace(&mut self.state, Arc::clone(state));
        let ranges_changed = before.mesh.cluster_ranges != state.mesh.cluster_ranges;
        let mut names = Names::new();
        let mut roster = self.roster.edit();
        roster.set_cluster_ranges(&state.mesh.cluster_ranges);
        for (uid, now) in state.workloads.changes_since(&before.workloads, Arc::ptr_eq) {
            if let Some(old) = before.workloads.get(uid) {
                edit_node(&mut self.by_node, &old.node, |uids| uids.remove(uid));
            }
            self.note_stray(|strays| &mut strays.workloads, uid, now.is_some_and(|now| strays(now, &state.mesh)));
            match now {
                Some(workload) => {
                    roster.put_workload(Arc::clone(workload));
                    edit_node(&mut self.by_node, &workload.node, |uids| uids.insert(uid.clone()));
                }
                None => roster.remove_workload(uid),
            }
            let resource = now.map(|workload| Resource::Workload((**workload).clone()));
            names.entry(Kind::Workload).or_default().push(self.set(Kind::Workload, uid.as_str(), resource));
        }
        let all_same = Arc::ptr_eq(&before.services, &state.services);
        for (name, now) in diff(&before.services, &state.services, |_, _| all_same) {
            let astray = now.is_some_and(|now| outside(&now.vips, &state.mesh));
            self.note_stray(|strays| &mut strays.services, name, astray);
            match now {
                Some(service) => roster.put_service(Arc::new(service.clone())),
                None => roster.remove_service(name),
            }
            let resource = now.cloned().map(Resource::Service);
            names.entry(Kind::Service).or_default().push(self.set(Kind::Service, &name.to_string(), resource));
        }
        self.roster = roster.finish();
        if ranges_changed {
            self.strays = Arc::new(Strays::of(state));
        }
        self.take_policies(&before, state, &mut names);
        self.take_namespaces(&before, state, &mut names);
        names
    }

    fn take_policies(&mut self, before: &State, state: &State, names: &mut Names) {
        if !Arc::ptr_eq(&before.authorization, &state.authorization) {
            for (name, now) in diff(&before.authorization, &state.authorization, |_, _| false) {
                let (kind, resource) = (Kind::AuthorizationPolicy, now.cloned().map(Resource::AuthorizationPolicy));
                names.entry(kind).or_default().push(self.set(kind, &name.to_string(), resource));
            }
        }
        if !Arc::ptr_eq(&before.authentication, &state.authentication) {
            for (name, now) in diff(&before.authentication, &state.authentication, |_, _| false) {
                let (kind, resource) = (Kind::PeerAuthentication, now.cloned().map(Resource::PeerAuthentication));
                names.entry(kind).or_default().push(self.set(kind, &name.to_string(), resource));
            }
        }
    }

    fn take_namespaces(&mut self, before: &State, state: &State, names: &mut Names) {
        let (before, now) = (before.namespaces.told(), state.namespaces.told());
        if Arc::ptr_eq(before, now) {
            return;
        }
        for (name, now) in diff(before, now, |_, _| false) {
            let resource = now.map(|now| Resource::Namespace(Namespace { name: Arc::clone(name), membership: *now }));
            names.entry(Kind::Namespace).or_default().push(self.set(Kind::Namespace, name, resource));
        }
    }

    fn note_stray<K: Ord + Clone>(&mut self, of: impl Fn(&mut Strays) -> &mut BTreeSet<K>, key: &K, astray: bool) {
        if astray {
            of(Arc::make_mut(&mut self.strays)).insert(key.clone());
        } else if self.strays.any() {
            of(Arc::make_mut(&mut self.strays)).remove(key);
        }
    }

    fn put(&mut self, resource: Resource) -> Arc<str> {
        let (kind, name) = (resource.kind(), resource.name());
        self.set(kind, &name, Some(resource))
    }

    /// Puts a resource into its table, or takes it out; gives its name.
    fn set(&mut self, kind: Kind, name: &str, resource: Option<Resource>) -> Arc<str> {
        let name: Arc<str> = name.into();
        let table = Arc::make_mut(self.tables.entry(kind).or_default());
        match resource.map(|resource| resource.encode()) {
            Some(body) => drop(table.insert(Arc::clone(&name), Arc::new(Entry { version: version(&body), body }))),
            None => drop(table.remove(&name)),
        }
        name
    }
}

impl Strays {
    fn of(state: &State) -> Self {
        let workloads = state.workloads.values().filter(|workload| strays(workload, &state.mesh));
        let services = state.services.values().filter(|service| outside(&service.vips, &state.mesh));
        Self {
            workloads: workloads.map(|workload| workload.uid.clone()).collect(),
            services: services.map(|service| service.name.clone()).collect(),
        }
    }

    fn any(&self) -> bool {
        !(self.workloads.is_empty() && self.services.is_empty())
    }
}

fn strays(workload: &Workload, mesh: &Mesh) -> bool {
    workload.protocol == Protocol::Hbone && outside(&workload.addresses, mesh)
}

fn outside(addresses: &[IpAddr], mesh: &Mesh) -> bool {
    addresses.iter().any(|address| !mesh.cluster_ranges.iter().any(|range| range.contains(&address.to_canonical())))
}

fn edit_node(
    by_node: &mut HashMap<Arc<str>, Arc<BTreeSet<WorkloadUid>>>,
    node: &Arc<str>,
    edit: impl FnOnce(&mut BTreeSet<WorkloadUid>) -> bool,
) {
    let uids = by_node.entry(Arc::clone(node)).or_default();
    edit(Arc::make_mut(uids));
    if uids.is_empty() {
        by_node.remove(node);
    }
}

fn version(body: &Any) -> String {
    hex::encode(Sha256::digest(&body.value))
}
