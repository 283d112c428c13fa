//! A connection's line in the log for people: the same words in the same order as `tracing` would write them, without
//! asking each field how it wants to be shown. A tenth of a connection's cost went there.

use std::{fmt::Display, io::Write, net::SocketAddr};

use culvert_tunnel::AddressText;
use jiff::Timestamp;

use super::{Blame, Direction, Record, Step};

/// How serious it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// As it should be, or as the application wanted it.
    Info,
    /// Something did not work.
    Warn,
    /// A fault of ours.
    Error,
}

/// Appends the line. Byte counts are from the local pod's point of view, as in Istio's access log.
pub(crate) fn put(text: &mut Vec<u8>, record: &Record, level: Level, message: &str) {
    let level = match level {
        Level::Info => " INFO",
        Level::Warn => " WARN",
        Level::Error => "ERROR",
    };
    let (sent, received) = match record.direction {
        Direction::Outbound => (record.from_client, record.to_client),
        Direction::Inbound => (record.to_client, record.from_client),
    };
    // Writing to a vector cannot fail.
    let _ = write!(text, "{:.6} {level} access: {message}", Timestamp::now());
    let mut line = Line(text);
    line.quoted("direction", Some(record.direction.word()));
    line.quoted("transport", Some(record.transport.word()));
    line.quoted("outcome", Some(record.outcome.word()));
    line.quoted("reason", record.reason.as_deref());
    line.quoted("policy", record.policy.as_deref());
    line.plain("rule", record.rule);
    line.address("src.addr", Some(record.src.addr));
    line.quoted("src.workload", record.src.workload.as_deref());
    line.quoted("src.namespace", record.src.namespace.as_deref());
    line.quoted("src.identity", record.src.identity.as_deref());
    line.address("dst.addr", Some(record.dst.addr));
    line.address("dst.hbone_addr", record.hbone_addr);
    line.address("dst.original", record.original_dst);
    line.quoted("dst.service", record.service.as_deref());
    line.quoted("dst.workload", record.dst.workload.as_deref());
    line.quoted("dst.namespace", record.dst.namespace.as_deref());
    line.quoted("dst.identity", record.dst.identity.as_deref());
    line.quoted("identity_from", Some(&record.identity_from));
    line.plain("bytes_sent", Some(sent));
    line.plain("bytes_recv", Some(received));
    let _ = write!(line.0, " duration={}ms", record.duration_ms);
    line.quoted("step", record.step.map(Step::word));
    line.quoted("blame", record.blame.map(Blame::word));
    if let Some(trace) = record.trace {
        line.0.extend_from_slice(b" trace=\"");
        line.0.extend_from_slice(&trace.text());
        line.0.push(b'"');
    }
    line.quoted("error", record.error.as_deref());
    text.push(b'\n');
}

struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    /// Text in quotes, with what would end it or the line made harmless.
    fn quoted(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.name(name);
        if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
            self.0.push(b'"');
            self.0.extend_from_slice(value.as_bytes());
            self.0.push(b'"');
        } else {
            let _ = write!(self.0, "{value:?}");
        }
    }

    fn address(&mut self, name: &str, value: Option<SocketAddr>) {
        if let Some(value) = value {
            self.name(name);
            self.0.extend_from_slice(AddressText::of(value).as_str().as_bytes());
        }
    }

    fn plain(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.name(name);
            let _ = write!(self.0, "{value}");
        }
    }

    fn name(&mut self, name: &str) {
        self.0.push(b' ');
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'=');
    }
}
