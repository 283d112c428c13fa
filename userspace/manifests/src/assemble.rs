//! All objects together: mesh settings, workloads with their services, policies, and what only shows when they are
//! seen side by side.

mod backends;
mod checks;
mod follow;
mod namespaces;
mod people;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use culvert_policy::{AuthorizationPolicy, PeerAuthentication, PolicyName};
use culvert_workload::{Mesh, Service, ServiceName, SharedMap, Workload, WorkloadUid};

use crate::{
    catalog::{Catalog, Held},
    complaint::{Complaint, Severity},
    kinds::Object,
    object::{ObjectKey, ObjectKind, Origin},
};

pub use follow::{Changed, Frame};
pub use namespaces::Namespaces;
pub use settings::MeshOverrides;

/// What agents are told.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Settings of the mesh.
    pub mesh: Mesh,
    /// All pods. Records that did not change are the same objects in the next state.
    pub workloads: SharedMap<WorkloadUid, Arc<Workload>>,
    /// All services.
    pub services: Arc<BTreeMap<ServiceName, Service>>,
    /// All AuthorizationPolicies, those that refuse for want of sense included.
    pub authorization: Arc<BTreeMap<PolicyName, AuthorizationPolicy>>,
    /// All PeerAuthentications, likewise.
    pub authentication: Arc<BTreeMap<PolicyName, PeerAuthentication>>,
    /// All namespaces.
    pub namespaces: Namespaces,
}

impl State {
    /// Nobody, and nothing that holds for anybody.
    pub fn empty(mesh: Mesh) -> Self {
        Self {
            mesh,
            workloads: SharedMap::default(),
            services: Arc::default(),
            authorization: Arc::default(),
            authentication: Arc::default(),
            namespaces: Namespaces::default(),
        }
    }
}

/// The state, and what is to be said about it.
#[derive(Debug, Clone)]
pub struct Assembly {
    /// What agents are told.
    pub state: State,
    /// What only shows when objects are seen together.
    pub complaints: Vec<Complaint>,
}

/// Puts the objects together. `reported` are the addresses that agents read in the network namespaces of pods; they
/// count for pods whose manifest has none.
pub fn assemble(
    catalog: &Catalog,
    overrides: &MeshOverrides,
    reported: &BTreeMap<WorkloadUid, Vec<IpAddr>>,
) -> Assembly {
    Frame::assemble(catalog, overrides, reported).0
}

/// The whole of it; the frame follows single objects from there.
fn whole(
    catalog: &Catalog,
    overrides: &MeshOverrides,
    reported: &BTreeMap<WorkloadUid, Vec<IpAddr>>,
) -> (Assembly, Frame) {
    let mut view = View { catalog, complaints: Vec::new() };
    let mesh = settings::mesh(&mut view, overrides);
    let mut services = people::services(&mut view);
    let members = backends::members(&mut view, &mut services);
    let mut workloads = people::workloads(&mut view, &mesh, &services, &members, reported);
    backends::put_outsiders(&mut view, &mesh, &members, &mut workloads);
    let (mut authorization, authentication) = policies(catalog);
    authorization.extend(settings::refusal(catalog, &mesh));
    let namespaces = Namespaces::of(&view, workloads.values());
    let written = services.iter().map(|(name, (_, service))| (name.clone(), service.clone()));
    let state = State {
        mesh,
        workloads: workloads.into_iter().map(|(uid, workload)| (uid, Arc::new(workload))).collect(),
        services: Arc::new(written.collect()),
        authorization: Arc::new(authorization),
        authentication: Arc::new(authentication),
        namespaces,
    };
    let contested = view.complaints.iter().any(|complaint| complaint.reason == people::UID_CONFLICT);
    let frame = Frame::new(services, members, contested);
    checks::check(&mut view, &state);
    let mut complaints = view.complaints;
    complaints.sort();
    (Assembly { state, complaints }, frame)
}

fn policies(
    catalog: &Catalog,
) -> (BTreeMap<PolicyName, AuthorizationPolicy>, BTreeMap<PolicyName, PeerAuthentication>) {
    let (mut authorization, mut authentication) = (BTreeMap::new(), BTreeMap::new());
    for (_, held) in catalog.objects() {
        match &held.object {
            Object::AuthorizationPolicy(policy) => drop(authorization.insert(policy.name.clone(), policy.clone())),
            Object::PeerAuthentication(policy) => drop(authentication.insert(policy.name.clone(), policy.clone())),
            _ => {}
        }
    }
    (authorization, authentication)
}

/// The catalog with a place for complaints.
struct View<'c> {
    catalog: &'c Catalog,
    complaints: Vec<Complaint>,
}

impl<'c> View<'c> {
    fn of_kind(&self, kind: ObjectKind) -> impl Iterator<Item = (&'c ObjectKey, &'c Held)> + use<'c> {
        self.catalog.of_kind(kind)
    }

    fn get(&self, kind: ObjectKind, namespace: &str, name: &str) -> Option<&'c Held> {
        self.catalog.get(&ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    fn names(&self, kind: ObjectKind) -> BTreeSet<&'c str> {
        self.of_kind(kind).map(|(key, _)| key.name.as_str()).collect()
    }

    fn complain(
        &mut self,
        severity: Severity,
        at: Option<(&ObjectKey, &Held)>,
        field: &str,
        reason: &'static str,
        text: String,
        remedy: &str,
    ) {
        self.complaints.push(Complaint {
            origin: at.map_or_else(Origin::directory, |(_, held)| held.origin.clone()),
            object: at.map(|(key, _)| key.clone()),
            severity,
            field: field.to_owned(),
            reason,
            text,
            remedy: remedy.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests;
