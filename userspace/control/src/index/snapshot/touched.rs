//! Whom a change may concern: found out once for all streams.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use culvert_wire::Kind;
use culvert_workload::{Roster, Service, ServiceName, Workload, WorkloadUid};

use super::{Names, Snapshot};

/// Everything that a change has to do with, before and after it.
#[derive(Debug, Default)]
pub struct Touched {
    /// All nodes are concerned.
    pub everybody: bool,
    /// The ranges may have changed, and with them what every node has to know.
    pub ranges: bool,
    /// Nodes of such workloads.
    pub nodes: HashSet<Arc<str>>,
    /// Addresses of such workloads and services, and those of the services that such workloads are behind.
    pub addresses: HashSet<IpAddr>,
    /// Workloads that changed, share an address with one that did, or are behind a service that did.
    pub workloads: BTreeSet<WorkloadUid>,
    /// Services that changed, or that a workload that did is or was behind.
    pub services: BTreeSet<ServiceName>,
}

impl Touched {
    pub(super) fn of(before: &Snapshot, after: &Snapshot, names: &Names) -> Self {
        let mut touched = Self::default();
        for (kind, names) in names {
            match kind {
                Kind::Workload => names.iter().for_each(|name| touched.workload(before, after, name)),
                Kind::Service => names.iter().for_each(|name| touched.service(before, after, name)),
                Kind::Mesh => (touched.everybody, touched.ranges) = (true, true),
                Kind::Bundle | Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::Namespace => {
                    touched.everybody = true;
                }
            }
        }
        touched
    }

    fn workload(&mut self, before: &Snapshot, after: &Snapshot, name: &Arc<str>) {
        let uid = WorkloadUid(Arc::clone(name));
        for snapshot in [before, after] {
            let roster = snapshot.roster();
            let Some(record) = roster.workload(&uid) else { continue };
            let strays = snapshot.strays();
            self.everybody |= strays.workloads.contains(&uid);
            self.everybody |= record.services.iter().any(|name| strays.services.contains(name));
            self.add(roster, record);
            // Those who share an address with it come and go with it.
            let rivals = |roster: &Roster| -> Vec<Arc<Workload>> {
                record.addresses.iter().flat_map(|address| roster.claimants(*address)).cloned().collect()
            };
            for (roster, rival) in [before, after]
                .into_iter()
                .flat_map(|snapshot| rivals(snapshot.roster()).into_iter().map(|rival| (snapshot.roster(), rival)))
            {
                self.add(roster, &rival);
            }
        }
        self.workloads.insert(uid);
    }

    fn add(&mut self, roster: &Roster, record: &Workload) {
        self.workloads.insert(record.uid.clone());
        self.nodes.insert(Arc::clone(&record.node));
        self.addresses.extend(record.addresses.iter().map(IpAddr::to_canonical));
        for name in &record.services {
            self.services.insert(name.clone());
            self.addresses.extend(roster.service(name).into_iter().flat_map(|service| vips(service)));
        }
    }

    fn service(&mut self, before: &Snapshot, after: &Snapshot, name: &str) {
        let Some((namespace, name)) = name.split_once('/') else { return };
        let name = ServiceName::new(namespace, name);
        for snapshot in [before, after] {
            self.everybody |= snapshot.strays().services.contains(&name) || namespace == super::DNS_NAMESPACE;
            self.addresses.extend(snapshot.roster().service(&name).into_iter().flat_map(|service| vips(service)));
            for member in snapshot.roster().members(&name) {
                self.add(snapshot.roster(), member);
            }
        }
        self.services.insert(name);
    }
}

fn vips(service: &Service) -> impl Iterator<Item = IpAddr> {
    service.vips.iter().map(IpAddr::to_canonical)
}
