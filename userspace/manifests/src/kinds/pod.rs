//! Pod: who it is, where it runs, what it listens on, how it is.

use std::{collections::BTreeMap, net::IpAddr};

use culvert_workload::{Phase, WorkloadUid};

use super::{
    meta::{self, Enroll, is_dns_subdomain, pod_uid},
    probe::Ports,
};
use crate::{
    fields::{Fields, address},
    object::ObjectKey,
};

/// `culvert.dev/non-tcp: deny` drops what is neither TCP nor DNS at the guard.
pub(super) const NON_TCP: &str = "culvert.dev/non-tcp";
/// Marks the API server's image of a static pod; its value is the UID that kubelet uses.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Ports that the agent listens on in the pod's network namespace.
const AGENT_PORTS: [u16; 4] = [15001, 15006, 15008, 15053];

/// A Pod as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodObject {
    /// `metadata.uid`, or [`pod_uid`].
    pub uid: WorkloadUid,
    /// The UID that kubelet uses for a static pod.
    pub kubelet_uid: Option<String>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.nodeName`; empty while unscheduled.
    pub node: String,
    /// `spec.serviceAccountName`, or `default`.
    pub service_account: String,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Named TCP ports of all containers.
    pub named_ports: BTreeMap<String, u16>,
    /// Ports that kubelet probes, sorted.
    pub probe_ports: Vec<u16>,
    /// `status.podIPs`; empty where addresses come from enrolment.
    pub addresses: Vec<IpAddr>,
    /// `status.phase`.
    pub phase: Phase,
    /// The condition Ready, and not being deleted.
    pub ready: bool,
    /// `culvert.dev/non-tcp: deny`.
    pub deny_non_tcp: bool,
    pub(crate) enroll: Enroll,
    /// It has an Istio proxy of its own.
    pub(crate) sidecar: bool,
}

const SPEC: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
    "workloadRef",
];
const STATUS: &[&str] = &[
    "allocatedResources",
    "conditions",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "extendedResourceClaimStatus",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "nominatedNodeName",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "resize",
    "resourceClaimStatuses",
    "resources",
    "startTime",
];

pub(super) fn read(key: &ObjectKey, object: &Fields<'_>) -> PodObject {
    let object = object.clone().known(&["apiVersion", "kind", "metadata", "spec", "status"]);
    let metadata = meta::metadata(&object);
    let (labels, enroll) = meta::labels_and_enroll(&metadata);
    meta::check_own_keys(&metadata, meta::POD_KEYS);
    let spec = object.inner("spec").known(SPEC);
    let status = object.inner("status").known(STATUS);
    let ports = ports(&spec);
    let (phase, ready) = health(&metadata, &status);
    let host_network = spec.flag("hostNetwork").unwrap_or(false);
    let pod = PodObject {
        uid: uid(key, &metadata),
        kubelet_uid: kubelet_uid(&metadata, host_network),
        deny_non_tcp: deny_non_tcp(&metadata, &labels),
        labels,
        node: node(&spec),
        service_account: service_account(&spec),
        host_network,
        named_ports: ports.named,
        probe_ports: ports.probed.into_iter().collect(),
        addresses: addresses(&status),
        phase,
        ready,
        enroll,
        sidecar: has_sidecar(&spec, &metadata),
    };
    unsupported(&metadata, &ports.numbers);
    pod
}

fn uid(key: &ObjectKey, metadata: &Fields<'_>) -> WorkloadUid {
    let Some(text) = metadata.text("uid") else {
        return pod_uid(&key.namespace, &key.name);
    };
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if text.is_empty() || text.len() > 128 || !plain {
        let complaint = format!("{text:?} is not a UID");
        metadata.notes().error("bad_uid", metadata.at("uid"), complaint, "copy it from the cluster or leave it out");
    }
    WorkloadUid::new(text)
}

/// Of those that may be captured. An MD5 in hex, as kubelet makes it; nobody else's UID, for the API server's are written
/// with dashes.
fn kubelet_uid(metadata: &Fields<'_>, host_network: bool) -> Option<String> {
    let of_static_pod = |uid: &String| uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit());
    metadata.text_map("annotations").remove(MIRROR).filter(of_static_pod).filter(|_| !host_network)
}

fn node(spec: &Fields<'_>) -> String {
    match spec.text("nodeName") {
        Some(name) if is_dns_subdomain(name) => name.to_owned(),
        Some("") | None => {
            let text = "the pod is on no node: nothing is captured and no identity is signed";
            spec.notes().warn("no_node", spec.at("nodeName"), text, "write the name of its node");
            String::new()
        }
        Some(other) => {
            let text = format!("{other:?} is not the name of a node");
            spec.notes().error("bad_name", spec.at("nodeName"), text, "use a-z, 0-9, - and .");
            String::new()
        }
    }
}

fn service_account(spec: &Fields<'_>) -> String {
    let (new, old) = (spec.text("serviceAccountName"), spec.text("serviceAccount"));
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        let text = format!("{old:?} contradicts serviceAccountName {new:?}");
        spec.notes().error("conflict", spec.at("serviceAccount"), text, "keep serviceAccountName");
    }
    match new.or(old).filter(|name| !name.is_empty()) {
        None => "default".to_owned(),
        Some(name) => {
            if !is_dns_subdomain(name) {
                let text = format!("{name:?} is not the name of a service account");
                spec.notes().error("bad_name", spec.at("serviceAccountName"), text, "use a-z, 0-9, - and .");
            }
            name.to_owned()
        }
    }
}

fn ports(spec: &Fields<'_>) -> Ports {
    let mut ports = Ports::default();
    let containers = spec.inners("containers");
    if spec.present() && containers.is_empty() {
        spec.notes().warn(
            "field_missing",
            spec.at("containers"),
            "the pod has no containers",
            "Kubernetes asks for one",
        );
    }
    containers.into_iter().for_each(|container| ports.read_container(container));
    // Init containers with restartPolicy Always run beside the others.
    spec.inners("initContainers").into_iter().for_each(|container| ports.read_container(container));
    ports
}

fn has_sidecar(spec: &Fields<'_>, metadata: &Fields<'_>) -> bool {
    let containers = spec.inners("containers").into_iter().chain(spec.inners("initContainers"));
    let named = containers.filter_map(|container| container.text("name")).any(|name| name == "istio-proxy");
    named || metadata.text_map("annotations").contains_key("sidecar.istio.io/status")
}

fn deny_non_tcp(metadata: &Fields<'_>, labels: &BTreeMap<String, String>) -> bool {
    let annotations = metadata.text_map("annotations");
    match labels.get(NON_TCP).or(annotations.get(NON_TCP)).map(String::as_str) {
        None | Some("allow") => false,
        Some("deny") => true,
        Some(other) => {
            let text = format!("{NON_TCP} is {other:?}");
            metadata.notes().error("bad_value", metadata.at("annotations"), text, "write deny or allow");
            false
        }
    }
}

/// Both families at most once each, as Kubernetes has it.
fn addresses(status: &Fields<'_>) -> Vec<IpAddr> {
    let single = status.text("podIP").filter(|text| !text.is_empty()).map(|text| (status.at("podIP"), text));
    let listed = status.inners("podIPs").into_iter().map(|entry| entry.known(&["ip"]));
    let listed = listed.filter_map(|entry| Some((entry.at("ip"), entry.text("ip")?)));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (path, text) in single.into_iter().chain(listed.collect::<Vec<_>>()) {
        let Some(new) = address(status.notes(), &path, text).filter(|new| !addresses.contains(new)) else {
            continue;
        };
        if addresses.iter().any(|other| other.is_ipv4() == new.is_ipv4()) {
            let text = format!("{new} is a second address of the same family");
            status.notes().error("duplicate_address", path, text, "a pod has one address of each family");
            continue;
        }
        addresses.push(new);
    }
    addresses
}

/// Without a status a pod counts as running and ready: somebody wrote it down and started it by hand. With conditions,
/// the condition Ready decides.
fn health(metadata: &Fields<'_>, status: &Fields<'_>) -> (Phase, bool) {
    let phase = match status.text("phase") {
        None | Some("" | "Running") => Phase::Running,
        Some("Pending" | "Unknown") => Phase::Pending,
        Some("Succeeded" | "Failed") => Phase::Ended,
        Some(other) => {
            let text = format!("{other:?} is not a phase");
            let remedy = "write Pending, Running, Succeeded, Failed or Unknown";
            status.notes().error("bad_value", status.at("phase"), text, remedy);
            Phase::Ended
        }
    };
    let conditions = status.inners("conditions");
    let ready = |condition: &Fields<'_>| condition.text("type") == Some("Ready");
    let ready = match conditions.iter().find(|condition| ready(condition)) {
        Some(condition) => condition.text("status") == Some("True"),
        None => conditions.is_empty(),
    };
    (phase, ready && phase == Phase::Running && !metadata.has("deletionTimestamp"))
}

fn unsupported(metadata: &Fields<'_>, ports: &BTreeMap<u16, String>) {
    let notes = metadata.notes();
    if metadata.text_map("annotations").contains_key("ambient.istio.io/bypass-inbound-capture") {
        let text = "ambient.istio.io/bypass-inbound-capture is not followed: inbound traffic is captured";
        notes.warn("unsupported", metadata.at("annotations"), text, "remove it");
    }
    for (port, path) in ports.iter().filter(|(port, _)| AGENT_PORTS.contains(port)) {
        let text = format!("{port} belongs to the agent in an enrolled pod");
        notes.warn("reserved_port", path.as_str(), text, "listen on another port");
    }
}
