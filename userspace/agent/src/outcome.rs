//! The end of a connection: exactly one outcome each, to log, metrics and the ring of recent ones. A connection that
//! nobody ended is written as `abandoned` when its guard is dropped.

pub(crate) mod line;
mod record;
mod sink;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use culvert_tunnel::Meter;

pub(crate) use line::Level;
pub use record::{Blame, Direction, Kind, Party, Record, Step, Transport};
pub use sink::Sink;

/// How a connection ended.
#[derive(Debug, Clone)]
pub enum Ending {
    /// Both sides were done.
    Closed,
    /// We said no.
    Denied(Decided),
    /// A step did not succeed.
    Failed(Failure),
    /// It was allowed and is not any more.
    Revoked(Decided),
    /// Nobody said how it ended, which is a fault of ours.
    Abandoned,
}

impl Ending {
    /// The stable word; none for a connection that simply closed.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Closed => None,
            Self::Denied(decided) | Self::Revoked(decided) => Some(decided.reason),
            Self::Failed(failure) => Some(failure.reason),
            Self::Abandoned => Some("abandoned"),
        }
    }
}

/// A decision of ours and what made it.
#[derive(Debug, Clone, Default)]
pub struct Decided {
    /// Stable word.
    pub reason: &'static str,
    /// `namespace/name` of the deciding policy.
    pub policy: Option<Arc<str>>,
    /// Index of the rule in it.
    pub rule: Option<usize>,
    /// For people.
    pub text: Option<String>,
}

/// A step that did not succeed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which one.
    pub step: Step,
    /// Whose fault it is.
    pub blame: Blame,
    /// Stable word.
    pub reason: &'static str,
    /// The chain of errors.
    pub text: String,
}

/// Bytes of an open connection, and what the metrics have of them already.
#[derive(Debug)]
pub struct Flow {
    meter: Arc<Meter>,
    direction: Direction,
    counted_from_client: AtomicU64,
    counted_to_client: AtomicU64,
}

impl Flow {
    pub(crate) fn new(direction: Direction) -> Self {
        let counted = AtomicU64::new;
        Self { meter: Arc::default(), direction, counted_from_client: counted(0), counted_to_client: counted(0) }
    }

    /// Bytes so far: what the client sent, and what it got. The near leg is always the local pod's.
    pub fn totals(&self) -> (u64, u64) {
        let (sent, received) = (self.meter.sent(), self.meter.received());
        match self.direction {
            Direction::Outbound => (sent, received),
            Direction::Inbound => (received, sent),
        }
    }

    /// What has come since the last call.
    pub(crate) fn news(&self) -> (u64, u64) {
        let (from, to) = self.totals();
        let news = |total: u64, counted: &AtomicU64| total.saturating_sub(counted.swap(total, Ordering::Relaxed));
        (news(from, &self.counted_from_client), news(to, &self.counted_to_client))
    }
}

/// The right, and the duty, to say how one connection ended.
#[derive(Debug)]
pub struct Outcome {
    /// Shared with the list of open connections, as it stood when the connection was listed.
    record: Arc<Record>,
    flow: Arc<Flow>,
    begun: Instant,
    opened: sink::Opened,
    sink: Arc<Sink>,
    done: bool,
}

impl Outcome {
    /// Begins with what the accepted socket says.
    pub fn begin(sink: Arc<Sink>, direction: Direction, source: SocketAddr, destination: SocketAddr) -> Self {
        let record = Record::new(direction, source, destination, SystemTime::now());
        Self {
            record: Arc::new(record),
            flow: Arc::new(Flow::new(direction)),
            begun: Instant::now(),
            opened: (false, None),
            sink,
            done: false,
        }
    }

    /// What is known so far.
    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// The same, for a step to fill in.
    pub fn note(&mut self) -> &mut Record {
        Arc::make_mut(&mut self.record)
    }

    /// The counters that the splice writes to.
    pub fn meter(&self) -> Arc<Meter> {
        self.flow.meter.clone()
    }

    /// The same as metrics and status read it.
    pub fn flow(&self) -> Arc<Flow> {
        self.flow.clone()
    }

    /// When the connection was accepted.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// The connection stands from end to end: counted as opened, and its bytes from now on.
    pub fn opened(&mut self) {
        self.opened = (true, self.sink.opened(&self.record, &self.flow));
    }

    /// Writes the end. Consumes the guard: there is no second one.
    pub fn end(mut self, ending: Ending) {
        self.write(ending);
    }

    /// The TCP connection is a tunnel: what is in it has outcomes of its own.
    pub fn became_tunnel(mut self) {
        self.done = true;
    }

    /// Refused by us, for a reason without a policy.
    pub fn deny(self, reason: &'static str) {
        self.end(Ending::Denied(Decided { reason, ..Decided::default() }));
    }

    /// A step failed; the text is the whole chain of the error.
    pub fn fail(self, step: Step, blame: Blame, reason: &'static str, error: &dyn std::error::Error) {
        self.end(Ending::Failed(Failure { step, blame, reason, text: chain(error) }));
    }

    fn write(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let (from, to) = self.flow.totals();
        let reason = ending.reason();
        let lasted = self.begun.elapsed();
        self.note().finish(ending, lasted, from, to);
        self.sink.ended(&self.record, &self.flow, std::mem::take(&mut self.opened), reason);
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.write(Ending::Abandoned);
    }
}

/// An error with its causes, `outer: inner: innermost`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
