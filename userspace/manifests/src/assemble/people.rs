//! Workloads and services.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use culvert_workload::{Mesh, Phase, Protocol, Service, ServiceName, SharedMap, Workload, WorkloadUid};

use super::{View, backends::Members};
use crate::{
    catalog::Held,
    complaint::Severity,
    kinds::{Enroll, NamespaceObject, Object, PodObject},
    object::{ObjectKey, ObjectKind},
};

/// Two pods with one UID: the second one is left out.
pub(super) const UID_CONFLICT: &str = "uid_conflict";

/// A service with the labels that it selects.
pub(super) type Selecting = BTreeMap<ServiceName, (BTreeMap<String, String>, Service)>;

pub(super) fn services(view: &mut View<'_>) -> Selecting {
    let mut services = BTreeMap::new();
    let mut vips: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (key, held) in view.of_kind(ObjectKind::Service) {
        let Object::Service(written) = &held.object else {
            continue;
        };
        for vip in &written.vips {
            let first = vips.entry(*vip).or_insert_with(|| key.to_string());
            if *first != key.to_string() {
                let text = format!("{vip} is an address of {first} as well");
                view.complain(
                    Severity::Error,
                    Some((key, held)),
                    "spec.clusterIPs",
                    "address_conflict",
                    text,
                    "give each its own",
                );
            }
        }
        let name = ServiceName::new(&key.namespace, &key.name);
        let service = Service {
            name: name.clone(),
            vips: written.vips.clone(),
            ports: written.ports.clone(),
            publish_not_ready: written.publish_not_ready,
            client_ip_affinity: written.client_ip_affinity,
            local: written.local,
        };
        services.insert(name, (written.selector.clone(), service));
    }
    services
}

pub(super) fn workloads(
    view: &mut View<'_>,
    mesh: &Mesh,
    services: &Selecting,
    members: &Members,
    reported: &BTreeMap<WorkloadUid, Vec<IpAddr>>,
) -> BTreeMap<WorkloadUid, Workload> {
    let mut workloads: BTreeMap<WorkloadUid, Workload> = BTreeMap::new();
    for (key, held) in view.of_kind(ObjectKind::Pod) {
        let Object::Pod(pod) = &held.object else {
            continue;
        };
        if let Some(other) = workloads.get(&pod.uid) {
            let text =
                format!("{} is the UID of {}/{} as well: this pod is left out", pod.uid, other.namespace, other.name);
            let remedy = "copy UIDs from the cluster or leave them out";
            view.complain(Severity::Error, Some((key, held)), "metadata.uid", UID_CONFLICT, text, remedy);
            continue;
        }
        if let Some(workload) = record(view, (key, held, pod), mesh, services, members, reported) {
            workloads.insert(pod.uid.clone(), workload);
        }
    }
    workloads
}

/// The record of one pod. `None`: its namespace may ask for enrolment, and until that is known, nobody may take it for
/// a plain pod.
pub(super) fn record(
    view: &mut View<'_>,
    (key, held, pod): (&ObjectKey, &Held, &PodObject),
    mesh: &Mesh,
    services: &Selecting,
    members: &Members,
    reported: &BTreeMap<WorkloadUid, Vec<IpAddr>>,
) -> Option<Workload> {
    if view.catalog.live().is_some() && view.get(ObjectKind::Namespace, "", &key.namespace).is_none() {
        return None;
    }
    let protocol = protocol(view, key, held, pod);
    let mut workload = workload(key, pod, protocol, mesh, services, reported);
    workload.services.extend(members.of(&workload));
    Some(workload)
}

fn workload(
    key: &ObjectKey,
    pod: &PodObject,
    protocol: Protocol,
    mesh: &Mesh,
    services: &Selecting,
    reported: &BTreeMap<WorkloadUid, Vec<IpAddr>>,
) -> Workload {
    let addresses = match (pod.addresses.as_slice(), pod.host_network) {
        ([], false) => reported.get(&pod.uid).cloned().unwrap_or_default(),
        (written, _) => written.to_vec(),
    };
    Workload {
        uid: pod.uid.clone(),
        kubelet_uid: pod.kubelet_uid.as_deref().map(Into::into),
        name: key.name.as_str().into(),
        namespace: key.namespace.as_str().into(),
        service_account: pod.service_account.as_str().into(),
        trust_domain: mesh.trust_domain.clone(),
        node: pod.node.as_str().into(),
        ready: pod.ready && !addresses.is_empty(),
        addresses,
        labels: pod.labels.clone(),
        named_ports: pod.named_ports.clone(),
        probe_ports: pod.probe_ports.clone(),
        protocol,
        phase: pod.phase,
        host_network: pod.host_network,
        deny_non_tcp: pod.deny_non_tcp,
        services: selected_by(services, &key.namespace, &pod.labels),
    }
}

fn selected_by(services: &Selecting, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<ServiceName> {
    let selects = |selector: &BTreeMap<String, String>| {
        !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let here = services.range(ServiceName::new(namespace, "")..);
    let here = here.take_while(|(name, _)| *name.namespace == *namespace);
    here.filter(|(_, (selector, _))| selects(selector)).map(|(name, _)| name.clone()).collect()
}

/// Enrolled or not: what the pod says goes before what its namespace says; host-network pods and pods with a proxy of
/// their own never are.
fn protocol(view: &mut View<'_>, key: &ObjectKey, held: &Held, pod: &PodObject) -> Protocol {
    let namespace = match view.get(ObjectKind::Namespace, "", &key.namespace).map(|held| &held.object) {
        Some(Object::Namespace(namespace)) => namespace.enroll,
        _ => Enroll::default(),
    };
    let live = view.catalog.live();
    let istio = live.is_some_and(|live| live.istio_labels);
    if !asked_for(pod.enroll, namespace, istio) || pod.phase == Phase::Ended {
        return Protocol::Plain;
    }
    let claimed = claimed_as_well(pod.enroll, namespace, istio);
    let (severity, reason, text, remedy) = if pod.host_network {
        let severity = match (pod.enroll.wish(istio), live) {
            (None, None) => return Protocol::Plain,
            (None, Some(_)) => Severity::Info,
            (Some(_), _) => Severity::Warning,
        };
        let text = "a pod of the host's network is never enrolled: it has no network namespace of its own";
        (severity, "host_network", text, "take hostNetwork or culvert.dev/enroll away")
    } else if pod.sidecar {
        let text = "a pod with an Istio proxy of its own is not enrolled";
        (Severity::Warning, "sidecar", text, "take the proxy away, or culvert.dev/enroll")
    } else if claimed {
        let text = "both culvert.dev/enroll and istio.io/dataplane-mode: ambient claim the pod: it is not enrolled";
        (Severity::Error, "claimed_twice", text, "keep one of the two labels")
    } else {
        return Protocol::Hbone;
    };
    view.complain(severity, Some((key, held)), "metadata.labels", reason, text.to_owned(), remedy);
    Protocol::Plain
}

/// What the pod says goes before what its namespace says.
fn asked_for(pod: Enroll, namespace: Enroll, istio: bool) -> bool {
    pod.wish(istio).or(namespace.wish(istio)).unwrap_or(false)
}

fn claimed_as_well(pod: Enroll, namespace: Enroll, istio: bool) -> bool {
    !istio && (pod.claimed_by_istio() || namespace.claimed_by_istio())
}

/// Are the pods of this namespace enrolled that say nothing themselves.
pub(super) fn enrols(view: &View<'_>, namespace: &NamespaceObject) -> bool {
    let (silent, istio) = (Enroll::default(), view.catalog.live().is_some_and(|live| live.istio_labels));
    asked_for(silent, namespace.enroll, istio) && !claimed_as_well(silent, namespace.enroll, istio)
}

/// The addresses that live pods claim, with the pods that do.
pub(super) fn claims(workloads: &SharedMap<WorkloadUid, Arc<Workload>>) -> BTreeMap<IpAddr, BTreeSet<&WorkloadUid>> {
    let mut claims: BTreeMap<IpAddr, BTreeSet<&WorkloadUid>> = BTreeMap::new();
    for workload in workloads.values().filter(|workload| !workload.host_network && workload.phase != Phase::Ended) {
        for address in &workload.addresses {
            claims.entry(*address).or_default().insert(&workload.uid);
        }
    }
    claims
}
