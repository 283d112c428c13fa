//! Service: virtual addresses, ports, selector.

use std::{collections::BTreeMap, net::IpAddr};

use culvert_workload::{ServicePort, TargetPort};

use super::meta;
use crate::{
    complaint::Severity,
    fields::{Fields, PortOrName, address},
};

/// A Service as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceObject {
    /// `spec.clusterIPs`.
    pub vips: Vec<IpAddr>,
    /// `spec.ports` with protocol TCP.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`; none means that nothing is selected.
    pub selector: BTreeMap<String, String>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.sessionAffinity` is ClientIP.
    pub client_ip_affinity: bool,
    /// `spec.internalTrafficPolicy` is Local.
    pub local: bool,
    /// `spec.type` is ExternalName: a matter of DNS.
    pub external_name: bool,
}

const SPEC: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "ports",
    "publishNotReadyAddresses",
    "selector",
    "sessionAffinity",
    "sessionAffinityConfig",
    "trafficDistribution",
    "type",
];

pub(super) fn read(object: &Fields<'_>) -> ServiceObject {
    let object = object.clone().known(&["apiVersion", "kind", "metadata", "spec", "status"]);
    meta::labels_and_enroll(&meta::metadata(&object));
    let spec = object.inner("spec").known(SPEC);
    unsupported(&spec);
    let selector = spec.text_map("selector");
    if selector.is_empty() && spec.text("type") != Some("ExternalName") {
        let text = "without a selector its endpoints are those of its EndpointSlices, and none where there are none";
        spec.notes().add(Severity::Info, "no_selector", spec.at("selector"), text, "give it the labels of its pods");
    }
    ServiceObject {
        vips: vips(&spec),
        ports: ports(&spec),
        selector,
        publish_not_ready: spec.flag("publishNotReadyAddresses").unwrap_or(false),
        client_ip_affinity: word(&spec, "sessionAffinity", ["None", "ClientIP"]) == Some("ClientIP"),
        local: word(&spec, "internalTrafficPolicy", ["Cluster", "Local"]) == Some("Local"),
        external_name: spec.text("type") == Some("ExternalName"),
    }
}

/// One of these words; another one is a mistake.
fn word<'f>(spec: &'f Fields<'_>, key: &str, words: [&str; 2]) -> Option<&'f str> {
    let text = spec.text(key)?;
    if !words.contains(&text) {
        let remedy = format!("write {} or {}", words[0], words[1]);
        spec.notes().error("bad_value", spec.at(key), format!("{text:?} is not known here"), &remedy);
    }
    Some(text)
}

fn vips(spec: &Fields<'_>) -> Vec<IpAddr> {
    let single = || spec.text("clusterIP").map(|text| (spec.at("clusterIP"), text));
    let mut written = spec.texts("clusterIPs");
    if written.is_empty() {
        written.extend(single());
    }
    written.retain(|(_, text)| !text.is_empty());
    if written.is_empty() && spec.text("type") != Some("ExternalName") {
        let text = "without spec.clusterIP there is no virtual address: clients reach the pods by their own addresses";
        let remedy = "give it an address of the service range, or \"None\" where that is meant";
        spec.notes().add(Severity::Info, "no_vip", spec.at("clusterIP"), text, remedy);
    }
    let mut vips = Vec::new();
    for (path, text) in written.into_iter().filter(|(_, text)| *text != "None") {
        match address(spec.notes(), &path, text) {
            Some(vip) if vips.contains(&vip) => {
                spec.notes().error("duplicate_address", path, format!("{vip} is there twice"), "remove one");
            }
            vip => vips.extend(vip),
        }
    }
    vips
}

fn ports(spec: &Fields<'_>) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for entry in spec.inners("ports") {
        let entry = entry.known(&["appProtocol", "name", "nodePort", "port", "protocol", "targetPort"]);
        if !is_tcp(&entry, "this port of the service") {
            continue;
        }
        let Some(port) = entry.port("port") else {
            if !entry.has("port") {
                entry.notes().error("field_missing", entry.at("port"), "the port has no number", "write port: NUMBER");
            }
            continue;
        };
        if ports.iter().any(|other| other.port == port) {
            entry.notes().error(
                "duplicate_port",
                entry.at("port"),
                format!("port {port} is there twice"),
                "remove one",
            );
            continue;
        }
        let target = match entry.port_or_name("targetPort") {
            Some(PortOrName::Number(number)) => TargetPort::Number(number),
            Some(PortOrName::Name(name)) => TargetPort::Name(name.into()),
            None => TargetPort::Number(port),
        };
        ports.push(ServicePort { name: entry.text("name").unwrap_or_default().into(), port, target });
    }
    ports
}

/// culvert carries TCP; whatever else is written is said to go its own way.
pub(super) fn is_tcp(entry: &Fields<'_>, what: &str) -> bool {
    match entry.text("protocol") {
        None | Some("TCP") => true,
        Some(other @ ("UDP" | "SCTP")) => {
            let text = format!("{what} is {other}, which is neither encrypted nor checked");
            entry.notes().add(Severity::Info, "not_tcp", entry.at("protocol"), text, "");
            false
        }
        Some(other) => {
            let text = format!("{other:?} is not a protocol");
            entry.notes().error("bad_value", entry.at("protocol"), text, "write TCP, UDP or SCTP");
            false
        }
    }
}

/// Settings that promise something which culvert does not keep.
fn unsupported(spec: &Fields<'_>) {
    let warn = |key: &str, text: &str, remedy: &str| spec.notes().warn("unsupported", spec.at(key), text, remedy);
    match spec.text("type") {
        None | Some("ClusterIP" | "NodePort" | "LoadBalancer") => {}
        Some("ExternalName") => warn("type", "ExternalName is a matter of DNS: the service has no address here", ""),
        Some(other) => {
            let text = format!("{other:?} is not a type of service");
            let remedy = "write ClusterIP, NodePort, LoadBalancer or ExternalName";
            spec.notes().error("bad_value", spec.at("type"), text, remedy);
        }
    }
    if spec.has("trafficDistribution") {
        warn("trafficDistribution", "it is not kept: endpoints are picked at random", "remove it");
    }
    if !spec.texts("externalIPs").is_empty() {
        warn("externalIPs", "they are not taken for addresses of the service", "use clusterIPs");
    }
}
