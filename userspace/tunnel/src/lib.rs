//! The mTLS conversation between agents: HBONE, one HTTP/2 CONNECT stream per application connection.
//!
//! The crate knows neither Kubernetes nor policy. It is told which peer to expect and in which configuration to
//! speak TLS; it opens streams to that peer ([`Pool`]), accepts streams from peers ([`Server`]), and moves bytes
//! ([`splice()`], [`passthrough`]). Everything here lives on one thread: a pool, its tunnels and their streams belong
//! to one current-thread runtime with a `LocalSet`, and no lock lies on the data path. What other threads may touch
//! are [`Meter`], [`Revoker`] and [`Proofs`].
//!
//! Design: `docs/hbone.md`. Wire format: RFC 9113 section 8.5 as Istio's HBONE uses it.

pub mod connect;
mod early;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod http2;
mod key;
mod life;
mod limits;
mod link;
mod meter;
mod pool;
mod proofs;
mod revoke;
mod serve;
mod splice;
mod stream;
mod tls;
mod tunnel;
mod turns;

pub use connect::{AddressText, Authority, Baggage, ConnectRequest, Forwarded, Host, Traceparent};
pub use early::Early;
pub use error::{Blame, OpenError, ServeError, StreamError};
pub use handshake::HandshakeError;
pub use key::{Generation, Local, Peer, Route, TunnelKey};
pub use limits::{Held, Limits};
pub use meter::Meter;
pub use pool::{DialWatch, Pool, PoolCount};
pub use proofs::Proofs;
pub use revoke::{Revocation, Revoker, revocation};
pub use serve::{Inbound, Malformed, Offer, Refusal, Server};
pub use splice::{AppSocket, End, Side, Totals, passthrough, splice};
pub use stream::TunnelStream;
