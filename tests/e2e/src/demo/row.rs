//! One row of the table.

use std::fmt;
use std::net::SocketAddr;

use crate::call::{Wanted, Way};

/// A call and everything that was observed of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// `NAMESPACE/NAME` of the caller.
    pub caller: String,
    /// What was called and expected.
    pub wanted: Wanted,
    /// The address that was called.
    pub address: SocketAddr,
    /// The pod that answered, or would have.
    pub callee: Option<String>,
    /// Over what it went.
    pub way: Way,
    /// SPIFFE IDs of caller and callee, where the tunnel had both.
    pub identities: Option<(String, String)>,
    /// The deciding policy with its rule, or the reason.
    pub why: String,
    /// The client's address as the called application saw it, with whether it was the caller's own.
    pub seen_as: Option<(String, bool)>,
    /// Caller and callee live on different nodes.
    pub crosses: bool,
    /// What is wrong; empty in a good row.
    pub wrong: Vec<String>,
    /// From the first SYN to the end.
    pub took_ms: u64,
}

impl Row {
    /// Everything was as expected.
    pub fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }

    /// It went from node to node in the clear, as expected of a pod that is not enrolled.
    pub fn crossed_in_clear(&self) -> bool {
        self.crosses && self.way == Way::Plaintext
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.is_good() { "ok " } else { "BAD" };
        let callee = self.callee.as_deref().map_or_else(String::new, |callee| format!(" = {callee}"));
        let called = format!("{}{callee}", self.wanted);
        write!(
            f,
            "{mark} {:12} -> {called:40} {:9} (expected {:9}) {:4} ms  {}",
            self.caller, self.way, self.wanted.way, self.took_ms, self.why
        )?;
        if let Some((from, to)) = &self.identities {
            write!(f, "\n      {from} -> {to}")?;
        }
        if let Some((address, true)) = &self.seen_as {
            write!(f, "{}the application saw {address}", if self.identities.is_some() { ", " } else { "\n      " })?;
        }
        for wrong in &self.wrong {
            write!(f, "\n      NOT AS EXPECTED: {wrong}")?;
        }
        Ok(())
    }
}
