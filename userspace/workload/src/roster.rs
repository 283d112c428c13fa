//! The roster: an immutable snapshot of the workloads and services that a node knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use crate::{Phase, Protocol, Service, ServiceName, TargetPort, Workload, WorkloadUid, shards::Shards};

/// Workloads and services at one moment. Cheap to copy; changed through [`Roster::edit`], which gives a new one and
/// leaves this one as it is.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    cluster_ranges: Arc<[IpNet]>,
    workloads: Shards<WorkloadUid, Arc<Workload>>,
    services: Shards<ServiceName, Arc<Service>>,
    /// Who claims an address; more than one only while an address changes hands.
    by_address: Shards<IpAddr, BTreeSet<WorkloadUid>>,
    /// Node addresses, with the host-network pods that share them.
    by_host_address: Shards<IpAddr, BTreeSet<WorkloadUid>>,
    by_vip: Shards<IpAddr, BTreeSet<ServiceName>>,
    members: Shards<ServiceName, Arc<BTreeMap<WorkloadUid, Arc<Workload>>>>,
}

/// Whose address it is.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// An enrolled workload: reached by mutual TLS, never otherwise.
    Enrolled(&'a Arc<Workload>),
    /// A workload that the control plane has said is not enrolled: plain TCP.
    NotEnrolled(&'a Arc<Workload>),
    /// A virtual address of a service: pick one of [`Roster::endpoints`].
    Service(&'a Arc<Service>),
    /// A node's address, known from its host-network pods. It is not enrolled, and it names no workload.
    Host,
    /// Inside the cluster's ranges, but nobody known. Not to be taken for "not enrolled": it may be about to be known.
    UnknownInside,
    /// Neither known nor inside the cluster's ranges.
    Outside,
}

/// One place where a service's port is served.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Who serves it.
    pub workload: Arc<Workload>,
    /// The workload's own address, of the family that was asked for, and its own port.
    pub address: SocketAddr,
}

/// Why a service's port has no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No such service is known.
    #[error("the service is not known")]
    UnknownService,
    /// The service does not have this port.
    #[error("the service does not have this port")]
    UnknownPort,
    /// No workload that is ready, has an address of this family and has the port by its name.
    #[error("the service has no endpoint that is ready, of this address family and with this port")]
    NoEndpoint,
}

impl EndpointError {
    /// The stable word for logs, metrics and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownService => "unknown_service",
            Self::UnknownPort => "unknown_service_port",
            Self::NoEndpoint => "no_endpoint",
        }
    }
}

impl Roster {
    /// Nobody yet, in a mesh with these ranges of pod and service addresses (`Mesh::cluster_ranges`).
    pub fn new(cluster_ranges: &[IpNet]) -> Self {
        Self { cluster_ranges: cluster_ranges.into(), ..Self::default() }
    }

    /// Begins a set of changes that [`RosterEdit::finish`] turns into a new roster at once.
    pub fn edit(&self) -> RosterEdit {
        RosterEdit { roster: self.clone() }
    }

    /// The workload with this UID.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The service of this name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// All workloads, in no particular order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Number of workloads.
    pub fn workload_count(&self) -> usize {
        self.workloads.len()
    }

    /// Everybody who claims an address: pods, and host-network pods of the node that has it.
    pub fn claimants(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Workload>> {
        let address = address.to_canonical();
        let claims = [self.by_address.get(&address), self.by_host_address.get(&address)];
        claims.into_iter().flatten().flatten().filter_map(|uid| self.workloads.get(uid))
    }

    /// The services with this virtual address; more than one only by mistake.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Service>> {
        let names = self.by_vip.get(&address.to_canonical());
        names.into_iter().flatten().filter_map(|name| self.services.get(name))
    }

    /// The workloads that name this service, ready or not.
    pub fn members(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<Workload>> {
        self.members.get(service).into_iter().flat_map(|members| members.values())
    }

    /// Is the address in a range of the cluster's pods or services.
    pub fn inside(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.cluster_ranges.iter().any(|range| range.contains(&address))
    }

    /// Whose address it is. An IPv4 address in IPv6 clothes counts as IPv4. Pods that have ended have no address, and
    /// host-network pods are never found by it. While two live pods claim the address, the enrolled one has it, then
    /// the running one, then the one with the smaller UID: a doubt never leads to plaintext.
    pub fn lookup(&self, address: IpAddr) -> Found<'_> {
        let address = address.to_canonical();
        if let Some(workload) = self.holder(address) {
            return match workload.protocol {
                Protocol::Hbone => Found::Enrolled(workload),
                Protocol::Plain => Found::NotEnrolled(workload),
            };
        }
        let vip = self.by_vip.get(&address).and_then(|names| names.first());
        if let Some(service) = vip.and_then(|name| self.services.get(name)) {
            return Found::Service(service);
        }
        if self.by_host_address.get(&address).is_some() {
            return Found::Host;
        }
        if self.inside(address) { Found::UnknownInside } else { Found::Outside }
    }

    /// The endpoints of a service's port that may be picked now, with addresses of the same family as `family_of`
    /// (the virtual address that the client called), ordered by UID. `targetPort` names are resolved for each endpoint.
    pub fn endpoints(
        &self,
        service: &ServiceName,
        port: u16,
        family_of: IpAddr,
    ) -> Result<Vec<Endpoint>, EndpointError> {
        let record = self.services.get(service).ok_or(EndpointError::UnknownService)?;
        let entry = record.ports.iter().find(|entry| entry.port == port).ok_or(EndpointError::UnknownPort)?;
        let v4 = family_of.to_canonical().is_ipv4();
        let endpoints: Vec<Endpoint> = self
            .members
            .get(service)
            .into_iter()
            .flat_map(|members| members.values())
            .filter(|workload| workload.phase != Phase::Ended && (workload.ready || record.publish_not_ready))
            .filter_map(|workload| {
                let port = target_port(&entry.target, workload)?;
                let address = workload.addresses.iter().find(|address| address.is_ipv4() == v4)?;
                Some(Endpoint { workload: workload.clone(), address: SocketAddr::new(*address, port) })
            })
            .collect();
        if endpoints.is_empty() { Err(EndpointError::NoEndpoint) } else { Ok(endpoints) }
    }

    fn holder(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        let claims = self.by_address.get(&address)?;
        claims.iter().filter_map(|uid| self.workloads.get(uid)).min_by_key(|workload| {
            (workload.protocol != Protocol::Hbone, workload.phase != Phase::Running, &workload.uid)
        })
    }
}

fn target_port(target: &TargetPort, workload: &Workload) -> Option<u16> {
    match target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => workload.named_ports.get(&**name).copied(),
    }
}

/// Changes on the way to a new [`Roster`].
#[derive(Debug)]
pub struct RosterEdit {
    roster: Roster,
}

impl RosterEdit {
    /// Sets the ranges of pod and service addresses.
    pub fn set_cluster_ranges(&mut self, ranges: &[IpNet]) {
        self.roster.cluster_ranges = ranges.into();
    }

    /// Adds a workload or replaces the one with the same UID.
    pub fn put_workload(&mut self, workload: Arc<Workload>) {
        self.remove_workload(&workload.uid);
        let uid = &workload.uid;
        if workload.phase != Phase::Ended {
            for address in claimed(&workload) {
                self.claims(&workload).update(&address, |claims| claims.insert(uid.clone()) || !claims.is_empty());
            }
        }
        for service in &workload.services {
            self.roster.members.update(service, |members| {
                Arc::make_mut(members).insert(uid.clone(), workload.clone());
                true
            });
        }
        self.roster.workloads.insert(uid.clone(), workload);
    }

    /// Forgets a workload; nothing happens when it is not known.
    pub fn remove_workload(&mut self, uid: &WorkloadUid) {
        let Some(old) = self.roster.workloads.remove(uid) else {
            return;
        };
        if old.phase != Phase::Ended {
            for address in claimed(&old) {
                self.claims(&old).update(&address, |claims| {
                    claims.remove(uid);
                    !claims.is_empty()
                });
            }
        }
        for service in &old.services {
            self.roster.members.update(service, |members| {
                Arc::make_mut(members).remove(uid);
                !members.is_empty()
            });
        }
    }

    /// Adds a service or replaces the one of the same name.
    pub fn put_service(&mut self, service: Arc<Service>) {
        self.remove_service(&service.name);
        for vip in &service.vips {
            let name = service.name.clone();
            self.roster.by_vip.update(&vip.to_canonical(), |names| names.insert(name) || !names.is_empty());
        }
        self.roster.services.insert(service.name.clone(), service);
    }

    /// Forgets a service; nothing happens when it is not known.
    pub fn remove_service(&mut self, name: &ServiceName) {
        let Some(old) = self.roster.services.remove(name) else {
            return;
        };
        for vip in &old.vips {
            self.roster.by_vip.update(&vip.to_canonical(), |names| {
                names.remove(name);
                !names.is_empty()
            });
        }
    }

    /// The roster with all the changes.
    pub fn finish(self) -> Roster {
        self.roster
    }

    fn claims(&mut self, workload: &Workload) -> &mut Shards<IpAddr, BTreeSet<WorkloadUid>> {
        if workload.host_network { &mut self.roster.by_host_address } else { &mut self.roster.by_address }
    }
}

fn claimed(workload: &Workload) -> BTreeSet<IpAddr> {
    workload.addresses.iter().map(IpAddr::to_canonical).collect()
}

#[cfg(test)]
mod tests;
