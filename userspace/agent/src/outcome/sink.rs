//! Where outcomes go: the log, the metrics, the ring of recent ones.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Blame, Direction, Flow, Kind, Level, Record, Step};
use crate::log::Log;
use crate::metrics::{Metrics, Own, Series};

/// Whether the connection stood from end to end, and where it is counted.
pub(super) type Opened = (bool, Option<Arc<Series>>);

/// Outcomes that the ring keeps. Each pins the page of the heap that it was written to long after its connection.
const RECENT: usize = 512;

/// Takes every outcome of the agent.
#[derive(Debug)]
pub struct Sink {
    metrics: Arc<Metrics>,
    /// Lines for people; other forms go through `tracing`.
    log: Option<Arc<Log>>,
    recent: Mutex<VecDeque<Arc<Record>>>,
}

impl Sink {
    /// Counts into these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, log: None, recent: Mutex::new(VecDeque::with_capacity(RECENT)) }
    }

    /// Writes the lines of connections to this log as text.
    pub fn with_text(self, log: Arc<Log>) -> Self {
        Self { log: Some(log), ..self }
    }

    /// The last outcomes, oldest first.
    pub fn recent(&self) -> Vec<Arc<Record>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The metrics that are counted into.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(super) fn opened(&self, record: &Record, flow: &Arc<Flow>) -> Option<Arc<Series>> {
        self.metrics.tcp.opened(record, flow)
    }

    pub(super) fn ended(&self, record: &Arc<Record>, flow: &Arc<Flow>, opened: Opened, reason: Option<&'static str>) {
        let (opened, series) = opened;
        self.metrics.tcp.ended(record, flow, opened, series);
        if let Some(reason) = reason {
            Own::word(&self.metrics.own.refusals, reason);
        }
        self.log(record);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(record.clone());
    }
}

/// One line per connection. Byte counts are from the local pod's point of view, as in Istio's access log.
macro_rules! line {
    ($level:ident, $record:expr, $message:expr) => {{
        let record: &Record = $record;
        let (sent, received) = match record.direction {
            Direction::Outbound => (record.from_client, record.to_client),
            Direction::Inbound => (record.to_client, record.from_client),
        };
        tracing::$level!(
            target: "access",
            direction = record.direction.word(),
            transport = record.transport.word(),
            outcome = record.outcome.word(),
            reason = record.reason.as_deref(),
            policy = record.policy.as_deref(),
            rule = record.rule,
            src.addr = %record.src.addr,
            src.workload = record.src.workload.as_deref(),
            src.namespace = record.src.namespace.as_deref(),
            src.identity = record.src.identity.as_deref(),
            dst.addr = %record.dst.addr,
            dst.hbone_addr = record.hbone_addr.map(|addr| addr.to_string()),
            dst.original = record.original_dst.map(|addr| addr.to_string()),
            dst.service = record.service.as_deref(),
            dst.workload = record.dst.workload.as_deref(),
            dst.namespace = record.dst.namespace.as_deref(),
            dst.identity = record.dst.identity.as_deref(),
            identity_from = &*record.identity_from,
            bytes_sent = sent,
            bytes_recv = received,
            duration = format_args!("{}ms", record.duration_ms),
            step = record.step.map(Step::word),
            blame = record.blame.map(Blame::word),
            trace = record.trace.map(|trace| trace.to_string()),
            error = record.error.as_deref(),
            "{}", $message
        );
    }};
}

impl Sink {
    fn log(&self, record: &Record) {
        let (level, message) = match record.outcome {
            Kind::Closed | Kind::Revoked => (Level::Info, "connection complete"),
            Kind::Denied => (Level::Info, "connection refused"),
            // Applications reset connections all day long.
            Kind::Failed if record.step == Some(Step::Splice) => (Level::Info, "connection complete"),
            Kind::Failed => (Level::Warn, "connection failed"),
            Kind::Abandoned => (Level::Error, "connection abandoned"),
        };
        match (&self.log, level) {
            (None, Level::Info) => line!(info, record, message),
            (None, Level::Warn) => line!(warn, record, message),
            (None, Level::Error) => line!(error, record, message),
            (Some(log), _) => {
                let wanted = match level {
                    Level::Info => tracing::enabled!(target: "access", tracing::Level::INFO),
                    Level::Warn => tracing::enabled!(target: "access", tracing::Level::WARN),
                    Level::Error => tracing::enabled!(target: "access", tracing::Level::ERROR),
                };
                if wanted {
                    log.connection(record, level, message);
                }
            }
        }
    }
}
