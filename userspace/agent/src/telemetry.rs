//! What is told to peers and to metrics about workloads, handshakes and services.

use std::{sync::Arc, time::Duration};

use culvert_tunnel::{Baggage, DialWatch, OpenError, Peer, Route, connect::WorkloadKind};
use culvert_workload::{Roster, ServiceName, TargetPort, Workload};

use crate::metrics::Metrics;

/// What a CONNECT and its answer say about a workload.
pub(crate) fn baggage(workload: &Workload) -> Baggage {
    let label = |names: &[&str]| names.iter().find_map(|name| workload.labels.get(*name)).map(|v| v.as_str().into());
    let canonical = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    Baggage {
        cluster: Some("Kubernetes".into()),
        namespace: Some(workload.namespace.as_ref().into()),
        workload: Some((WorkloadKind::Pod, workload.name.as_ref().into())),
        service: Some(canonical.unwrap_or_else(|| workload.name.as_ref().into())),
        revision: Some(revision.unwrap_or_else(|| "latest".into())),
        region: None,
        zone: None,
    }
}

/// Counts dials of tunnels.
#[derive(Debug)]
pub(crate) struct Dials(pub(crate) Arc<Metrics>);

impl DialWatch for Dials {
    fn dialled(&self, _route: &Route, result: Result<&Peer, &OpenError>, took: Duration) {
        let own = &self.0.own;
        match result {
            Ok(peer) => {
                own.handshake("outbound", "ok");
                own.handshake_seconds.observe(took);
                own.group(peer.key_exchange);
            }
            Err(OpenError::Handshake(error)) => own.handshake("outbound", error.reason()),
            Err(_) => {}
        }
    }
}

/// The service that an inbound connection meant: the one that the peer names if the workload belongs to it, else one
/// whose target port is the port that was called.
pub(crate) fn service_meant(roster: &Roster, workload: &Workload, named: Option<&str>, port: u16) -> Option<Arc<str>> {
    let named = named.and_then(service_of_host).filter(|name| workload.services.contains(name));
    let by_port = || workload.services.iter().find(|name| serves(roster, workload, name, port)).cloned();
    named.or_else(by_port).map(|name| name.to_string().into())
}

/// `name.namespace.svc`, with or without the cluster's domain.
pub(crate) fn service_of_host(host: &str) -> Option<ServiceName> {
    let mut parts = host.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(namespace), Some("svc")) => Some(ServiceName::new(namespace, name)),
        _ => None,
    }
}

fn serves(roster: &Roster, workload: &Workload, name: &ServiceName, port: u16) -> bool {
    let Some(service) = roster.service(name) else { return false };
    service.ports.iter().any(|entry| match &entry.target {
        TargetPort::Number(number) => *number == port,
        TargetPort::Name(name) => workload.named_ports.get(&**name) == Some(&port),
    })
}
