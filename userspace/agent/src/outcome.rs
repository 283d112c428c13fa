//! The end of a connection: exactly one outcome each, to log, metrics and the ring of recent ones. A connection that
//! nobody ended is written as `abandoned` when its guard is dropped.

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

/// Bytes of a connection, counted while it runs.
#[derive(Debug, Default)]
pub struct Flow {
    /// From the side that opened the connection (the client) to the other.
    pub from_client: AtomicU64,
    /// To the side that opened the connection.
    pub to_client: AtomicU64,
    /// What metrics have of `from_client` already.
    pub counted_from_client: AtomicU64,
    /// What metrics have of `to_client` already.
    pub counted_to_client: AtomicU64,
}

/// The right, and the duty, to say how one connection ended.
#[derive(Debug)]
pub struct Outcome {
    /// What is known so far; steps fill it in.
    pub record: Record,
    flow: Arc<Flow>,
    begun: Instant,
    opened: bool,
    sink: Arc<Sink>,
    done: bool,
}

impl Outcome {
    /// Begins with what the accepted socket says.
    pub fn begin(sink: Arc<Sink>, direction: Direction, source: SocketAddr, destination: SocketAddr) -> Self {
        let record = Record::new(direction, source, destination, SystemTime::now());
        Self { record, flow: Arc::default(), begun: Instant::now(), opened: false, sink, done: false }
    }

    /// The counters that the splice writes to.
    pub fn flow(&self) -> Arc<Flow> {
        self.flow.clone()
    }

    /// When the connection was accepted.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// The connection stands from end to end: counted as opened, and its bytes from now on.
    pub fn opened(&mut self) {
        self.opened = true;
        self.sink.opened(&self.record, &self.flow);
    }

    /// Writes the end. Consumes the guard: there is no second one.
    pub fn end(mut self, ending: Ending) {
        self.write(ending);
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
        let (from, to) = (&self.flow.from_client, &self.flow.to_client);
        self.record.finish(ending, self.begun.elapsed(), from.load(Ordering::Relaxed), to.load(Ordering::Relaxed));
        self.sink.ended(&self.record, &self.flow, self.opened);
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
