//! Connections that local pods open: *accepted -> attributed -> authorized -> tunnelled -> outcome*.

mod accept;
mod attribute;
mod authorize;
mod dial;
mod rotate;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use culvert_workload::Workload;

use crate::{
    carried::Carried,
    places::Place,
    snapshot::Snapshot,
    worker::{Handover, Worker},
};

pub use attribute::AttributeError;
pub use dial::DialError;
pub(crate) use dial::HBONE_PORT;
pub(crate) use rotate::{retire_served, rotate};

/// Where a call would lead, for explanations.
#[derive(Debug, Clone)]
pub(crate) struct Leads {
    /// Address and port in the end.
    pub(crate) address: SocketAddr,
    /// Who is there.
    pub(crate) workload: Option<Arc<Workload>>,
    /// `hbone`, `passthrough` or `hairpin`.
    pub(crate) transport: &'static str,
}

/// By which ways a call from a pod of this node to this address would go: the code of the data path, without a connection.
pub(crate) fn leads(
    snapshot: &Snapshot,
    node: &str,
    original: SocketAddr,
    is_own: impl Fn(SocketAddr) -> bool,
) -> Result<Vec<Leads>, AttributeError> {
    let target =
        if is_own(original) { attribute::Target::Itself } else { attribute::find(&snapshot.roster, original)? };
    let ways = authorize::ways(authorize::near(target, node)?, original, is_own);
    Ok(ways.into_iter().map(|way| way.leads()).collect())
}

/// Carries one connection from its listener to its outcome.
pub(crate) async fn carry(worker: Rc<Worker>, handover: Handover) {
    // The way there is in a box, which is gone when the bytes begin to move.
    match Box::pin(tunnelled(worker, handover)).await {
        Some(tunnelled) => tunnelled.carry(),
        None => return,
    }
    .await;
}

async fn tunnelled(worker: Rc<Worker>, handover: Handover) -> Option<Carried<Place>> {
    let accepted = accept::accept(&worker, handover)?;
    let attributed = attribute::attribute(&worker, accepted).await?;
    let authorized = authorize::authorize(&worker, attributed)?;
    dial::dial(&worker, authorized).await
}
