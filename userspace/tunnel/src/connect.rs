//! What a CONNECT request says: the authority and the optional headers of hbone.
//!
//! Everything in this module is a total function without I/O: whatever a peer sends, the answer is a value. Only a
//! bad authority refuses a request. The other headers are hearsay, never used for a decision about access, so what
//! cannot be read is treated as absent; all of them are bounded.

mod address;
mod authority;
mod baggage;
mod forwarded;
mod traceparent;

use std::sync::Arc;

pub use address::AddressText;
pub use authority::{Authority, AuthorityError, Host};
pub use baggage::{Baggage, WorkloadKind};
pub use forwarded::Forwarded;
pub use traceparent::Traceparent;

/// A CONNECT request, as read from a peer or as sent to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// What to connect to.
    pub authority: Authority,
    /// On whose behalf, according to the peer. Hearsay.
    pub forwarded: Forwarded,
    /// What the peer says about the source workload. Hearsay, for telemetry.
    pub baggage: Arc<Baggage>,
    /// The trace that this connection belongs to.
    pub traceparent: Option<Traceparent>,
    /// The network of origin (`x-forwarded-network`), only in the inner request between two networks.
    pub network: Option<Box<str>>,
}

impl ConnectRequest {
    /// A request with nothing but its authority.
    pub fn to(authority: Authority) -> Self {
        Self { authority, forwarded: Forwarded::default(), baggage: Arc::default(), traceparent: None, network: None }
    }
}

#[cfg(test)]
mod tests;
