//! Istio's TCP metrics: names and labels as its telemetry has them, so that existing dashboards work.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, Hash, Hasher},
    sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak},
};

use culvert_workload::Workload;
use foldhash::fast::RandomState;
use prometheus_client::{
    encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::kin::{Kin, Kindred};
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
const NO_FLAGS: &str = "-";

/// Words that most label sets have.
static WORDS: LazyLock<HashMap<&str, Arc<str>>> = LazyLock::new(|| {
    let words = ["source", "destination", UNKNOWN, "latest", "Kubernetes", "tcp", NO_FLAGS, "mutual_tls"];
    words.into_iter().map(|word| (word, word.into())).collect()
});

fn word(word: &str) -> Arc<str> {
    WORDS.get(word).cloned().unwrap_or_else(|| word.into())
}

/// Values of one label set, in the order of [`NAMES`]. Six tables have it as key, and 27 texts are dear to hash: they are
/// hashed once.
#[derive(Debug, Clone, Eq)]
struct Labels {
    values: Arc<[Arc<str>]>,
    hash: u64,
}

impl Labels {
    fn new(values: Vec<Arc<str>>) -> Self {
        static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);
        Self { hash: SEED.hash_one(&values), values: values.into() }
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.values, &other.values) || self.values == other.values)
    }
}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        NAMES
            .iter()
            .zip(self.values.iter())
            .try_for_each(|(name, value)| (*name, &**value).encode(encoder.encode_label()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reporter {
    reporter: &'static str,
}

/// The counters of one label set. Looked up once per connection: 27 labels are dear to compare.
#[derive(Debug)]
pub struct Series {
    labels: Labels,
    opened: OnceLock<Counter>,
    closed: OnceLock<Counter>,
    failed: OnceLock<Counter>,
    sent: OnceLock<Counter>,
    received: OnceLock<Counter>,
}

/// An open connection and where its bytes are counted.
type Growing = (Weak<Flow>, Arc<Series>);

/// The set, its cap and the connections whose bytes are still growing.
#[derive(Debug)]
pub struct Tcp {
    opened: Family<Labels, Counter>,
    closed: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    sent: Family<Labels, Counter>,
    received: Family<Labels, Counter>,
    sockets: [Gauge; 2],
    series: usize,
    known: Mutex<Known>,
    /// By the flow's address, which the weak reference keeps from being given to another one.
    live: Mutex<HashMap<usize, Growing, RandomState>>,
}

/// The series so far, by their labels and by what labels are made of.
#[derive(Debug, Default)]
struct Known {
    by_labels: HashMap<Labels, Arc<Series>, RandomState>,
    kindred: Kindred,
}

impl Tcp {
    pub(super) fn register(registry: &mut Registry, series: usize) -> Self {
        let sockets = Family::<Reporter, Gauge>::default();
        let of = |reporter| sockets.get_or_create(&Reporter { reporter }).clone();
        let tcp = Self {
            sockets: [of("source"), of("destination")],
            opened: Family::default(),
            closed: Family::default(),
            failed: Family::default(),
            sent: Family::default(),
            received: Family::default(),
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
        sub.register("tcp_sockets_open", "Connections that are open", sockets.clone());
        tcp
    }

    /// A connection stands from end to end. What it gives is to be given back at the end.
    pub(crate) fn opened(&self, record: &Record, flow: &Arc<Flow>) -> Option<Arc<Series>> {
        self.sockets(record).inc();
        let series = self.find(record)?;
        series.count(&series.opened, &self.opened, 1);
        lock(&self.live).insert(Arc::as_ptr(flow).addr(), (Arc::downgrade(flow), series.clone()));
        Some(series)
    }

    /// A connection has ended, or never stood.
    pub(crate) fn ended(&self, record: &Record, flow: &Arc<Flow>, opened: bool, series: Option<Arc<Series>>) {
        if opened {
            self.sockets(record).dec();
            // Now and not with the next scrape, which may never come.
            lock(&self.live).remove(&Arc::as_ptr(flow).addr());
        }
        // Only the response flags can have changed since it was opened.
        let Some(series) = series.filter(|_| flags(record) == NO_FLAGS).or_else(|| self.find(record)) else { return };
        if opened {
            self.count(flow, &series);
            series.count(&series.closed, &self.closed, 1);
        } else {
            series.count(&series.failed, &self.failed, 1);
        }
    }

    fn sockets(&self, record: &Record) -> &Gauge {
        match record.direction {
            Direction::Outbound => &self.sockets[0],
            Direction::Inbound => &self.sockets[1],
        }
    }

    /// Connections whose bytes are still growing.
    #[cfg(test)]
    pub(super) fn live(&self) -> usize {
        lock(&self.live).len()
    }

    /// Brings the byte counters of open connections up to date; forgets those that are gone without an end.
    pub(crate) fn count_live(&self) {
        lock(&self.live).retain(|_, (flow, series)| match flow.upgrade() {
            Some(flow) => {
                self.count(&flow, series);
                true
            }
            None => false,
        });
    }

    fn count(&self, flow: &Flow, series: &Series) {
        let (from_client, to_client) = flow.news();
        series.count(&series.received, &self.received, from_client);
        series.count(&series.sent, &self.sent, to_client);
    }

    /// The series of a connection while there is room for another one, then that of everything else.
    fn find(&self, record: &Record) -> Option<Arc<Series>> {
        if self.series == 0 {
            return None;
        }
        let kin = Kin::of(record);
        if let Some(series) = kin.as_ref().and_then(|kin| lock(&self.known).kindred.find(kin)) {
            return Some(series);
        }
        // Made before the lock is taken again, which all workers share.
        let labels = labels(record);
        let mut known = lock(&self.known);
        let series = find(&mut known.by_labels, labels, self.series);
        let forgotten = kin.map(|kin| known.kindred.keep(kin, &series));
        drop(known);
        drop(forgotten);
        Some(series)
    }
}

fn find(known: &mut HashMap<Labels, Arc<Series>, RandomState>, labels: Labels, most: usize) -> Arc<Series> {
    if let Some(series) = known.get(&labels) {
        return series.clone();
    }
    let labels = if known.len() < most {
        labels
    } else {
        let other: Arc<str> = "other".into();
        Labels::new(NAMES.iter().map(|_| other.clone()).collect())
    };
    known.entry(labels.clone()).or_insert_with(|| Arc::new(Series::new(labels))).clone()
}

impl Series {
    fn new(labels: Labels) -> Self {
        let [opened, closed, failed, sent, received] = [const { OnceLock::new() }; 5];
        Self { labels, opened, closed, failed, sent, received }
    }

    /// Counts; a counter that never counted is not shown.
    fn count(&self, counter: &OnceLock<Counter>, family: &Family<Labels, Counter>, by: u64) {
        counter.get_or_init(|| family.get_or_create(&self.labels).clone()).inc_by(by);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn side(record: &Record) -> &'static str {
    match record.direction {
        Direction::Outbound => "source",
        Direction::Inbound => "destination",
    }
}

fn labels(record: &Record) -> Labels {
    let mut values: Vec<Arc<str>> = Vec::with_capacity(NAMES.len());
    values.push(word(side(record)));
    party(&mut values, &record.src);
    party(&mut values, &record.dst);
    let service = record.service.as_deref().and_then(|service| service.split_once('/'));
    values.push(service.map_or_else(|| word(UNKNOWN), |(space, name)| format!("{name}.{space}.svc").into()));
    values.push(word(service.map_or(UNKNOWN, |(_, name)| name)));
    values.push(word(service.map_or(UNKNOWN, |(space, _)| space)));
    values.push(word("tcp"));
    values.push(word(flags(record)));
    values.push(word(if mutual(record) { "mutual_tls" } else { UNKNOWN }));
    Labels::new(values)
}

pub(super) fn mutual(record: &Record) -> bool {
    record.transport == Transport::Hbone
}

fn party(values: &mut Vec<Arc<str>>, party: &Party) {
    let unknown = word(UNKNOWN);
    let record = party.record.as_deref();
    let label = |names: &[&str]| record.and_then(|record| label_of(record, names));
    let name = party.workload.clone().unwrap_or_else(|| unknown.clone());
    let canonical = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let latest = || if record.is_some() { word("latest") } else { unknown.clone() };
    values.push(name.clone());
    values.push(canonical.unwrap_or_else(|| name.clone()));
    values.push(revision.unwrap_or_else(latest));
    values.push(party.namespace.clone().unwrap_or_else(|| unknown.clone()));
    values.push(party.identity.clone().unwrap_or_else(|| unknown.clone()));
    values.push(label(&["app"]).unwrap_or_else(|| unknown.clone()));
    values.push(label(&["version"]).unwrap_or_else(|| unknown.clone()));
    values.push(if record.is_some() { word("Kubernetes") } else { unknown.clone() });
    values.push(unknown.clone());
    values.push(unknown);
}

fn label_of(workload: &Workload, names: &[&str]) -> Option<Arc<str>> {
    names.iter().find_map(|name| workload.labels.get(*name)).map(|value| value.as_str().into())
}

/// Envoy's response flags, as ztunnel uses them.
pub(super) fn flags(record: &Record) -> &'static str {
    match (record.outcome, record.step) {
        (Kind::Denied | Kind::Revoked, _) => "DENY",
        (Kind::Failed, Some(Step::Handshake)) => "TLS_FAILURE",
        (Kind::Failed, Some(Step::Dial)) if record.transport == Transport::Hbone => match record.blame {
            Some(crate::outcome::Blame::Network) => "CONNECT",
            _ => "TLS_FAILURE",
        },
        (Kind::Failed, Some(Step::Dial | Step::Connect | Step::Deliver)) => "CONNECT",
        _ => NO_FLAGS,
    }
}
