//! The static table (RFC 7541 appendix A) and the one that grows with the connection (section 2.3.2).

use std::{collections::VecDeque, rc::Rc};

/// What a table entry costs besides its text (RFC 7541 section 4.1), in bytes.
const OVERHEAD: usize = 32;
/// The table's size unless the settings say otherwise; ours never do. In bytes.
const LARGEST: usize = 4096;

const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Entries that the peer has told us to remember, the newest first.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<(Rc<[u8]>, Vec<u8>)>,
    size: usize,
    limit: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: LARGEST }
    }
}

impl Table {
    /// Entry `index`, counted from 1 over both tables.
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let index = index.checked_sub(1)?;
        match STATIC.get(index) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => self.entries.get(index - STATIC.len()).map(|(name, value)| (&name[..], &value[..])),
        }
    }

    /// The name of entry `index`. Not a copy: a block may name one large entry thousands of times.
    pub(super) fn name(&self, index: usize) -> Option<Rc<[u8]>> {
        let index = index.checked_sub(1)?;
        match STATIC.get(index) {
            Some((name, _)) => Some(name.as_bytes().into()),
            None => self.entries.get(index - STATIC.len()).map(|(name, _)| name.clone()),
        }
    }

    /// Adds an entry and drops the oldest for it. One that is larger than the table empties it (section 4.4).
    pub(super) fn add(&mut self, name: Rc<[u8]>, value: Vec<u8>) {
        let cost = cost(&name, &value);
        self.shrink(self.limit.saturating_sub(cost));
        if cost <= self.limit {
            self.size += cost;
            self.entries.push_front((name, value));
        }
    }

    /// Changes the size; false when that is more than we allow.
    pub(super) fn resize(&mut self, limit: usize) -> bool {
        if limit > LARGEST {
            return false;
        }
        self.limit = limit;
        self.shrink(limit);
        true
    }

    fn shrink(&mut self, to: usize) {
        while self.size > to {
            let Some((name, value)) = self.entries.pop_back() else { return };
            self.size -= cost(&name, &value);
        }
    }
}

fn cost(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + OVERHEAD
}
