//! Connections to local pods: *accepted -> attributed -> authorized -> delivered -> outcome*. HBONE arrives in tunnels
//! that a peer opened to port 15008, everything else in plaintext on the port that the client called.

mod accept;
mod attribute;
mod authorize;
mod deliver;
#[cfg(test)]
mod tests;
mod tunnel;

use std::rc::Rc;

use crate::{
    accepted::Accepted,
    outbound::HBONE_PORT,
    worker::{Handover, Worker},
};

pub use attribute::AttributeError;
pub use deliver::DeliverError;
use deliver::Delivered;

/// Carries one connection from its listener to its outcome, or serves the tunnel that it turns out to be.
pub(crate) async fn carry(worker: Rc<Worker>, handover: Handover) {
    let Some(accepted) = accept::accept(&worker, handover) else { return };
    if accepted.original.port() == HBONE_PORT {
        return Box::pin(tunnel::serve(worker, accepted)).await;
    }
    // The way there is in a box, which is gone when the bytes begin to move.
    match Box::pin(delivered(worker, accepted)).await {
        Some(delivered) => delivered.carry(),
        None => return,
    }
    .await;
}

async fn delivered(worker: Rc<Worker>, accepted: Accepted) -> Option<Delivered> {
    let attributed = attribute::plaintext(&worker, accepted);
    let authorized = authorize::authorize(&worker, attributed)?;
    deliver::deliver(authorized).await
}
