//! The agent's sockets inside a pod's netns.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use culvert_abi::{AGENT_MARK, APP_LEG_PORT_MAX, APP_LEG_PORT_MIN, FlowKey, words};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use crate::DialError;
use crate::deviation::Family;
use crate::diag::Diag;
use crate::interface::is_link_local;
use crate::listener;
use crate::namespace::Namespace;
use crate::node::{Enrolled, Shared};

/// Source ports tried for one app leg before giving up.
const TRIES: u32 = 256;
const PORTS: u32 = (APP_LEG_PORT_MAX - APP_LEG_PORT_MIN) as u32 + 1;

/// A pod's network namespace, as far as the data path needs it. Cheap to clone, usable from any
/// thread of the agent; each method enters the netns for the making of one socket and has left it
/// when it first waits. Threads come back to the netns in which [`crate::Redirect::open`] was called.
#[derive(Clone, Debug)]
pub struct Netns {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    netns: Arc<Namespace>,
    addresses: Vec<IpAddr>,
    /// Ifindex of the host veth: the pod's name in the kernel's maps.
    pod: u32,
    /// Rotates through the ports of app legs, so that a port rests as long as possible.
    next_port: AtomicU32,
}

fn socket_error(action: &'static str) -> impl FnOnce(io::Error) -> DialError {
    move |source| DialError::Socket { action, source }
}

impl Netns {
    pub(crate) fn new(shared: Arc<Shared>, pod: &Enrolled) -> Self {
        let inner = Inner {
            shared,
            netns: pod.netns.clone(),
            addresses: pod.interface.addresses.clone(),
            pod: pod.host.ifindex,
            next_port: AtomicU32::new(std::process::id().wrapping_mul(7_919) % PORTS),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Inode number of the netns.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inner.netns.inode()
    }

    /// Whether this is an address of the pod itself (link-local ones included).
    #[must_use]
    pub fn is_own(&self, ip: IpAddr) -> bool {
        self.inner.addresses.contains(&ip.to_canonical())
    }

    /// Connects to the wire as the pod: to another agent, or in plaintext past the mesh. The socket
    /// is tagged, so that the guard lets it out, and has `TCP_NODELAY`. Refuses an address of the
    /// pod itself and loopback. No timeout: wrap the call. Cancel safe.
    pub async fn connect_wire(&self, destination: SocketAddr) -> Result<TcpStream, DialError> {
        let destination = canonical(destination);
        if self.is_own(destination.ip()) || destination.ip().is_loopback() {
            return Err(DialError::Refused("the destination is the pod itself"));
        }
        let socket = self.socket(destination)?;
        socket.set_mark(AGENT_MARK).map_err(socket_error("mark a socket"))?;
        listener::tag(&self.inner.shared.maps.agent_tag, &socket).map_err(socket_error("tag a socket"))?;
        connect(socket, destination).await
    }

    /// Connects to the app of the pod with the client's address as source. `destination` is the
    /// address that the client named: one of the pod's own. The source port is one of 10240 to
    /// 32767, not the client's. Refuses a client address that is the pod's own, loopback,
    /// link-local, multicast or unspecified. No timeout: wrap the call. Cancel safe.
    pub async fn connect_app(&self, client: IpAddr, destination: SocketAddr) -> Result<AppLeg, DialError> {
        let (client, destination) = (client.to_canonical(), canonical(destination));
        self.check_app_leg(client, destination)?;
        for _ in 0..TRIES {
            let source = SocketAddr::new(client, self.take_port());
            let Some((leg, socket)) = self.app_socket(source, destination)? else { continue };
            match connect(socket, destination).await {
                // The tuple is still in TIME_WAIT, or was taken in between.
                Err(DialError::Connect(error)) if is_taken(&error) => {}
                connected => return Ok(AppLeg { stream: connected?, leg }),
            }
        }
        Err(DialError::NoPort)
    }

    /// Connects to an address of the pod itself, as the pod: the way of a pod that calls its own
    /// service and is its endpoint. Refuses any other address. No timeout: wrap the call. Cancel safe.
    pub async fn connect_plain(&self, destination: SocketAddr) -> Result<TcpStream, DialError> {
        let destination = canonical(destination);
        if !self.is_own(destination.ip()) {
            return Err(DialError::Refused("the destination is not an address of the pod"));
        }
        connect(self.socket(destination)?, destination).await
    }

    fn check_app_leg(&self, client: IpAddr, destination: SocketAddr) -> Result<(), DialError> {
        let refused = |text| Err(DialError::Refused(text));
        if !self.is_own(destination.ip()) {
            return refused("the destination is not an address of the pod");
        }
        if client.is_ipv4() != destination.is_ipv4() {
            return refused("client and destination are of different families");
        }
        if self.is_own(client) || client.is_loopback() || client.is_unspecified() {
            return refused("the client address is the pod's own");
        }
        if client.is_multicast() || is_link_local(client) || client == IpAddr::from([255; 4]) {
            return refused("the client address is link-local, multicast or broadcast");
        }
        Ok(())
    }

    /// A non-blocking socket in the pod's netns.
    fn socket(&self, destination: SocketAddr) -> Result<Socket, DialError> {
        let make = || {
            let kind = Type::STREAM.nonblocking().cloexec();
            Socket::new(Domain::for_address(destination), kind, Some(Protocol::TCP))
        };
        self.inner.netns.enter(&self.inner.shared.home, make).map_err(socket_error("make a socket"))
    }

    fn take_port(&self) -> u16 {
        let offset = self.inner.next_port.fetch_add(1, Ordering::Relaxed) % PORTS;
        let offset = offset as u16;
        APP_LEG_PORT_MIN + offset
    }

    /// Reserves the tuple and binds; `None` if the port is not free for this client and destination.
    fn app_socket(&self, source: SocketAddr, destination: SocketAddr) -> Result<Option<(Leg, Socket)>, DialError> {
        let key = FlowKey {
            local_ip: words(destination.ip()),
            remote_ip: words(source.ip()),
            local_port: destination.port(),
            remote_port: source.port(),
            pod: self.inner.pod,
        };
        match self.inner.shared.maps.app_legs.insert(&key, &1u32) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => return Ok(None),
            other => other.map_err(DialError::Map)?,
        }
        // From here on no wire segment with this tuple gets in: what is not there now will not come.
        let leg = Leg { inner: self.inner.clone(), key };
        if self.is_wire_flow(&key, source, destination)? {
            return Ok(None);
        }
        let socket = self.socket(destination)?;
        let family = if destination.is_ipv4() { Family::V4 } else { Family::V6 };
        listener::transparent(&socket, family).map_err(socket_error("make a socket transparent"))?;
        // What is closed before it has ended well is reset, from the first moment on.
        socket.set_linger(Some(Duration::ZERO)).map_err(socket_error("make a socket reset at its end"))?;
        // Other legs may have the same source and another destination, or be in TIME_WAIT.
        socket.set_reuse_address(true).map_err(socket_error("make a port reusable"))?;
        match socket.bind(&source.into()) {
            Err(error) if is_taken(&error) => Ok(None),
            Err(error) => Err(DialError::Socket { action: "bind to the client's address", source: error }),
            Ok(()) => Ok(Some((leg, socket))),
        }
    }

    /// Whether a connection from the wire has this tuple. Steering notes those whose client port is in
    /// our range; a note may be old, so the kernel is asked.
    fn is_wire_flow(&self, key: &FlowKey, source: SocketAddr, destination: SocketAddr) -> Result<bool, DialError> {
        let wire_flows = &self.inner.shared.maps.wire_flows;
        if wire_flows.get::<_, u32>(key).map_err(DialError::Map)?.is_none() {
            return Ok(false);
        }
        let exists = self
            .inner
            .netns
            .enter(&self.inner.shared.home, || Diag::open()?.exists(destination, source))
            .map_err(socket_error("look for a connection"))?;
        if !exists {
            wire_flows.remove(key).map_err(DialError::Map)?;
        }
        Ok(exists)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL))
}

async fn connect(socket: Socket, destination: SocketAddr) -> Result<TcpStream, DialError> {
    socket.set_tcp_nodelay(true).map_err(socket_error("set TCP_NODELAY"))?;
    match socket.connect(&destination.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(DialError::Connect(error)),
        _ => {}
    }
    // Whoever is on this machine has answered while the call ran: nothing is to be waited for.
    let is_there = socket.peer_addr().is_ok();
    let stream = TcpStream::from_std(socket.into()).map_err(socket_error("register a socket"))?;
    if !is_there {
        stream.writable().await.map_err(DialError::Connect)?;
        match stream.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Err(DialError::Connect(error)),
        }
    }
    Ok(stream)
}

/// A connection to the app. `leg` must live as long as `stream` (or the halves it is split into):
/// while it does, the kernel drops wire segments that carry this connection's tuple.
#[derive(Debug)]
pub struct AppLeg {
    /// The connection, with `TCP_NODELAY` and `SO_LINGER` of no time: closing it resets it.
    pub stream: TcpStream,
    /// Its protection.
    pub leg: Leg,
}

/// An entry of `app_legs`: lets the connection pass to the app, and keeps its tuple off the wire, until dropped.
#[derive(Debug)]
pub struct Leg {
    inner: Arc<Inner>,
    key: FlowKey,
}

impl Drop for Leg {
    fn drop(&mut self) {
        if let Err(error) = self.inner.shared.maps.app_legs.remove(&self.key) {
            // The tuple stays closed to the wire, which is the safe side.
            tracing::warn!(%error, "the entry of an app leg could not be removed");
        }
    }
}
