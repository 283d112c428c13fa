//! What agents report: checked against what is known of their node before any of it counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use culvert_wire::{
    proto::culvert::{NodeReport, ReportAck, status_service_server::StatusService},
    report::NodeStatus,
};
use culvert_workload::{Phase, WorkloadUid};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Context,
    caller::{Claim, Node},
};
use crate::{
    audit::Event,
    index::{Change, Snapshot},
};

/// Pods of a report that nobody knows: more are not looked at.
const MOST_UNKNOWN: usize = 256;

/// The service.
#[derive(Debug)]
pub(super) struct Reports(pub(super) Arc<Context>);

/// What counts of a report.
#[derive(Debug, PartialEq, Eq)]
struct Checked {
    addresses: BTreeMap<WorkloadUid, Vec<IpAddr>>,
    /// Addresses that are not taken, and why.
    refused: Vec<(WorkloadUid, IpAddr, &'static str)>,
}

/// A pod of another node in the report.
#[derive(Debug, PartialEq, Eq)]
struct Stranger(WorkloadUid);

#[tonic::async_trait]
impl StatusService for Reports {
    async fn report(&self, request: Request<Streaming<NodeReport>>) -> Result<Response<ReportAck>, Status> {
        let node = self.0.node(Claim::of(&request), "report").await?;
        let mut reports = request.into_inner();
        let mut complained = BTreeSet::new();
        while let Some(report) = reports.message().await? {
            self.take(&node, &report, &mut complained).await?;
        }
        Ok(Response::new(ReportAck {}))
    }
}

impl Reports {
    async fn take(
        &self,
        node: &Node,
        report: &NodeReport,
        complained: &mut BTreeSet<(WorkloadUid, IpAddr)>,
    ) -> Result<(), Status> {
        let event = node.event("report");
        if SystemTime::now() > node.not_after {
            let text = "the node certificate that opened this stream has ended";
            return Err(self.0.refuse(event, Code::Unauthenticated, "node_certificate_expired", text));
        }
        if let Some(refusal) = self.0.away(node) {
            return Err(self.0.refuse(event, Code::Unauthenticated, refusal.reason(), &refusal.to_string()));
        }
        let status = NodeStatus::decode(report).map_err(|error| {
            self.0.refuse(event.clone(), Code::InvalidArgument, error.fault.reason(), &error.to_string())
        })?;
        let snapshot = Arc::clone(&self.0.published.borrow().snapshot);
        let checked = check(&snapshot, &node.name, &status).map_err(|Stranger(uid)| {
            let event = Event { pod: Some(uid.to_string()), ..event.clone() };
            self.0.refuse(event, Code::PermissionDenied, "pod_on_other_node", "the pod is on another node")
        })?;
        for (uid, address, reason) in checked.refused {
            if complained.insert((uid.clone(), address)) {
                let detail = Some(format!("{address} is not taken for an address of the pod"));
                let event = Event { pod: Some(uid.to_string()), detail, ..event.clone() };
                drop(self.0.refuse(event, Code::PermissionDenied, reason, ""));
            }
        }
        self.0.nodes.update(&node.name, |entry| entry.report = Some((SystemTime::now(), status)));
        let change = Change::Addresses { node: node.name.clone(), pods: checked.addresses };
        self.0.changes.send(change).await.map_err(|_| Status::unavailable("stopping"))
    }
}

/// A pod of another node is a lie. Pods that nobody knows may be about to be known, or just have been deleted: a few
/// are taken, and count once they are known and on this node. An address is taken when it can be a pod's at all,
/// lies in the cluster's ranges where those of its family are known (so is no Node's), and nobody else has it.
fn check(snapshot: &Snapshot, node: &str, status: &NodeStatus) -> Result<Checked, Stranger> {
    let mut checked = Checked { addresses: BTreeMap::new(), refused: Vec::new() };
    let mut unknown = 0;
    for pod in &status.pods {
        match snapshot.state().workloads.get(&pod.uid).map(|known| &**known) {
            Some(known) if *known.node != *node => return Err(Stranger(pod.uid.clone())),
            Some(known) if known.host_network || known.phase == Phase::Ended => continue,
            None if unknown >= MOST_UNKNOWN => continue,
            None => unknown += 1,
            Some(_) => {}
        }
        let mut addresses = Vec::new();
        for address in &pod.addresses {
            match objection(snapshot, &checked, &pod.uid, *address) {
                None => addresses.push(*address),
                Some(reason) => checked.refused.push((pod.uid.clone(), *address, reason)),
            }
        }
        checked.addresses.insert(pod.uid.clone(), addresses);
    }
    Ok(checked)
}

fn objection(snapshot: &Snapshot, so_far: &Checked, uid: &WorkloadUid, address: IpAddr) -> Option<&'static str> {
    let (state, roster) = (snapshot.state(), snapshot.roster());
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified() {
        return Some("bad_address");
    }
    let known: Vec<_> =
        state.mesh.cluster_ranges.iter().filter(|range| range.addr().is_ipv4() == address.is_ipv4()).collect();
    if !known.is_empty() && !known.iter().any(|range| range.contains(&address)) {
        return Some("address_outside_cluster");
    }
    let elsewhere = roster.claimants(address).any(|other| other.uid != *uid);
    let beside = so_far.addresses.iter().any(|(other, taken)| other != uid && taken.contains(&address));
    if elsewhere || beside {
        return Some("address_conflict");
    }
    let vip = roster.services_at(address).next().is_some();
    vip.then_some("address_is_a_service")
}

#[cfg(test)]
mod tests;
