//! Services that select nothing: who serves them, EndpointSlices say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use culvert_workload::{Mesh, Phase, Protocol, ServiceName, TargetPort, Workload, WorkloadUid};

use super::{View, people::Selecting};
use crate::{
    catalog::Held,
    complaint::Severity,
    kinds::{BackendSet, Object},
    object::{ObjectKey, ObjectKind},
};

/// Who serves services without a selector.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// By namespace and name of the pod.
    pods: BTreeMap<(String, String), BTreeSet<ServiceName>>,
    /// By address, where the slice names no pod; with the object that says so.
    addresses: BTreeMap<IpAddr, BTreeMap<ServiceName, ObjectKey>>,
}

impl Members {
    /// The services that the pod serves without being selected.
    pub(super) fn of(&self, pod: &Workload) -> Vec<ServiceName> {
        let named = self.pods.get(&(pod.namespace.to_string(), pod.name.to_string())).into_iter().flatten();
        let own = pod.addresses.iter().filter(|_| !pod.host_network);
        let addressed = own.filter_map(|address| self.addresses.get(address)).flat_map(BTreeMap::keys);
        let all: BTreeSet<&ServiceName> = named.chain(addressed).filter(|name| !pod.services.contains(name)).collect();
        all.into_iter().cloned().collect()
    }
}

impl Members {
    /// Are there endpoints that no pod is named for: then who has an address matters to services.
    pub(super) fn any_by_address(&self) -> bool {
        !self.addresses.is_empty()
    }
}

/// Reads all slices, and gives the services' ports the numbers that their slices have.
pub(super) fn members(view: &mut View<'_>, services: &mut Selecting) -> Members {
    let mut members = Members::default();
    let mut numbers: BTreeMap<ServiceName, BTreeMap<String, BTreeSet<u16>>> = BTreeMap::new();
    let slices = view.of_kind(ObjectKind::Endpoints).chain(view.of_kind(ObjectKind::EndpointSlice));
    for (key, held) in slices {
        let Object::Endpoints(slice) = &held.object else {
            continue;
        };
        let name = ServiceName::new(&key.namespace, &slice.service);
        if !services.get(&name).is_some_and(|(selector, _)| selector.is_empty()) {
            continue;
        }
        for set in slice.sets.iter().filter(|set| !set.backends.is_empty()) {
            members.add(key, &name, set);
            for (port, number) in &set.ports {
                numbers.entry(name.clone()).or_default().entry(port.clone()).or_default().insert(*number);
            }
        }
    }
    for (name, numbers) in numbers {
        set_ports(view, services, &name, &numbers);
    }
    members
}

impl Members {
    fn add(&mut self, key: &ObjectKey, service: &ServiceName, set: &BackendSet) {
        for backend in &set.backends {
            match &backend.pod {
                Some(pod) => {
                    self.pods.entry((key.namespace.clone(), pod.clone())).or_default().insert(service.clone());
                }
                None => {
                    for address in &backend.addresses {
                        self.addresses.entry(*address).or_default().insert(service.clone(), key.clone());
                    }
                }
            }
        }
    }
}

/// A port of a service has one number here, or none: a slice that has another one than its neighbours is said.
fn set_ports(
    view: &mut View<'_>,
    services: &mut Selecting,
    name: &ServiceName,
    numbers: &BTreeMap<String, BTreeSet<u16>>,
) {
    let Some((_, service)) = services.get_mut(name) else {
        return;
    };
    let mut mixed = Vec::new();
    service.ports.retain_mut(|port| match numbers.get(&*port.name) {
        Some(set) if set.len() > 1 => {
            mixed.push(port.port);
            false
        }
        Some(set) => {
            port.target = set.first().map_or(port.target.clone(), |number| TargetPort::Number(*number));
            true
        }
        None => true,
    });
    for port in mixed {
        let key =
            ObjectKey { kind: ObjectKind::Service, namespace: name.namespace.to_string(), name: name.name.to_string() };
        let text = format!("its EndpointSlices give port {port} different numbers: the port is refused");
        let held = view.catalog.get(&key);
        let at = held.map(|held| (&key, held));
        view.complain(Severity::Error, at, "spec.ports", "mixed_target_ports", text, "use one number");
    }
}

/// Endpoints that are no pods: what lies outside of the cluster's ranges, or on a node, gets a record of its own that
/// is reached in plaintext. An address inside of the ranges that is nobody's is not taken: it may be about to be an
/// enrolled pod's.
pub(super) fn put_outsiders(
    view: &mut View<'_>,
    mesh: &Mesh,
    members: &Members,
    workloads: &mut BTreeMap<WorkloadUid, Workload>,
) {
    let pods: BTreeSet<IpAddr> =
        workloads.values().filter(|pod| !pod.host_network).flat_map(|pod| pod.addresses.iter().copied()).collect();
    let nodes: BTreeSet<IpAddr> = view.of_kind(ObjectKind::Node).flat_map(|(_, held)| node_addresses(held)).collect();
    for (address, services) in members.addresses.iter().filter(|(address, _)| !pods.contains(address)) {
        let inside = mesh.cluster_ranges.iter().any(|range| range.contains(address));
        if inside && !nodes.contains(address) {
            for slice in services.values() {
                let text = format!("{address} lies inside of the mesh's ranges and is no pod's: it is no endpoint");
                let at = view.catalog.get(slice).map(|held| (slice, held));
                view.complain(
                    Severity::Warning,
                    at,
                    "endpoints",
                    "foreign_endpoint",
                    text,
                    "name the pod in targetRef",
                );
            }
            continue;
        }
        for name in services.keys() {
            let outsider = outsider(mesh, *address, name);
            workloads.insert(outsider.uid.clone(), outsider);
        }
    }
}

fn node_addresses(held: &Held) -> Vec<IpAddr> {
    match &held.object {
        Object::Node(node) => node.addresses.clone(),
        _ => Vec::new(),
    }
}

fn outsider(mesh: &Mesh, address: IpAddr, service: &ServiceName) -> Workload {
    Workload {
        uid: WorkloadUid::new(&format!("endpoint:{service}/{address}")),
        kubelet_uid: None,
        name: format!("{}-{address}", service.name).into(),
        namespace: service.namespace.clone(),
        service_account: "default".into(),
        trust_domain: mesh.trust_domain.clone(),
        node: "".into(),
        addresses: vec![address],
        labels: BTreeMap::new(),
        named_ports: BTreeMap::new(),
        probe_ports: Vec::new(),
        protocol: Protocol::Plain,
        ready: true,
        phase: Phase::Running,
        // Like a host's: it has an address that names no workload.
        host_network: true,
        deny_non_tcp: false,
        services: vec![service.clone()],
    }
}
