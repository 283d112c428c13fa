//! Making a tunnel, and the task that drives it.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    rc::Rc,
    task::Poll,
};

use tokio::{
    net::TcpStream,
    task::spawn_local,
    time::{Instant, timeout_at},
};

use super::Inner;
use crate::{
    error::OpenError,
    handshake::{self, HandshakeError},
    http2::session::{Role, Session},
    key::{Peer, Route},
    life::Life,
    link::Link,
    proofs::ProofKey,
    tunnel::Tunnel,
};

impl Inner {
    /// Dials in a task of its own, so that the tunnel is made even if the caller who began has gone.
    pub(super) fn spawn_dial<F>(self: &Rc<Self>, route: Route, socket: F)
    where
        F: Future<Output = io::Result<TcpStream>> + 'static,
    {
        let inner = Rc::clone(self);
        spawn_local(async move {
            let began = Instant::now();
            let dialled = inner.dial(&route, socket).await;
            if let Some(watch) = &inner.watch {
                let result = dialled.as_ref().map(|(tunnel, _)| &*tunnel.peer);
                watch.dialled(&route, result, began.elapsed());
            }
            match dialled {
                Ok((tunnel, life)) => {
                    inner.dialled(&route.key, &Ok(Rc::clone(&tunnel)));
                    give_way().await;
                    drive(life).await;
                    inner.remove(&route.key, &tunnel);
                }
                Err(error) => {
                    tracing::debug!(peer = %route.key.destination, address = %route.key.address, %error, "no tunnel");
                    inner.dialled(&route.key, &Err(error));
                }
            }
        });
    }

    async fn dial<F>(&self, route: &Route, socket: F) -> Result<(Rc<Tunnel>, Life), OpenError>
    where
        F: Future<Output = io::Result<TcpStream>>,
    {
        let deadline = Instant::now() + self.limits.connect_timeout;
        let tcp = match timeout_at(deadline, socket).await {
            Ok(connected) => connected.map_err(|e| OpenError::ConnectFailed(e.kind()))?,
            Err(_) => return Err(OpenError::ConnectTimeout),
        };
        tcp.set_nodelay(true).map_err(|e| OpenError::ConnectFailed(e.kind()))?;
        let (shaken, peer) = match timeout_at(deadline, handshake::dial(tcp, route)).await {
            Ok(done) => done.map_err(OpenError::Handshake)?,
            Err(_) => return Err(OpenError::Handshake(HandshakeError::Timeout)),
        };
        let session = Rc::new(RefCell::new(Session::new(Role::Dialling, &self.limits)));
        if let Some(most) = self.presumed_streams(&route.key) {
            session.borrow_mut().presume_max_streams(most);
        }
        let link = Link::new(shaken, &session).map_err(OpenError::TunnelLost)?;
        let proof = self.proofs.proven(&proof_key(route, &peer), peer.until);
        let tunnel = Tunnel::new(peer, proof, session);
        let life = Life::new(Rc::clone(&tunnel), link, self.limits.clone(), self.limits.idle_timeout);
        Ok((tunnel, life))
    }
}

/// Lets those run who have waited for the tunnel: their requests go out with the end of its handshake, in one piece.
async fn give_way() {
    let mut given = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Drives a dialled tunnel to its end.
async fn drive(mut life: Life) {
    while let Some(step) = life.next().await {
        if let Err(error) = step {
            tracing::debug!(%error, "tunnel over");
            return;
        }
    }
    life.linger();
}

fn proof_key(route: &Route, peer: &Peer) -> ProofKey {
    ProofKey {
        own: route.key.source.clone(),
        peer: peer.identity.clone(),
        peer_address: route.key.address,
        own_address: route.key.from,
        uid: route.key.peer.clone(),
    }
}
