//! Who asked for what, and what they got: one line of JSON each in `audit.log` (and `audit.log.1` before it), and one log event of target `audit`.

use std::{
    fs::File,
    io::Write,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use crate::state_dir::{StateDir, StateError};

const FILE: &str = "audit.log";
/// What was written before.
const BEFORE: &str = "audit.log.1";
/// Largest file, in bytes: with the one before it, so much of the disk twice.
const LARGEST: u64 = 64 << 20;
/// Refusals of callers without a certificate that are written per second; anybody can cause them, and the disk is not
/// endless.
const ANONYMOUS_PER_SECOND: u32 = 20;
/// Longest text of a field, in bytes: callers choose some of them.
const LONGEST: usize = 2048;

/// The audit log.
#[derive(Debug)]
pub struct Audit {
    log: Mutex<Log>,
    anonymous: Mutex<Budget>,
}

/// One thing that happened. Empty fields are left out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Event {
    /// `issue`, `join`, `renew`, `report`, `stream`, `handshake`.
    pub action: &'static str,
    /// Was it granted.
    pub granted: bool,
    /// Why not: a stable snake_case word.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
    /// Where from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// What the caller proved to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The node that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The pod that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The identity that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Serial number of what was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// End of what was signed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// More, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

#[derive(Debug)]
struct Log {
    state: StateDir,
    file: File,
    size: u64,
    largest: u64,
}

impl Log {
    /// When the file is full it takes the place of the one before it.
    fn write(&mut self, text: &[u8]) -> Result<(), StateError> {
        if self.size > 0 && self.size + text.len() as u64 > self.largest {
            self.state.rename(FILE, BEFORE)?;
            (self.file, self.size) = (self.state.append(FILE)?, 0);
        }
        self.size += text.len() as u64;
        let path = || self.state.path(FILE);
        self.file.write_all(text).map_err(|source| StateError::Io { path: path(), source })
    }
}

#[derive(Debug)]
struct Budget {
    since: Instant,
    written: u32,
    left_out: u64,
}

#[derive(Serialize)]
struct Line<'e> {
    time: String,
    #[serde(flatten)]
    event: &'e Event,
}

impl Audit {
    /// Opens the log of a state folder.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        let budget = Budget { since: Instant::now(), written: 0, left_out: 0 };
        let file = state.append(FILE)?;
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let log = Log { state: state.clone(), file, size, largest: LARGEST };
        Ok(Self { log: Mutex::new(log), anonymous: Mutex::new(budget) })
    }

    /// Writes one event down.
    pub fn write(&self, event: &Event) {
        let event = &event.clone().cut();
        log(event);
        let line = Line { time: rfc3339(SystemTime::now()), event };
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        let written = self.log.lock().unwrap_or_else(PoisonError::into_inner).write(&text);
        if let Err(error) = written {
            tracing::error!(target: "audit", %error, "audit.log cannot be written");
        }
    }

    /// Writes down the refusal of a caller without a certificate, as long as there are not too many of them.
    pub fn write_anonymous(&self, mut event: Event) {
        let mut budget = self.anonymous.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.since.elapsed() >= Duration::from_secs(1) {
            *budget = Budget { since: Instant::now(), written: 0, left_out: budget.left_out };
        }
        if budget.written >= ANONYMOUS_PER_SECOND {
            budget.left_out += 1;
            return;
        }
        budget.written += 1;
        let left_out = std::mem::take(&mut budget.left_out);
        drop(budget);
        if left_out > 0 {
            let more = format!("{left_out} refused handshakes and calls before this one are not listed");
            event.detail = Some(event.detail.map_or(more.clone(), |detail| format!("{detail}; {more}")));
        }
        self.write(&event);
    }
}

impl Event {
    fn cut(mut self) -> Self {
        let fields = [&mut self.caller, &mut self.node, &mut self.pod, &mut self.identity, &mut self.detail];
        for text in fields.into_iter().flatten().filter(|text| text.len() > LONGEST) {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push_str(" (cut)");
        }
        self
    }
}

fn log(event: &Event) {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    if event.granted {
        tracing::info!(target: "audit", action = event.action, caller = text(&event.caller), node = text(&event.node),
            pod = text(&event.pod), identity = text(&event.identity), serial = text(&event.serial), "granted");
    } else {
        let peer = event.peer.map(|peer| peer.to_string()).unwrap_or_default();
        tracing::warn!(target: "audit", action = event.action, reason = event.reason, peer, caller = text(&event.caller),
            node = text(&event.node), pod = text(&event.pod), identity = text(&event.identity),
            detail = text(&event.detail), "refused");
    }
}

/// A moment as people and tools read it.
pub fn rfc3339(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| "?".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests;
