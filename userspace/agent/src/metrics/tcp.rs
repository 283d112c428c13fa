//! Istio's TCP metrics: names and labels as its telemetry has them, so that existing dashboards work.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use culvert_workload::Workload;
use prometheus_client::{
    encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::outcome::{Direction, Flow, Kind, Party, Record, Step, Transport};

/// Label names, in the order in which [`labels`] gives their values.
pub(super) const NAMES: [&str; 27] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_region",
    "source_zone",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_region",
    "destination_zone",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

const UNKNOWN: &str = "unknown";

/// Values of one label set, in the order of [`NAMES`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels(Arc<[Arc<str>]>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        NAMES.iter().zip(self.0.iter()).try_for_each(|(name, value)| (*name, &**value).encode(encoder.encode_label()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reporter {
    reporter: &'static str,
}

/// The set, its cap and the connections whose bytes are still growing.
#[derive(Debug)]
pub struct Tcp {
    opened: Family<Labels, Counter>,
    closed: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    sent: Family<Labels, Counter>,
    received: Family<Labels, Counter>,
    sockets: Family<Reporter, Gauge>,
    series: usize,
    known: Mutex<HashSet<Labels>>,
    /// By the flow's address, which the weak reference keeps from being given to another one.
    live: Mutex<HashMap<usize, (Weak<Flow>, Labels)>>,
}

impl Tcp {
    pub(super) fn register(registry: &mut Registry, series: usize) -> Self {
        let tcp = Self {
            opened: Family::default(),
            closed: Family::default(),
            failed: Family::default(),
            sent: Family::default(),
            received: Family::default(),
            sockets: Family::default(),
            series,
            known: Mutex::default(),
            live: Mutex::default(),
        };
        let sub = registry.sub_registry_with_prefix("istio");
        sub.register("tcp_connections_opened", "Connections opened", tcp.opened.clone());
        sub.register("tcp_connections_closed", "Connections closed", tcp.closed.clone());
        sub.register("tcp_connections_failed", "Connections that were never opened", tcp.failed.clone());
        sub.register("tcp_sent_bytes", "Bytes from server to client", tcp.sent.clone());
        sub.register("tcp_received_bytes", "Bytes from client to server", tcp.received.clone());
        sub.register("tcp_sockets_open", "Connections that are open", tcp.sockets.clone());
        tcp
    }

    /// A connection stands from end to end.
    pub(crate) fn opened(&self, record: &Record, flow: &Arc<Flow>) {
        self.sockets.get_or_create(&reporter(record)).inc();
        let Some(labels) = self.capped(labels(record)) else { return };
        self.opened.get_or_create(&labels).inc();
        lock(&self.live).insert(Arc::as_ptr(flow).addr(), (Arc::downgrade(flow), labels));
    }

    /// A connection has ended, or never stood.
    pub(crate) fn ended(&self, record: &Record, flow: &Arc<Flow>, opened: bool) {
        if opened {
            self.sockets.get_or_create(&reporter(record)).dec();
            // Now and not with the next scrape, which may never come.
            lock(&self.live).remove(&Arc::as_ptr(flow).addr());
        }
        let Some(labels) = self.capped(labels(record)) else { return };
        if opened {
            self.count(flow, &labels);
            self.closed.get_or_create(&labels).inc();
        } else {
            self.failed.get_or_create(&labels).inc();
        }
    }

    /// Connections whose bytes are still growing.
    #[cfg(test)]
    pub(super) fn live(&self) -> usize {
        lock(&self.live).len()
    }

    /// Brings the byte counters of open connections up to date; forgets those that are gone without an end.
    pub(crate) fn count_live(&self) {
        lock(&self.live).retain(|_, (flow, labels)| match flow.upgrade() {
            Some(flow) => {
                self.count(&flow, labels);
                true
            }
            None => false,
        });
    }

    fn count(&self, flow: &Flow, labels: &Labels) {
        let (from_client, to_client) = flow.news();
        self.received.get_or_create(labels).inc_by(from_client);
        self.sent.get_or_create(labels).inc_by(to_client);
    }

    /// The labels themselves while there is room for another series, then those of everything else.
    fn capped(&self, labels: Labels) -> Option<Labels> {
        if self.series == 0 {
            return None;
        }
        let mut known = lock(&self.known);
        if known.contains(&labels) {
            return Some(labels);
        }
        if known.len() < self.series {
            known.insert(labels.clone());
            return Some(labels);
        }
        let other: Arc<str> = "other".into();
        Some(Labels(NAMES.iter().map(|_| other.clone()).collect()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reporter(record: &Record) -> Reporter {
    Reporter { reporter: side(record) }
}

fn side(record: &Record) -> &'static str {
    match record.direction {
        Direction::Outbound => "source",
        Direction::Inbound => "destination",
    }
}

fn labels(record: &Record) -> Labels {
    let mut values: Vec<Arc<str>> = Vec::with_capacity(NAMES.len());
    values.push(side(record).into());
    party(&mut values, &record.src);
    party(&mut values, &record.dst);
    let service = record.service.as_deref().and_then(|service| service.split_once('/'));
    values.push(service.map_or_else(|| UNKNOWN.into(), |(space, name)| format!("{name}.{space}.svc").into()));
    values.push(service.map_or(UNKNOWN, |(_, name)| name).into());
    values.push(service.map_or(UNKNOWN, |(space, _)| space).into());
    values.push("tcp".into());
    values.push(flags(record).into());
    values.push(if mutual(record) { "mutual_tls" } else { UNKNOWN }.into());
    Labels(values.into())
}

fn mutual(record: &Record) -> bool {
    record.transport == Transport::Hbone
}

fn party(values: &mut Vec<Arc<str>>, party: &Party) {
    let unknown: Arc<str> = UNKNOWN.into();
    let record = party.record.as_deref();
    let label = |names: &[&str]| record.and_then(|record| find(record, names));
    let name = party.workload.clone().unwrap_or_else(|| unknown.clone());
    let canonical = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let latest = || if record.is_some() { "latest".into() } else { unknown.clone() };
    values.push(name.clone());
    values.push(canonical.unwrap_or_else(|| name.clone()));
    values.push(revision.unwrap_or_else(latest));
    values.push(party.namespace.clone().unwrap_or_else(|| unknown.clone()));
    values.push(party.identity.clone().unwrap_or_else(|| unknown.clone()));
    values.push(label(&["app"]).unwrap_or_else(|| unknown.clone()));
    values.push(label(&["version"]).unwrap_or_else(|| unknown.clone()));
    values.push(if record.is_some() { "Kubernetes".into() } else { unknown.clone() });
    values.push(unknown.clone());
    values.push(unknown);
}

fn find(workload: &Workload, names: &[&str]) -> Option<Arc<str>> {
    names.iter().find_map(|name| workload.labels.get(*name)).map(|value| value.as_str().into())
}

/// Envoy's response flags, as ztunnel uses them.
fn flags(record: &Record) -> &'static str {
    match (record.outcome, record.step) {
        (Kind::Denied | Kind::Revoked, _) => "DENY",
        (Kind::Failed, Some(Step::Handshake)) => "TLS_FAILURE",
        (Kind::Failed, Some(Step::Dial)) if record.transport == Transport::Hbone => match record.blame {
            Some(crate::outcome::Blame::Network) => "CONNECT",
            _ => "TLS_FAILURE",
        },
        (Kind::Failed, Some(Step::Dial | Step::Connect | Step::Deliver)) => "CONNECT",
        _ => "-",
    }
}
