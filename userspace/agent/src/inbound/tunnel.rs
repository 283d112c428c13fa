//! Tunnels that peers open to a local pod: the handshake, then one chain per CONNECT.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use culvert_tunnel::{Inbound, Malformed, Offer, Peer, Refusal, ServeError};

use super::{attribute, authorize, deliver, deliver::Delivered};
use crate::{
    accepted::{Accepted, canonical},
    carried,
    outcome::{Direction, Outcome, Step, Transport},
    places::{Place, Unproven},
    pod::Pod,
    worker::Worker,
};

/// A CONNECT that waits for its answer.
pub(super) struct Offered {
    pub(super) offer: Offer,
    pub(super) pod: Arc<Pod>,
    pub(super) outcome: Outcome,
    pub(super) slot: Place,
}

/// The agent's side of one served tunnel.
struct Served {
    worker: Rc<Worker>,
    pod: Arc<Pod>,
    /// The outcome of the TCP connection, until its handshake makes a tunnel of it.
    outcome: RefCell<Option<Outcome>>,
    /// Its leave to shake hands, likewise.
    unproven: Cell<Option<Unproven>>,
}

/// Serves one TCP connection to port 15008. A failed handshake is this connection's outcome; after a good one each
/// stream has its own.
pub(super) async fn serve(worker: Rc<Worker>, accepted: Accepted) {
    let local = match accepted.pod.serving() {
        Ok(local) => local,
        Err(refusal) => {
            worker.shared.metrics.own.handshake("inbound", refusal.reason());
            return accepted.refuse(refusal.reason());
        }
    };
    let Some(unproven) = accepted.pod.places.take_unproven() else {
        return accepted.refuse("no_slot");
    };
    accepted.disarm();
    let Accepted { io, pod, mut outcome, slot, .. } = accepted;
    outcome.note().transport = Transport::Hbone;
    let served = Rc::new(Served {
        worker: worker.clone(),
        pod: pod.clone(),
        outcome: RefCell::new(Some(outcome)),
        unproven: Cell::new(Some(unproven)),
    });
    let result = tokio::select! {
        biased;
        () = pod.gone.cancelled() => Err(None),
        result = worker.server.serve(io, &local, served.clone()) => result.map_err(Some),
    };
    drop(slot);
    let pending = served.outcome.borrow_mut().take();
    match (result, pending) {
        (Err(Some(error)), Some(outcome)) => failed(&worker, outcome, &error),
        (Err(None), Some(outcome)) => outcome.deny(crate::pod::POD_WITHDRAWN),
        (Ok(()), Some(outcome)) => outcome.deny("draining"),
        (Err(Some(error)), None) => tracing::debug!(pod = %pod.uid, reason = error.reason(), "a served tunnel broke"),
        (Ok(()) | Err(None), None) => {}
    }
}

fn failed(worker: &Worker, outcome: Outcome, error: &ServeError) {
    worker.shared.metrics.own.handshake("inbound", error.reason());
    outcome.fail(Step::Handshake, carried::blame(error.blame()), error.reason(), error);
}

impl Inbound for Served {
    fn proven(&self, peer: &Peer, took: Duration) {
        drop(self.unproven.take());
        if let Some(outcome) = self.outcome.borrow_mut().take() {
            outcome.became_tunnel();
        }
        let own = &self.worker.shared.metrics.own;
        own.handshake("inbound", "ok");
        own.handshake_seconds.observe(took);
        own.group(peer.key_exchange);
        if peer.generation != self.pod.serving_generation() {
            // A rotation during the handshake has not found this tunnel: it enters the server after this call.
            let (worker, pod) = (self.worker.clone(), self.pod.clone());
            tokio::task::spawn_local(async move { crate::outbound::retire_served(&worker, &pod) });
        }
    }

    fn malformed(&self, peer: &Peer, why: Malformed) {
        self.begin(peer).deny(why.reason());
    }

    async fn offered(self: Rc<Self>, offer: Offer) {
        match Box::pin(self.delivered(offer)).await {
            Some(delivered) => delivered.carry(),
            None => return,
        }
        .await;
    }
}

impl Served {
    async fn delivered(self: Rc<Self>, offer: Offer) -> Option<Delivered> {
        let outcome = self.begin(offer.peer());
        let Some(slot) = self.pod.places.take(Direction::Inbound) else {
            offer.refuse(Refusal::Unavailable);
            outcome.deny("no_slot");
            return None;
        };
        let offered = Box::new(Offered { offer, pod: self.pod.clone(), outcome, slot });
        let attributed = attribute::stream(&self.worker, offered)?;
        let authorized = authorize::authorize(&self.worker, attributed)?;
        deliver::deliver(authorized).await
    }

    fn begin(&self, peer: &Peer) -> Outcome {
        let (source, destination) = (canonical(peer.address), canonical(peer.local));
        let sink = self.worker.shared.sink.clone();
        let mut outcome = Outcome::begin(sink, Direction::Inbound, source, destination);
        let record = outcome.note();
        record.transport = Transport::Hbone;
        record.src.identity = Some(peer.identity.shared());
        record.identity_from = "handshake".into();
        record.dst.known(&self.pod.workload());
        record.dst.identity = Some(self.pod.identity().shared());
        outcome
    }
}
