//! What a node needs of a large mesh: its own pods, whom they have asked for, and what nobody may mistake for the
//! outside world.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use culvert_wire::Kind;
use culvert_workload::{Phase, Roster, Service, ServiceName, Workload, WorkloadUid};

use crate::index::{Changes, DNS_NAMESPACE, Snapshot, Table};

/// One node's part of the mesh.
#[derive(Debug)]
pub(super) struct Scope {
    node: Arc<str>,
    /// Addresses that its agent has asked for.
    wanted: BTreeSet<IpAddr>,
}

/// The resources of both types that a scope makes smaller.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    pub(super) workloads: Arc<Table>,
    pub(super) services: Arc<Table>,
}

impl Scope {
    pub(super) fn new(node: &str) -> Self {
        Self { node: node.into(), wanted: BTreeSet::new() }
    }

    /// The addresses that are asked for.
    pub(super) fn wanted(&self) -> &BTreeSet<IpAddr> {
        &self.wanted
    }

    /// Takes asked and given up addresses; answers which ones are new.
    pub(super) fn ask(&mut self, more: BTreeSet<IpAddr>, less: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        self.wanted.retain(|address| !less.contains(address));
        more.into_iter().filter(|address| self.wanted.insert(*address)).collect()
    }

    /// The node's part of a snapshot. Whoever shares an address with somebody in it is in it as well, so that an
    /// agent's answer to "whose address is this" is the one that the whole mesh would give.
    pub(super) fn part(&self, snapshot: &Snapshot) -> Part {
        let roster = snapshot.roster();
        let strays = snapshot.strays();
        let mut uids: BTreeSet<WorkloadUid> = snapshot.of_node(&self.node).chain(&strays.workloads).cloned().collect();
        let own = snapshot.of_node(&self.node).filter_map(|uid| roster.workload(uid));
        let mut names: BTreeSet<ServiceName> = own.flat_map(|workload| workload.services.clone()).collect();
        let whole = strays.services.iter().filter_map(|name| roster.service(name));
        let whole = whole.chain(self.wanted.iter().flat_map(|address| roster.services_at(*address)));
        for service in whole {
            names.insert(service.name.clone());
            uids.extend(roster.members(&service.name).map(|workload| workload.uid.clone()));
        }
        let asked = self.wanted.iter().flat_map(|address| roster.claimants(*address));
        uids.extend(asked.map(|workload| workload.uid.clone()));
        let known = uids.iter().filter_map(|uid| roster.workload(uid));
        let shared: Vec<_> =
            known.flat_map(|workload| rivals(roster, workload)).map(|rival| rival.uid.clone()).collect();
        uids.extend(shared);
        let dns = snapshot.state().services.range(ServiceName::new(DNS_NAMESPACE, "")..);
        names.extend(dns.map(|(name, _)| name).take_while(|name| &*name.namespace == DNS_NAMESPACE).cloned());
        let mut part = Part::default();
        let tables = (snapshot.table(Kind::Workload), snapshot.table(Kind::Service));
        uids.iter().for_each(|uid| put(&mut part.workloads, &tables.0, uid.as_str(), true));
        names.iter().for_each(|name| put(&mut part.services, &tables.1, &name.to_string(), true));
        part
    }

    /// May these changes concern the node.
    pub(super) fn concerned(&self, changes: &[&Changes]) -> bool {
        changes.iter().map(|changes| &changes.touched).any(|touched| {
            touched.everybody
                || touched.nodes.contains(&self.node)
                || self.wanted.iter().any(|address| touched.addresses.contains(address))
        })
    }

    /// The part of a newer snapshot, made from that of an older one: only what was touched is looked at.
    pub(super) fn follow(&self, part: &Part, snapshot: &Snapshot, changes: &[&Changes]) -> Part {
        let mut part = part.clone();
        let tables = (snapshot.table(Kind::Workload), snapshot.table(Kind::Service));
        for touched in changes.iter().map(|changes| &changes.touched) {
            for uid in &touched.workloads {
                let now = snapshot.roster().workload(uid);
                let within = now.is_some_and(|now| self.has(snapshot, now));
                put(&mut part.workloads, &tables.0, uid.as_str(), within);
            }
            for name in &touched.services {
                let now = snapshot.roster().service(name);
                let within = now.is_some_and(|now| self.has_service(snapshot, now));
                put(&mut part.services, &tables.1, &name.to_string(), within);
            }
        }
        part
    }

    fn has(&self, snapshot: &Snapshot, workload: &Workload) -> bool {
        let roster = snapshot.roster();
        let live = workload.addresses.iter().filter(|_| workload.phase != Phase::Ended);
        let mut rivals = live.flat_map(|address| roster.claimants(*address)).filter(|rival| !rival.host_network);
        self.needs(snapshot, workload) || rivals.any(|rival| self.needs(snapshot, rival))
    }

    /// Not only because of somebody who shares an address with it.
    fn needs(&self, snapshot: &Snapshot, workload: &Workload) -> bool {
        let strays = snapshot.strays();
        let served = |name: &ServiceName| {
            let service = snapshot.roster().service(name);
            service.is_some_and(|service| self.wants(&service.vips)) || strays.services.contains(name)
        };
        *workload.node == *self.node
            || strays.workloads.contains(&workload.uid)
            || workload.services.iter().any(served)
            || workload.phase != Phase::Ended && self.wants(&workload.addresses)
    }

    fn has_service(&self, snapshot: &Snapshot, service: &Service) -> bool {
        &*service.name.namespace == DNS_NAMESPACE
            || self.wants(&service.vips)
            || snapshot.strays().services.contains(&service.name)
            || snapshot.roster().members(&service.name).any(|workload| *workload.node == *self.node)
    }

    fn wants(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().any(|address| self.wanted.contains(&address.to_canonical()))
    }
}

/// Those who claim an address of a workload; nodes' addresses are everybody's on the node.
fn rivals<'r>(roster: &'r Roster, workload: &'r Workload) -> impl Iterator<Item = &'r Arc<Workload>> {
    let own = workload.addresses.iter().filter(|_| !workload.host_network && workload.phase != Phase::Ended);
    own.flat_map(|address| roster.claimants(*address))
}

/// Puts what `all` has under the name into a part, or takes it out.
fn put(part: &mut Arc<Table>, all: &Table, name: &str, within: bool) {
    let entry = all.get_key_value(name).filter(|_| within);
    let same = match (part.get(name), entry) {
        (Some(held), Some((_, entry))) => Arc::ptr_eq(held, entry),
        (None, None) => true,
        _ => false,
    };
    if same {
        return;
    }
    let part = Arc::make_mut(part);
    match entry {
        Some((name, entry)) => drop(part.insert(Arc::clone(name), Arc::clone(entry))),
        None => drop(part.remove(name)),
    }
}
