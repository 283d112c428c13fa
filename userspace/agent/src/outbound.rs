//! Connections that local pods open: *accepted -> attributed -> authorized -> tunnelled -> outcome*.

mod accept;
mod attribute;
mod authorize;
mod dial;
mod rotate;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use crate::worker::{Handover, Worker};

pub use attribute::AttributeError;
pub use dial::DialError;
pub(crate) use dial::HBONE_PORT;
pub(crate) use rotate::rotate;

/// Carries one connection from its listener to its outcome.
pub(crate) async fn carry(worker: Rc<Worker>, handover: Handover) {
    let Some(accepted) = accept::accept(&worker, handover) else { return };
    let Some(attributed) = attribute::attribute(&worker, accepted).await else { return };
    let Some(authorized) = authorize::authorize(&worker, attributed) else { return };
    let Some(tunnelled) = dial::dial(&worker, authorized).await else { return };
    tunnelled.splice().await;
}
