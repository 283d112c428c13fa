//! Who calls, and whom: from the socket and the roster, never guessed.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use culvert_workload::{Endpoint, EndpointError, Found, Roster, Service, ServiceName, Workload};

use crate::{
    accepted::Accepted,
    outcome::{Blame, Step},
    snapshot::Snapshot,
    worker::Worker,
};

/// How long an address inside the cluster that nobody is known to have is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection whose two ends are known.
#[derive(Debug)]
pub(super) struct Attributed {
    pub(super) accepted: Accepted,
    pub(super) target: Target,
}

/// What the pod has called.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// Itself, by its own address.
    Itself,
    /// A service: one of these endpoints, never none. `affine`: each client always the same one. `local`: only those of the
    /// client's own node.
    Service { name: ServiceName, endpoints: Vec<Endpoint>, affine: bool, local: bool },
    /// An enrolled workload.
    Enrolled(Arc<Workload>),
    /// Somebody of whom the control plane says that he is not enrolled.
    NotEnrolled(Option<Arc<Workload>>),
    /// The world outside of the cluster.
    Outside,
}

/// Why nobody can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// Inside the cluster's ranges, and nobody has the address.
    #[error("nobody is known at this address of the cluster")]
    UnknownDestination,
    /// The control plane has not said anything yet.
    #[error("the control plane has not said yet who lives where")]
    NotSynced,
    /// The service cannot serve this port.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl AttributeError {
    /// Stable word.
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownDestination => "unknown_destination",
            Self::NotSynced => "not_synced",
            Self::Endpoint(error) => error.reason(),
        }
    }
}

/// Finds out whom the pod has called. What may become known in a moment is waited for; the client meanwhile sees an
/// open connection without bytes, then a reset.
pub(super) async fn attribute(worker: &Worker, mut accepted: Accepted) -> Option<Attributed> {
    let destination = accepted.original;
    let found = if accepted.pod.netns.is_own(destination.ip()) {
        Ok(Target::Itself)
    } else {
        search(worker, destination).await
    };
    match found {
        Ok(target) => {
            describe(&mut accepted, &target);
            Some(Attributed { accepted, target })
        }
        Err(error @ AttributeError::Endpoint(_)) => {
            accepted.fail(Step::Attribute, Blame::Peer, error.reason(), &error);
            None
        }
        Err(error) => {
            accepted.refuse(error.reason());
            None
        }
    }
}

async fn search(worker: &Worker, destination: SocketAddr) -> Result<Target, AttributeError> {
    let current = &worker.shared.current;
    let snapshot = current.get();
    if let Some(snapshot) = &snapshot {
        current.need(snapshot, destination.ip());
    }
    if let Some(at_once) = snapshot.as_deref().and_then(|snapshot| told(snapshot, destination)) {
        return at_once;
    }
    let later = current.wait_for(PATIENCE, |snapshot| told(snapshot, destination)).await;
    later.unwrap_or_else(|| match current.get() {
        Some(_) => Err(AttributeError::UnknownDestination),
        None => Err(AttributeError::NotSynced),
    })
}

/// What a snapshot says for certain; nothing where it may only not know yet.
pub(super) fn told(snapshot: &Snapshot, destination: SocketAddr) -> Option<Result<Target, AttributeError>> {
    let known = |answer: &Result<_, _>| !matches!(answer, Err(AttributeError::UnknownDestination));
    snapshot.tells(destination.ip()).then(|| find(&snapshot.roster, destination)).filter(known)
}

/// Whom a roster knows at an address. Pure.
pub(super) fn find(roster: &Roster, destination: SocketAddr) -> Result<Target, AttributeError> {
    match roster.lookup(destination.ip()) {
        Found::Enrolled(workload) => Ok(Target::Enrolled(workload.clone())),
        Found::NotEnrolled(workload) => Ok(Target::NotEnrolled(Some(workload.clone()))),
        Found::Host => Ok(Target::NotEnrolled(None)),
        Found::Service(service) => endpoints(roster, service, destination),
        Found::Outside => Ok(Target::Outside),
        Found::UnknownInside => Err(AttributeError::UnknownDestination),
    }
}

fn endpoints(roster: &Roster, service: &Service, destination: SocketAddr) -> Result<Target, AttributeError> {
    let family: IpAddr = destination.ip();
    let endpoints = roster.endpoints(&service.name, destination.port(), family)?;
    let (affine, local) = (service.client_ip_affinity, service.local);
    Ok(Target::Service { name: service.name.clone(), endpoints, affine, local })
}

fn describe(accepted: &mut Accepted, target: &Target) {
    let record = accepted.outcome.note();
    match target {
        Target::Enrolled(workload) | Target::NotEnrolled(Some(workload)) => record.dst.known(workload),
        Target::Service { name, .. } => record.service = Some(name.to_string().into()),
        Target::Itself | Target::NotEnrolled(None) | Target::Outside => {}
    }
}
