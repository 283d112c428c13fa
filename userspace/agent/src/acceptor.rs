//! Takes connections from a pod's listeners and hands them to the workers. Each listener has one worker as its home,
//! which accepts from it and keeps its own share, so that a connection changes threads once at most.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use culvert_redirect::Listeners;
use culvert_svid::Status;
use tokio::{sync::watch, time::timeout};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

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

/// How long connections wait for their pod's first SVID, before they are refused for want of it.
const FIRST_SVID: Duration = Duration::from_secs(5);

/// The acceptors of one pod; when this is dropped they stop.
#[derive(Debug)]
pub(crate) struct Acceptors {
    stop: CancellationToken,
    running: TaskTracker,
}

/// What there is to accept.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The pod's listeners.
    pub(crate) listeners: Listeners,
    /// Connections that the self-test of an enrolment took instead of its own: the pod's, like any other.
    pub(crate) early: Vec<TcpStream>,
    /// Where the pod's SVID stands: until it is there connections stay in the kernel's backlog. An agent that takes a
    /// pod over from another one would otherwise refuse those that came in between.
    pub(crate) svid: watch::Receiver<Status>,
}

impl Acceptors {
    /// Nothing is accepted.
    pub(crate) fn none() -> Self {
        Self { stop: CancellationToken::new(), running: TaskTracker::new() }
    }

    /// One per listener.
    pub(crate) fn start(waiting: Waiting, pod: &Arc<Pod>, shared: &Arc<Shared>, workers: &Arc<Workers>) -> Self {
        let Waiting { listeners, early, svid } = waiting;
        let Listeners { inbound_v4, outbound_v4, inbound_v6, outbound_v6 } = listeners;
        let all = [
            (Direction::Inbound, Some(inbound_v4), Vec::new()),
            (Direction::Outbound, Some(outbound_v4), early),
            (Direction::Inbound, inbound_v6, Vec::new()),
            (Direction::Outbound, outbound_v6, Vec::new()),
        ];
        let acceptors = Self::none();
        for (direction, listener, early) in all {
            let Some(listener) = listener else { continue };
            let acceptor = Acceptor {
                direction,
                early,
                svid: svid.clone(),
                pod: pod.clone(),
                shared: shared.clone(),
                workers: workers.clone(),
                stop: acceptors.stop.clone(),
                _running: acceptors.running.token(),
            };
            workers.listen(acceptor, listener);
        }
        acceptors
    }

    /// Accepts nothing any more, as soon as the answer resolves: who comes later waits in the kernel's backlog.
    pub(crate) fn stop(&self) -> impl Future<Output = ()> + use<> {
        self.stop.cancel();
        self.running.close();
        let running = self.running.clone();
        async move { running.wait().await }
    }
}

impl Drop for Acceptors {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Debug)]
pub(crate) struct Acceptor {
    direction: Direction,
    early: Vec<TcpStream>,
    svid: watch::Receiver<Status>,
    pod: Arc<Pod>,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    stop: CancellationToken,
    _running: TaskTrackerToken,
}

impl Acceptor {
    /// Runs on the listener's home.
    pub(crate) async fn run(mut self, home: Rc<Worker>, listener: TcpListener) {
        let (gone, stop, mut svid) = (self.pod.gone.clone(), self.stop.clone(), self.svid.clone());
        let accept = async {
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.adopt_early(),
                // Without one, each connection is refused with the reason.
                _ = timeout(FIRST_SVID, svid.wait_for(|status| status.generation > 0)) => {}
            }
            self.adopt_early();
            if let Err(error) = self.accept_all(&home, listener).await {
                tracing::error!(%error, pod = %self.pod.uid, "a listener is lost; the reconcile makes a new one");
            }
        };
        tokio::select! {
            biased;
            () = gone.cancelled() => {}
            () = accept => {}
        }
    }

    async fn accept_all(&self, home: &Rc<Worker>, listener: TcpListener) -> io::Result<()> {
        let own = listener.local_addr()?;
        let listener = culvert_redirect::Acceptor::new(listener)?;
        let mut stop = pin!(self.stop.cancelled());
        loop {
            // Between two connections only: one that waits for a place is the pod's, and nobody else's any more.
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    // Without a place the connection waits here, and those after it in the kernel's backlog.
                    let slot = match self.pod.places.take(self.direction) {
                        Some(slot) => Some(slot),
                        None => {
                            tokio::time::timeout(PATIENCE, self.pod.places.wait(self.direction)).await.ok().flatten()
                        }
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

    fn adopt_early(&mut self) {
        // The listener's address is not known here; no early connection can have called it, for nobody knew it.
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        for socket in std::mem::take(&mut self.early) {
            if let Err(error) = self.adopt(socket, nobody) {
                tracing::info!(%error, pod = %self.pod.uid, "a connection opened during enrolment is reset");
            }
        }
    }

    /// Gives a connection that was accepted elsewhere the same way.
    fn adopt(&self, socket: TcpStream, listener: SocketAddr) -> io::Result<()> {
        let peer = socket.peer_addr()?;
        socket.set_nonblocking(true)?;
        let slot =
            self.pod.places.take(self.direction).ok_or_else(|| io::Error::other("no place for another connection"))?;
        self.hand_over(socket, peer, listener, slot);
        Ok(())
    }
}

/// The client gave up before it was accepted, or the like: nothing is wrong with the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn nothing_is_accepted_any_more_when_stopping_is_done() {
        let acceptors = Acceptors::none();
        let running = acceptors.running.token();
        let mut stopped = Box::pin(acceptors.stop());
        assert!(acceptors.stop.is_cancelled());
        assert!(stopped.as_mut().now_or_never().is_none(), "one of them has not heard of it yet");
        drop(running);
        stopped.await;
    }
}
