//! A connection's line in the log for people: the same words in the same order as `tracing` would write them, without
//! asking each field how it wants to be shown. A tenth of a connection's cost went there.

use std::{
    cell::Cell,
    io::Write,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use culvert_tunnel::AddressText;
use jiff::Timestamp;

use super::{Blame, Direction, Record, Step};

/// Bytes that most lines stay below.
const USUAL: usize = 1024;

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
    text.reserve(USUAL);
    let mut line = Line(text);
    line.time(SystemTime::now());
    line.text(&[" ", level, " access: ", message]);
    line.quoted("direction", Some(record.direction.word()));
    line.quoted("transport", Some(record.transport.word()));
    line.quoted("outcome", Some(record.outcome.word()));
    line.quoted("reason", record.reason.as_deref());
    line.quoted("policy", record.policy.as_deref());
    line.number("rule", record.rule);
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
    line.number("bytes_sent", Some(sent));
    line.number("bytes_recv", Some(received));
    line.number("duration", Some(record.duration_ms));
    line.text(&["ms"]);
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

/// The text of a second, `2026-11-23T14:51:27`, which many lines begin with.
#[derive(Debug, Clone, Copy)]
struct Second {
    since_epoch: u64,
    text: [u8; 19],
}

thread_local! {
    static SECOND: Cell<Option<Second>> = const { Cell::new(None) };
}

impl Line<'_> {
    /// A point in time, to the microsecond.
    fn time(&mut self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = match SECOND.get() {
            Some(second) if second.since_epoch == since.as_secs() => second,
            _ => Second::of(since.as_secs()),
        };
        SECOND.set(Some(second));
        self.0.extend_from_slice(&second.text);
        // Six digits: the seventh is a one that keeps the zeros before them, and gives its place to the dot.
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(1_000_000 + since.subsec_micros());
        self.text(&[".", &digits[1..], "Z"]);
    }

    /// Text in quotes, with what would end it or the line made harmless.
    fn quoted(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        // All bytes are looked at, whatever the first ones are: many at once.
        let strange = |byte: u8| !matches!(byte, b' '..=b'~') | (byte == b'"') | (byte == b'\\');
        if value.bytes().fold(false, |found, byte| found | strange(byte)) {
            self.text(&[" ", name, "="]);
            // Writing to a vector cannot fail.
            let _ = write!(self.0, "{value:?}");
        } else {
            self.text(&[" ", name, "=\"", value, "\""]);
        }
    }

    fn address(&mut self, name: &str, value: Option<SocketAddr>) {
        if let Some(value) = value {
            self.text(&[" ", name, "="]);
            self.0.extend_from_slice(AddressText::of(value).as_bytes());
        }
    }

    fn number(&mut self, name: &str, value: Option<impl itoa::Integer>) {
        if let Some(value) = value {
            self.text(&[" ", name, "=", itoa::Buffer::new().format(value)]);
        }
    }

    fn text(&mut self, parts: &[&str]) {
        for part in parts {
            self.0.extend_from_slice(part.as_bytes());
        }
    }
}

impl Second {
    fn of(since_epoch: u64) -> Self {
        let mut text = [b'-'; 19];
        let time = i64::try_from(since_epoch).ok().and_then(|second| Timestamp::from_second(second).ok());
        // A clock that is later than any year of four digits is one that nobody can trust.
        if let Some(whole) = time.map(|time| time.to_string()).filter(|whole| whole.len() == text.len() + 1) {
            text.copy_from_slice(&whole.as_bytes()[..19]);
        }
        Self { since_epoch, text }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn time(at: Duration) -> String {
        let mut text = Vec::new();
        Line(&mut text).time(UNIX_EPOCH + at);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn each_time_is_its_own() {
        for (seconds, micros, wanted) in [
            (1_798_761_599, 999_999, "2026-12-31T23:59:59.999999Z"),
            (1_798_761_600, 0, "2027-01-01T00:00:00.000000Z"),
            (1_798_761_600, 70, "2027-01-01T00:00:00.000070Z"),
            (1_798_761_599, 123_456, "2026-12-31T23:59:59.123456Z"),
            (0, 1, "1970-01-01T00:00:00.000001Z"),
            (u64::MAX / 4, 5, "-------------------.000005Z"),
        ] {
            assert_eq!(time(Duration::from_secs(seconds) + Duration::from_micros(micros)), wanted);
        }
    }

    #[test]
    fn no_text_ends_its_quotes_or_its_line() {
        for (value, wanted) in [
            ("", r#" a="""#),
            ("shop ~", r#" a="shop ~""#),
            (
                "a long text without anything strange, then a\n",
                r#" a="a long text without anything strange, then a\n""#,
            ),
            ("\"", r#" a="\"""#),
            ("\\", r#" a="\\""#),
            ("\u{7f}", r#" a="\u{7f}""#),
            ("\u{e9}", " a=\"\u{e9}\""),
        ] {
            let mut text = Vec::new();
            Line(&mut text).quoted("a", Some(value));
            assert_eq!(String::from_utf8(text).unwrap(), wanted);
        }
    }
}
