//! Takes connections from a pod's listeners and hands them to the workers. Each listener has one worker as its home,
//! which accepts from it and keeps its own share, so that a connection changes threads once at most.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use culvert_redirect::Listeners;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    accepted::canonical,
    outcome::{Direction, Outcome},
    places::Place,
    pod::Pod,
    worker::{Handover, Shared, Worker, Workers},
};

/// Pause after an accept that failed for want of something (descriptors, memory).
const PAUSE: Duration = Duration::from_millis(100);

/// Longest wait of a connection for a place.
const PATIENCE: Duration = Duration::from_secs(10);

/// One task per listener; they end with the pod, or when they are aborted.
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
        let (listener, home) = (listener?, workers.clone());
        Some(tokio::spawn(async move {
            let stop = CancellationToken::new();
            // Aborting this task drops the guard, which ends the acceptor on its worker.
            let _guard = stop.clone().drop_guard();
            home.listen(acceptor, listener, stop.clone());
            stop.cancelled().await;
        }))
    };
    all.into_iter().filter_map(start).collect()
}

#[derive(Debug)]
pub(crate) struct Acceptor {
    direction: Direction,
    pod: Arc<Pod>,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
}

impl Acceptor {
    /// Runs on the listener's home.
    pub(crate) async fn run(self, home: Rc<Worker>, listener: TcpListener, stop: CancellationToken) {
        let gone = self.pod.gone.clone();
        let accept = async {
            if let Err(error) = self.accept_all(&home, listener).await {
                tracing::error!(%error, pod = %self.pod.uid, "a listener is lost; the reconcile makes a new one");
            }
        };
        tokio::select! {
            () = gone.cancelled() => {}
            () = stop.cancelled() => {}
            () = accept => stop.cancel(),
        }
    }

    async fn accept_all(&self, home: &Rc<Worker>, listener: TcpListener) -> io::Result<()> {
        let own = listener.local_addr()?;
        let listener = culvert_redirect::Acceptor::new(listener)?;
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => {
                    // Without a place the connection waits here, and those after it in the kernel's backlog.
                    let slot = match self.pod.places.take() {
                        Some(slot) => Some(slot),
                        None => tokio::time::timeout(PATIENCE, self.pod.places.wait()).await.ok().flatten(),
                    };
                    let Some(slot) = slot else {
                        self.no_place(&socket, peer);
                        continue;
                    };
                    self.pass_on(home, socket, peer, own, slot);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, pod = %self.pod.uid, "accept failed; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The client sees a reset rather than silence.
    fn no_place(&self, socket: &TcpStream, peer: SocketAddr) {
        let Ok(original) = socket.local_addr() else { return };
        let sink = self.shared.sink.clone();
        Outcome::begin(sink, self.direction, canonical(peer), canonical(original)).deny("no_slot");
    }

    /// Keeps the connection here when it is this worker's turn, and hands it over when it is another's.
    fn pass_on(&self, home: &Rc<Worker>, socket: TcpStream, peer: SocketAddr, listener: SocketAddr, slot: Place) {
        if !self.workers.is_turn_of(home) {
            return self.hand_over(socket, peer, listener, slot);
        }
        let (direction, pod) = (self.direction, self.pod.clone());
        home.begin(Handover { socket, peer, listener, direction, pod, slot });
    }

    fn hand_over(&self, socket: TcpStream, peer: SocketAddr, listener: SocketAddr, slot: Place) {
        let (direction, pod) = (self.direction, self.pod.clone());
        self.workers.carry(Handover { socket, peer, listener, direction, pod, slot });
    }

    /// Gives a connection that was accepted elsewhere the same way.
    fn adopt(&self, socket: TcpStream, listener: SocketAddr) -> io::Result<()> {
        let peer = socket.peer_addr()?;
        socket.set_nonblocking(true)?;
        let slot = self.pod.places.take().ok_or_else(|| io::Error::other("no place for another connection"))?;
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
