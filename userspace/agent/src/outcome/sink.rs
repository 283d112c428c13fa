//! Where outcomes go: the log, the metrics, the ring of recent ones.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Blame, Direction, Flow, Kind, Record, Step};
use crate::metrics::{Metrics, Own};

/// Outcomes that the ring keeps.
const RECENT: usize = 1024;

/// Takes every outcome of the agent.
#[derive(Debug)]
pub struct Sink {
    metrics: Arc<Metrics>,
    recent: Mutex<VecDeque<Arc<Record>>>,
}

impl Sink {
    /// Counts into these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, recent: Mutex::new(VecDeque::with_capacity(RECENT)) }
    }

    /// The last outcomes, oldest first.
    pub fn recent(&self) -> Vec<Arc<Record>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The metrics that are counted into.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(super) fn opened(&self, record: &Record, flow: &Arc<Flow>) {
        self.metrics.tcp.opened(record, flow);
    }

    pub(super) fn ended(&self, record: &Record, flow: &Arc<Flow>, opened: bool, reason: Option<&'static str>) {
        self.metrics.tcp.ended(record, flow, opened);
        if let Some(reason) = reason {
            Own::word(&self.metrics.own.refusals, reason);
        }
        log(record);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(Arc::new(record.clone()));
    }
}

/// One line per connection. Byte counts are from the local pod's point of view, as in Istio's access log.
macro_rules! line {
    ($level:ident, $record:expr, $message:literal) => {{
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
            trace = record.trace.as_deref(),
            error = record.error.as_deref(),
            $message
        );
    }};
}

fn log(record: &Record) {
    match record.outcome {
        Kind::Closed | Kind::Revoked => line!(info, record, "connection complete"),
        Kind::Denied => line!(info, record, "connection refused"),
        // Applications reset connections all day long.
        Kind::Failed if record.step == Some(Step::Splice) => line!(info, record, "connection complete"),
        Kind::Failed => line!(warn, record, "connection failed"),
        Kind::Abandoned => line!(error, record, "connection abandoned"),
    }
}
