//! Takes connections from a pod's listeners and hands them to the workers.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use culvert_redirect::Listeners;
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};

use crate::{
    outcome::Direction,
    pod::Pod,
    worker::{Handover, Shared, Workers},
};

/// Pause after an accept that failed for want of something (descriptors, memory).
const PAUSE: Duration = Duration::from_millis(100);

/// One task per listener; they end with the pod.
pub(crate) fn start(
    listeners: Listeners,
    pod: &Arc<Pod>,
    shared: &Arc<Shared>,
    workers: &Arc<Workers>,
) -> Vec<JoinHandle<()>> {
    let Listeners { inbound_v4, outbound_v4, inbound_v6, outbound_v6 } = listeners;
    let all = [
        (Direction::Inbound, Some(inbound_v4)),
        (Direction::Outbound, Some(outbound_v4)),
        (Direction::Inbound, inbound_v6),
        (Direction::Outbound, outbound_v6),
    ];
    let start = |(direction, listener): (Direction, Option<TcpListener>)| {
        let acceptor = Acceptor { direction, pod: pod.clone(), shared: shared.clone(), workers: workers.clone() };
        Some(tokio::spawn(acceptor.run(listener?)))
    };
    all.into_iter().filter_map(start).collect()
}

struct Acceptor {
    direction: Direction,
    pod: Arc<Pod>,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        let gone = self.pod.gone.clone();
        let accept = async {
            if let Err(error) = self.accept_all(listener).await {
                tracing::error!(%error, pod = %self.pod.uid, "a listener is lost; the reconcile makes a new one");
            }
        };
        tokio::select! {
            () = gone.cancelled() => {}
            () = accept => {}
        }
    }

    async fn accept_all(&self, listener: TcpListener) -> io::Result<()> {
        let own = listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => {
                    // Without a place the connection waits here, and those after it in the kernel's backlog.
                    let Ok(slot) = self.shared.slots.clone().acquire_owned().await else { return Ok(()) };
                    self.hand_over(socket.into_std()?, peer, own, slot);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, pod = %self.pod.uid, "accept failed; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn hand_over(&self, socket: TcpStream, peer: SocketAddr, listener: SocketAddr, slot: OwnedSemaphorePermit) {
        if let Err(error) = socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true)) {
            tracing::warn!(%error, pod = %self.pod.uid, "an accepted socket cannot be used");
            return;
        }
        let (direction, pod) = (self.direction, self.pod.clone());
        self.workers.carry(Handover { socket, peer, listener, direction, pod, slot });
    }

    /// Gives a connection that was accepted elsewhere the same way.
    fn adopt(&self, socket: TcpStream, listener: SocketAddr) -> io::Result<()> {
        let peer = socket.peer_addr()?;
        let slot = self.shared.slots.clone().try_acquire_owned();
        let slot = slot.map_err(|_| io::Error::other("no place for another connection"))?;
        self.hand_over(socket, peer, listener, slot);
        Ok(())
    }
}

/// Connections that the self-test of an enrolment took instead of its own: the pod's, like any other.
pub(crate) fn adopt(early: Vec<TcpStream>, pod: &Arc<Pod>, shared: &Arc<Shared>, workers: &Arc<Workers>) {
    let acceptor =
        Acceptor { direction: Direction::Outbound, pod: pod.clone(), shared: shared.clone(), workers: workers.clone() };
    for socket in early {
        // The listener's address is not known here; no early connection can have called it, for nobody knew it.
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        if let Err(error) = acceptor.adopt(socket, nobody) {
            tracing::info!(%error, pod = %pod.uid, "a connection opened during enrolment is reset");
        }
    }
}

/// The client gave up before it was accepted, or the like: nothing is wrong with the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
