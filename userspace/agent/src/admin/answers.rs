//! How things stand: pods as the kernel has them, identities, tunnels, and what is still open.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use culvert_policy::MtlsMode;

use super::{
    protocol::{Connection, IdentityStatus, PodStatus, Status},
    socket::Desk,
};
use crate::{judge::Judge, outcome::Record, pod::Pod, snapshot::Snapshot};

pub(super) async fn status(desk: &Desk) -> Status {
    let snapshot = desk.shared.current.get();
    let mut pods = Vec::new();
    for pod in desk.enroller.pods() {
        pods.push(pod_status(desk, &pod).await);
    }
    Status {
        node: desk.node.to_string(),
        generation: snapshot.as_ref().map(|snapshot| snapshot.generation),
        control_connected: desk.shared.metrics.own.control_connected.get() == 1,
        pods,
        closed: desk.enroller.closed().into_iter().map(|(uid, why)| (uid.to_string(), why.to_owned())).collect(),
        identities: identities(desk),
        tunnels: desk.workers.count().await,
        open: snapshot.as_deref().map_or_else(|| "nothing: no state yet".to_owned(), open),
    }
}

async fn pod_status(desk: &Desk, pod: &Arc<Pod>) -> PodStatus {
    let record = pod.workload();
    let captured = desk.enroller.captured(&pod.uid).await;
    let mut deviations: Vec<_> =
        captured.deviations.iter().map(|one| format!("{}: {}", one.name, one.detail)).collect();
    deviations.extend(captured.error.map(str::to_owned));
    PodStatus {
        uid: pod.uid.to_string(),
        namespace: record.namespace.to_string(),
        name: record.name.to_string(),
        addresses: pod.addresses.clone(),
        identity: pod.identity().to_string(),
        captured: captured.is_complete(),
        deviations,
        connections: pod.live.len(),
        pre_enrolment: desk.enroller.pre_enrolment(&pod.uid).await,
        mtls: mode(pod.judge().rules().mtls().mode).to_owned(),
    }
}

fn identities(desk: &Desk) -> Vec<IdentityStatus> {
    let now = SystemTime::now();
    let left = |end: SystemTime| match end.duration_since(now) {
        Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        Err(over) => -i64::try_from(over.duration().as_secs()).unwrap_or(i64::MAX),
    };
    let status = |(id, _pods, status): (_, _, culvert_svid::Status)| {
        let id: culvert_identity::SpiffeId = id;
        IdentityStatus {
            identity: id.to_string(),
            expires_in: status.not_after.map(left),
            serial: status.serial,
            last_failure: status.last_failure.map(str::to_owned),
        }
    };
    desk.enroller.keeper().statuses().into_iter().map(status).collect()
}

/// One line on what plaintext or strangers may still reach, over all enrolled workloads of the mesh.
pub(super) fn open(snapshot: &Snapshot) -> String {
    let mut plaintext = BTreeMap::new();
    let mut everybody = BTreeMap::new();
    let mut enrolled = 0;
    for workload in snapshot.roster.workloads().filter(|workload| is_enrolled(workload)) {
        enrolled += 1;
        let posture = Judge::of(snapshot, workload).rules().posture();
        if posture.plaintext {
            *plaintext.entry(workload.namespace.clone()).or_insert(0) += 1;
        }
        if posture.everybody {
            *everybody.entry(workload.namespace.clone()).or_insert(0) += 1;
        }
    }
    let list = |counts: &BTreeMap<Arc<str>, usize>| {
        counts.iter().map(|(name, count)| format!("{name} ({count})")).collect::<Vec<_>>().join(", ")
    };
    match (plaintext.is_empty(), everybody.is_empty()) {
        (true, true) => format!("nothing: all {enrolled} enrolled workloads ask for an identity and a rule"),
        (false, true) => format!("plaintext may enter: {}", list(&plaintext)),
        (true, false) => format!("no ALLOW policy limits who may call: {}", list(&everybody)),
        (false, false) => {
            format!(
                "plaintext may enter: {}; no ALLOW policy limits who may call: {}",
                list(&plaintext),
                list(&everybody)
            )
        }
    }
}

fn is_enrolled(workload: &culvert_workload::Workload) -> bool {
    workload.protocol == culvert_workload::Protocol::Hbone
        && workload.phase != culvert_workload::Phase::Ended
        && !workload.host_network
}

pub(super) fn mode(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Strict => "strict",
        MtlsMode::Permissive => "permissive",
        MtlsMode::Disable => "disable",
        MtlsMode::Unset => "unset",
    }
}

pub(super) fn connections(desk: &Desk) -> Vec<Connection> {
    let mut all = Vec::new();
    for pod in desk.enroller.pods() {
        let record = pod.workload();
        let name = format!("{}/{}", record.namespace, record.name);
        for live in pod.live.all() {
            let (from_client, to_client) = live.flow.totals();
            all.push(Connection { pod: name.clone(), record: Record::clone(&live.record()), from_client, to_client });
        }
    }
    all
}
