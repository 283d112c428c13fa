//! EndpointSlice and its predecessor Endpoints: what serves a Service that selects nothing.

use std::net::IpAddr;

use crate::{
    fields::{Fields, address},
    object::ObjectKey,
};

/// The label that names an EndpointSlice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What serves a Service, as far as this object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointsObject {
    /// Name of the Service, in the same namespace; empty where the slice names none.
    pub service: String,
    /// One of an EndpointSlice, one for each subset of an Endpoints.
    pub sets: Vec<BackendSet>,
}

/// Backends with the same ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendSet {
    /// Those that are ready and not terminating.
    pub backends: Vec<Backend>,
    /// TCP ports by the name that the Service's port has (possibly empty).
    pub ports: Vec<(String, u16)>,
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its addresses, all of one family.
    pub addresses: Vec<IpAddr>,
    /// Name of the pod, in the same namespace, where it is one.
    pub pod: Option<String>,
}

pub(super) fn read_slice(object: &Fields<'_>) -> EndpointsObject {
    let metadata = object.inner("metadata");
    let service = metadata.text_map("labels").remove(SERVICE_NAME).unwrap_or_default();
    if object.text("addressType") == Some("FQDN") {
        let text = "endpoints by name are a matter of DNS: they are not taken";
        object.notes().warn("unsupported", object.at("addressType"), text, "write addresses");
        return EndpointsObject { service, sets: Vec::new() };
    }
    let ready = |endpoint: &Fields<'_>| {
        let conditions = endpoint.inner("conditions");
        conditions.flag("ready").unwrap_or(true) && !conditions.flag("terminating").unwrap_or(false)
    };
    let backends = object.inners("endpoints").into_iter().filter(ready).map(|endpoint| {
        let addresses = endpoint.texts("addresses");
        let read = |(path, text): (String, &str)| address(endpoint.notes(), &path, text);
        Backend { addresses: addresses.into_iter().filter_map(read).collect(), pod: pod(&endpoint) }
    });
    EndpointsObject { service, sets: vec![BackendSet { backends: backends.collect(), ports: ports(object) }] }
}

pub(super) fn read_endpoints(key: &ObjectKey, object: &Fields<'_>) -> EndpointsObject {
    let set = |subset: Fields<'_>| {
        let backend = |entry: Fields<'_>| {
            let ip = entry.text("ip").and_then(|text| address(entry.notes(), &entry.at("ip"), text));
            Backend { addresses: ip.into_iter().collect(), pod: pod(&entry) }
        };
        BackendSet { backends: subset.inners("addresses").into_iter().map(backend).collect(), ports: ports(&subset) }
    };
    EndpointsObject { service: key.name.clone(), sets: object.inners("subsets").into_iter().map(set).collect() }
}

fn pod(entry: &Fields<'_>) -> Option<String> {
    let target = entry.inner("targetRef");
    (target.text("kind") == Some("Pod")).then(|| target.text("name").map(str::to_owned)).flatten()
}

fn ports(fields: &Fields<'_>) -> Vec<(String, u16)> {
    let tcp = |port: &Fields<'_>| matches!(port.text("protocol"), None | Some("TCP"));
    let ports = fields.inners("ports").into_iter().filter(tcp);
    ports.filter_map(|port| Some((port.text("name").unwrap_or_default().to_owned(), port.port("port")?))).collect()
}
