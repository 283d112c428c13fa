//! Namespace and Node.

use std::net::IpAddr;

use ipnet::IpNet;

use super::meta::{self, Enroll};
use crate::fields::{Fields, address};

/// A Namespace: whether its pods are enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceObject {
    pub(crate) enroll: Enroll,
}

impl NamespaceObject {
    /// What holds while nobody can tell what the object says: its pods are never spoken to in plaintext.
    pub(super) fn closed() -> Self {
        Self { enroll: Enroll { wanted: Some(true), istio: None } }
    }
}

/// A Node: its pods' ranges and its own addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeObject {
    /// `spec.podCIDRs` or `spec.podCIDR`.
    pub pod_ranges: Vec<IpNet>,
    /// `status.addresses` of type InternalIP or ExternalIP.
    pub addresses: Vec<IpAddr>,
}

pub(super) fn read_namespace(object: &Fields<'_>) -> NamespaceObject {
    let object = object.clone().known(&["apiVersion", "kind", "metadata", "spec", "status"]);
    let metadata = meta::metadata(&object);
    object.inner("spec").known(&["finalizers"]);
    object.inner("status").known(&["conditions", "phase"]);
    meta::check_own_keys(&metadata, meta::NAMESPACE_KEYS);
    NamespaceObject { enroll: meta::labels_and_enroll(&metadata).1 }
}

const NODE_SPEC: &[&str] =
    &["configSource", "externalID", "podCIDR", "podCIDRs", "providerID", "taints", "unschedulable"];
const NODE_STATUS: &[&str] = &[
    "addresses",
    "allocatable",
    "capacity",
    "conditions",
    "config",
    "daemonEndpoints",
    "declaredFeatures",
    "features",
    "images",
    "nodeInfo",
    "phase",
    "runtimeHandlers",
    "volumesAttached",
    "volumesInUse",
];

pub(super) fn read_node(object: &Fields<'_>) -> NodeObject {
    let object = object.clone().known(&["apiVersion", "kind", "metadata", "spec", "status"]);
    meta::labels_and_enroll(&meta::metadata(&object));
    let spec = object.inner("spec").known(NODE_SPEC);
    let status = object.inner("status").known(NODE_STATUS);
    let mut pod_ranges = ranges(&spec, "podCIDRs");
    if let (true, Some(text)) = (pod_ranges.is_empty(), spec.text("podCIDR")) {
        pod_ranges.extend(range(&spec, &spec.at("podCIDR"), text));
    }
    let own = status.inners("addresses").into_iter().map(|entry| entry.known(&["address", "type"]));
    let ip = own.filter(|entry| matches!(entry.text("type"), Some("InternalIP" | "ExternalIP")));
    let addresses = ip.filter_map(|entry| address(entry.notes(), &entry.at("address"), entry.text("address")?));
    NodeObject { pod_ranges, addresses: addresses.collect() }
}

/// A list of CIDRs.
pub(super) fn ranges(fields: &Fields<'_>, key: &str) -> Vec<IpNet> {
    fields.texts(key).into_iter().filter_map(|(path, text)| range(fields, &path, text)).collect()
}

fn range(fields: &Fields<'_>, path: &str, text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(range) => Some(range.trunc()),
        Err(_) => {
            fields.notes().error("bad_cidr", path, format!("{text:?} is not a CIDR"), "write it as in 10.244.0.0/16");
            None
        }
    }
}
