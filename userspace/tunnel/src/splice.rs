//! Moving the bytes of one connection, both ways, until it ends.

mod carry;
mod leg;
mod pass;
mod queue;
mod socket;

use std::{future::Future, sync::Arc};

use tokio::net::TcpStream;

pub use self::socket::AppSocket;
use crate::{error::StreamError, meter::Meter, revoke::Revocation, stream::TunnelStream};

/// One of the two legs of a connection, as seen from this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The application's socket, or the near socket of a passthrough.
    Near,
    /// The tunnel, or the far socket of a passthrough.
    Far,
}

/// How a connection ended. Exactly one of these is true of each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Both sides said that they were done.
    Closed,
    /// One side reset the connection; the other was reset in turn.
    Reset(Side),
    /// The connection was revoked, or its tunnel was ended by this agent, for this reason.
    Revoked(&'static str),
    /// The tunnel under the connection failed; the near side was reset.
    Failed(StreamError),
}

/// What a connection carried and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Payload handed to the far leg, in bytes.
    pub sent: u64,
    /// Payload handed to the near leg, in bytes.
    pub received: u64,
    /// How it ended.
    pub end: End,
}

impl End {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset(Side::Near) => "reset_by_app",
            Self::Reset(Side::Far) => "reset_by_peer",
            Self::Revoked(reason) => reason,
            Self::Failed(error) => error.reason(),
        }
    }
}

/// Moves bytes between an application's socket and its stream until both are done, one is reset, the tunnel fails
/// or the connection is revoked (which wins when several happen at once).
///
/// Half-close travels both ways (FIN, END_STREAM). A reset of one leg resets the other: RST_STREAM with
/// CONNECT_ERROR towards the peer, a TCP RST towards the application. `meter` counts while it runs. To be awaited on
/// the thread and in the `LocalSet` of the tunnel.
pub fn splice(
    app: impl Into<AppSocket>,
    stream: TunnelStream,
    meter: Arc<Meter>,
    revocation: Revocation,
) -> impl Future<Output = Totals> {
    carry::Carry::new(app.into(), stream, meter, revocation)
}

/// The same between two sockets, for traffic that is let through without mTLS.
pub fn passthrough(
    near: TcpStream,
    far: TcpStream,
    meter: Arc<Meter>,
    revocation: Revocation,
) -> impl Future<Output = Totals> {
    pass::Pass::new(near, far, meter, revocation)
}
