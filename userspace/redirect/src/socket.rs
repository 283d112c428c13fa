//! The agent's sockets inside a pod's netns.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::DialError;

/// A pod's network namespace, as far as the data path needs it. Cheap to clone, usable from any
/// thread; each method enters the netns for the making of one socket and has left it when it first
/// waits.
#[derive(Clone, Debug)]
pub struct Netns {
    inner: Arc<()>,
}

impl Netns {
    /// Inode number of the netns.
    #[must_use]
    pub fn inode(&self) -> u64 {
        let _ = &self.inner;
        0
    }

    /// Whether this is an address of the pod itself (link-local ones included).
    #[must_use]
    pub fn is_own(&self, _ip: IpAddr) -> bool {
        false
    }

    /// Connects to the wire as the pod: to another agent, or in plaintext past the mesh. The socket
    /// is tagged, so that the guard lets it out, and has `TCP_NODELAY`. Refuses an address of the
    /// pod itself. No timeout: wrap the call. Cancel safe.
    pub async fn connect_wire(&self, _destination: SocketAddr) -> Result<TcpStream, DialError> {
        Err(DialError::Refused("unfinished"))
    }

    /// Connects to the app of the pod with the client's address as source. `destination` is the
    /// address that the client named: one of the pod's own. The source port is one of 10240 to
    /// 32767, not the client's. Refuses a client address that is the pod's own, loopback,
    /// link-local, multicast or unspecified. No timeout: wrap the call. Cancel safe.
    pub async fn connect_app(&self, _client: IpAddr, _destination: SocketAddr) -> Result<AppLeg, DialError> {
        Err(DialError::Refused("unfinished"))
    }

    /// Connects to an address of the pod itself, as the pod: the way of a pod that calls its own
    /// service and is its endpoint. Refuses any other address. No timeout: wrap the call. Cancel safe.
    pub async fn connect_plain(&self, _destination: SocketAddr) -> Result<TcpStream, DialError> {
        Err(DialError::Refused("unfinished"))
    }
}

/// A connection to the app. `leg` must live as long as `stream` (or the halves it is split into):
/// while it does, the kernel drops wire segments that carry this connection's tuple.
#[derive(Debug)]
pub struct AppLeg {
    /// The connection, with `TCP_NODELAY`.
    pub stream: TcpStream,
    /// Its protection.
    pub leg: Leg,
}

/// Keeps an app leg's tuple off the wire until dropped.
#[derive(Debug)]
pub struct Leg {}
