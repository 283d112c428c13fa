//! Tunnels that peers dial: verified, then each CONNECT offered to the agent.

mod offer;

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore},
    task::spawn_local,
    time::timeout,
};

use crate::{
    connect::AuthorityError,
    error::{ServeError, StreamError},
    handshake::{self, FAREWELLS, HandshakeError},
    http2::session::{Asked, Role, Session},
    key::{Local, Peer},
    life::Life,
    limits::Limits,
    link::{Link, Shaken},
    proofs::{ProofKey, Proofs},
    stream::TunnelStream,
    tunnel::Tunnel,
};
pub use offer::{Offer, Refusal};

/// Why a request was answered without asking the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The method is not CONNECT.
    #[error("method is not CONNECT")]
    NotConnect,
    /// The authority cannot be used.
    #[error(transparent)]
    Authority(AuthorityError),
}

impl Malformed {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotConnect => "not_connect",
            Self::Authority(error) => error.reason(),
        }
    }
}

/// What the agent does with served tunnels. Calls come from the worker's own thread.
pub trait Inbound: 'static {
    /// A peer's handshake is done; `took` is the time since the TCP connection was handed over.
    fn proven(&self, peer: &Peer, took: Duration) {
        let _ = (peer, took);
    }

    /// A request was answered with 400 without an offer.
    fn malformed(&self, peer: &Peer, why: Malformed) {
        let _ = (peer, why);
    }

    /// A peer asks for a connection. Runs as a task of its own, until the connection is over: decide, connect to the
    /// application, [`Offer::accept`], [`crate::splice()`].
    fn offered(self: Rc<Self>, offer: Offer) -> impl Future<Output = ()> + 'static;
}

/// The served tunnels of one worker thread. A clone is the same server.
#[derive(Clone)]
pub struct Server {
    inner: Rc<Inner>,
}

struct Inner {
    limits: Limits,
    proofs: Arc<Proofs>,
    tunnels: RefCell<Vec<Entry>>,
    draining: Cell<bool>,
    emptied: Notify,
    /// Places for refused clients that are still to hear why.
    farewells: Arc<Semaphore>,
}

struct Entry {
    local: Local,
    tunnel: Rc<Tunnel>,
}

/// A tunnel's entry in its server; dropping it takes the entry out.
struct Entered {
    inner: Rc<Inner>,
    tunnel: Rc<Tunnel>,
}

impl Server {
    /// A server without tunnels. `proofs` is shared by all workers of the agent.
    pub fn new(limits: Limits, proofs: Arc<Proofs>) -> Self {
        let inner = Inner {
            limits,
            proofs,
            tunnels: RefCell::default(),
            draining: Cell::new(false),
            emptied: Notify::new(),
            farewells: Arc::new(Semaphore::new(FAREWELLS)),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Serves one TCP connection until its tunnel is over: handshake as `local`, then one task per CONNECT.
    ///
    /// Must be used inside a `LocalSet` (or a local runtime). Dropping the future closes the tunnel.
    pub async fn serve<I: Inbound>(&self, tcp: TcpStream, local: &Local, inbound: Rc<I>) -> Result<(), ServeError> {
        let began = Instant::now();
        let patience = self.inner.limits.connect_timeout;
        let (peer, shaken) = timeout(patience, self.begin(tcp, local))
            .await
            .unwrap_or(Err(ServeError::Handshake(HandshakeError::Timeout)))?;
        inbound.proven(&peer, began.elapsed());
        let proof = self.inner.proofs.proven(&proof_key(local, &peer), peer.until);
        let session = Rc::new(RefCell::new(Session::new(Role::Serving, &self.inner.limits)));
        let link = Link::new(shaken, &session).map_err(ServeError::Tunnel)?;
        let tunnel = Tunnel::new(peer, proof, session);
        let _entered = self.enter(local, &tunnel);
        let limits = &self.inner.limits;
        let life = Life::new(Rc::clone(&tunnel), link, limits.clone(), limits.served_idle_timeout);
        self.serve_requests(life, tunnel, inbound).await
    }

    async fn begin(&self, tcp: TcpStream, local: &Local) -> Result<(Peer, Shaken), ServeError> {
        // A socket that takes no options is about to fail anyway.
        let _ = tcp.set_nodelay(true);
        let (shaken, peer) =
            handshake::accept(tcp, local, &self.inner.farewells).await.map_err(ServeError::Handshake)?;
        Ok((peer, shaken))
    }

    fn enter(&self, local: &Local, tunnel: &Rc<Tunnel>) -> Entered {
        let entry = Entry { local: local.clone(), tunnel: Rc::clone(tunnel) };
        self.inner.tunnels.borrow_mut().push(entry);
        if self.inner.draining.get() {
            tunnel.retire();
        }
        Entered { inner: Rc::clone(&self.inner), tunnel: Rc::clone(tunnel) }
    }

    async fn serve_requests<I: Inbound>(
        &self,
        mut life: Life,
        tunnel: Rc<Tunnel>,
        inbound: Rc<I>,
    ) -> Result<(), ServeError> {
        while let Some(step) = life.next().await {
            match step.map_err(ServeError::Tunnel)? {
                Asked::Connect(id, request) => {
                    let offer = Offer::new(request, TunnelStream::new(tunnel.seat(), id));
                    spawn_local(Rc::clone(&inbound).offered(offer));
                }
                Asked::Malformed(why) => inbound.malformed(&tunnel.peer, why),
            }
        }
        life.linger();
        match tunnel.ended() {
            Some(why) => Err(ServeError::Tunnel(why)),
            None => Ok(()),
        }
    }

    /// Sends GOAWAY on the tunnels that fit: the peer opens no new streams on them, open ones go on.
    pub fn retire(&self, which: impl Fn(&Local, &Peer) -> bool) {
        self.each(which, |tunnel| tunnel.retire());
    }

    /// Ends the tunnels that fit, streams included, with a stable snake_case reason.
    pub fn end(&self, which: impl Fn(&Local, &Peer) -> bool, reason: &'static str) {
        self.each(which, |tunnel| tunnel.end(StreamError::Ended(reason)));
    }

    /// Sends GOAWAY on all tunnels, new ones included; resolves when the last one is over.
    pub async fn drain(&self) {
        self.inner.draining.set(true);
        self.retire(|_, _| true);
        loop {
            let emptied = self.inner.emptied.notified();
            if self.inner.tunnels.borrow().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Served tunnels, and the streams in them.
    pub fn count(&self) -> (usize, usize) {
        let tunnels = self.inner.tunnels.borrow();
        (tunnels.len(), tunnels.iter().map(|entry| entry.tunnel.streams()).sum())
    }

    fn each(&self, which: impl Fn(&Local, &Peer) -> bool, act: impl Fn(&Tunnel)) {
        let fitting: Vec<_> = {
            let tunnels = self.inner.tunnels.borrow();
            let fitting = tunnels.iter().filter(|entry| which(&entry.local, &entry.tunnel.peer));
            fitting.map(|entry| Rc::clone(&entry.tunnel)).collect()
        };
        for tunnel in fitting {
            act(&tunnel);
        }
    }
}

fn proof_key(local: &Local, peer: &Peer) -> ProofKey {
    ProofKey {
        own: local.identity.clone(),
        peer: peer.identity.clone(),
        // The peer's port is another one for each tunnel.
        peer_address: SocketAddr::new(peer.address.ip(), 0),
        own_address: peer.local.ip(),
        uid: "".into(),
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut tunnels = self.inner.tunnels.borrow_mut();
        tunnels.retain(|entry| !Rc::ptr_eq(&entry.tunnel, &self.tunnel));
        if tunnels.is_empty() {
            self.inner.emptied.notify_waiters();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.count()).finish()
    }
}
