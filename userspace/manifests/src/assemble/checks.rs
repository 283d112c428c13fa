//! What only shows when objects are seen together. Nothing here changes the state.

mod names;
mod policies;

use std::{collections::BTreeMap, net::IpAddr};

use culvert_workload::{Phase, TargetPort, Workload, WorkloadUid};

use super::{State, View, people::claims};
use crate::{
    catalog::Held,
    complaint::Severity,
    kinds::Object,
    object::{ObjectKey, ObjectKind},
};

/// Most complaints of one sort about one object.
const MOST: usize = 100;
/// The word for what was too much to be looked at.
const NOT_ALL: &str = "not_all_compared";

pub(super) fn check(view: &mut View<'_>, state: &State) {
    check_pods(view, state);
    check_services(view, state);
    policies::check(view, state);
}

fn check_pods(view: &mut View<'_>, state: &State) {
    let (namespaces, nodes) = (view.names(ObjectKind::Namespace), view.names(ObjectKind::Node));
    let claims = claims(&state.workloads);
    for (key, held) in view.of_kind(ObjectKind::Pod) {
        let Object::Pod(pod) = &held.object else {
            continue;
        };
        let at = Some((key, held));
        if !namespaces.contains(key.namespace.as_str()) && view.catalog.live().is_none() {
            let text = format!(
                "namespace {:?} is not written down: its pods are enrolled only by their own label",
                key.namespace
            );
            let remedy = "add the Namespace";
            view.complain(Severity::Warning, at, "metadata.namespace", "unknown_namespace", text, remedy);
        }
        let account = &pod.service_account;
        if account != "default"
            && view.catalog.live().is_none()
            && view.get(ObjectKind::ServiceAccount, &key.namespace, account).is_none()
        {
            let text = format!("service account {account:?} is not written down");
            let remedy = "add the ServiceAccount or mend the name";
            view.complain(Severity::Warning, at, "spec.serviceAccountName", "unknown_service_account", text, remedy);
        }
        if !pod.node.is_empty()
            && !nodes.is_empty()
            && view.catalog.live().is_none()
            && !nodes.contains(pod.node.as_str())
        {
            let text = format!("node {:?} is not written down", pod.node);
            let remedy = "add the Node or mend the name";
            view.complain(Severity::Warning, at, "spec.nodeName", "unknown_node", text, remedy);
        }
        if let Some(workload) =
            state.workloads.get(&pod.uid).filter(|pod| !pod.host_network && pod.phase != Phase::Ended)
        {
            check_addresses(view, at, state, workload, &claims);
        }
    }
}

fn check_addresses(
    view: &mut View<'_>,
    at: Option<(&ObjectKey, &Held)>,
    state: &State,
    workload: &Workload,
    claims: &BTreeMap<IpAddr, std::collections::BTreeSet<&WorkloadUid>>,
) {
    for address in &workload.addresses {
        let others = claims.get(address).into_iter().flatten().filter(|uid| ***uid != workload.uid);
        for other in others.filter_map(|uid| state.workloads.get(uid)) {
            let text = format!("{address} is the address of {}/{} as well", other.namespace, other.name);
            let remedy = "a pod's address is its own; write the phase of the one that has ended";
            view.complain(Severity::Error, at, "status.podIP", "address_conflict", text, remedy);
        }
        let ranges = &state.mesh.cluster_ranges;
        if !ranges.is_empty() && !ranges.iter().any(|range| range.contains(address)) {
            let text = format!("{address} lies outside of the mesh's ranges");
            let remedy = "add its range to spec.podCIDRs of the Mesh";
            view.complain(Severity::Warning, at, "status.podIP", "outside_ranges", text, remedy);
        }
    }
}

fn check_services(view: &mut View<'_>, state: &State) {
    let mut members: BTreeMap<(&str, &str), Vec<&Workload>> = BTreeMap::new();
    for pod in state.workloads.values() {
        for service in &pod.services {
            members.entry((&*service.namespace, &*service.name)).or_default().push(pod);
        }
    }
    for (key, held) in view.of_kind(ObjectKind::Service) {
        let Object::Service(service) = &held.object else {
            continue;
        };
        let at = Some((key, held));
        let pods = members.get(&(key.namespace.as_str(), key.name.as_str())).map_or(&[][..], Vec::as_slice);
        if pods.is_empty() && !service.selector.is_empty() {
            let text = "no pod has these labels: the service has no endpoints".to_owned();
            view.complain(
                Severity::Warning,
                at,
                "spec.selector",
                "selects_nothing",
                text,
                "compare it with the pods' labels",
            );
        }
        for (index, port) in service.ports.iter().enumerate() {
            let TargetPort::Name(name) = &port.target else {
                continue;
            };
            for pod in pods.iter().filter(|pod| !pod.named_ports.contains_key(&**name)) {
                let text = format!("pod {} has no TCP port called {name:?}: it is no endpoint of this port", pod.name);
                let field = format!("spec.ports[{index}].targetPort");
                view.complain(Severity::Warning, at, &field, "unknown_port", text, "name the container's port");
            }
        }
    }
}
