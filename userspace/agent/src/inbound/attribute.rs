//! Who calls a local pod, and what: the identity from the handshake, the addresses from the sockets. Headers are only
//! for telemetry.

use std::net::SocketAddr;

use culvert_policy::{Connection, Peer};
use culvert_tunnel::{Authority, Host, Offer, Refusal};
use culvert_workload::{Roster, WorkloadUid};

use super::tunnel::Offered;
use crate::{
    accepted::{Accepted, canonical},
    outcome::{Outcome, Transport},
    pod::Pod,
    telemetry,
    worker::Worker,
};

/// Ports that no CONNECT may ask for: they are the mesh's own, and calling them would be a loop.
const FORBIDDEN: [u16; 3] = [15001, 15006, 15008];

/// A connection of which all is known that decides about it.
pub(super) struct Attributed {
    pub(super) client: Client,
    pub(super) connection: Connection,
}

/// Who waits for the answer.
pub(super) enum Client {
    /// A plaintext socket.
    Socket(Box<Accepted>),
    /// A CONNECT in a tunnel.
    Stream(Box<Offered>),
}

impl Client {
    pub(super) fn outcome(&mut self) -> &mut Outcome {
        match self {
            Self::Socket(accepted) => &mut accepted.outcome,
            Self::Stream(offered) => &mut offered.outcome,
        }
    }

    pub(super) fn pod(&self) -> &std::sync::Arc<Pod> {
        match self {
            Self::Socket(accepted) => &accepted.pod,
            Self::Stream(offered) => &offered.pod,
        }
    }
}

/// Why a CONNECT asks for something that is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// Another address than the one that the tunnel came to.
    #[error("the authority is not the address that the tunnel came to")]
    AuthorityMismatch,
    /// A port of the mesh itself.
    #[error("the port belongs to the mesh itself")]
    ForbiddenPort,
    /// A host name that is none of the workload's services, or a port that the service does not have.
    #[error("the authority is no service of this workload")]
    UnknownHost,
    /// Nothing is known yet.
    #[error("the control plane has not said yet who lives where")]
    NotSynced,
}

impl AttributeError {
    /// Stable word.
    pub fn reason(self) -> &'static str {
        match self {
            Self::AuthorityMismatch => "authority_mismatch",
            Self::ForbiddenPort => "forbidden_port",
            Self::UnknownHost => "unknown_host",
            Self::NotSynced => "not_synced",
        }
    }

    /// What the peer is told.
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::AuthorityMismatch => Refusal::BadRequest,
            Self::ForbiddenPort | Self::UnknownHost | Self::NotSynced => Refusal::Unavailable,
        }
    }
}

/// A plaintext connection: the peer has no identity, whatever the roster says of its address.
pub(super) fn plaintext(worker: &Worker, mut accepted: Accepted) -> Attributed {
    let connection = Connection {
        peer: Peer::Plaintext,
        source_ip: accepted.peer.ip(),
        destination_ip: accepted.original.ip(),
        destination_port: accepted.original.port(),
    };
    let snapshot = worker.shared.current.get();
    let record = accepted.outcome.note();
    record.transport = Transport::Plaintext;
    record.identity_from = "none: plaintext".into();
    if let Some(snapshot) = snapshot {
        worker.shared.current.need(&snapshot, connection.source_ip);
        if let Some(source) = snapshot.holder(connection.source_ip) {
            record.src.known(source);
        }
        let (workload, port) = (accepted.pod.workload(), connection.destination_port);
        record.service = telemetry::service_meant(&snapshot.roster, &workload, None, port);
    }
    Attributed { client: Client::Socket(Box::new(accepted)), connection }
}

/// A stream: the identity is the tunnel's, the source address the TCP peer's.
pub(super) fn stream(worker: &Worker, mut offered: Box<Offered>) -> Option<Attributed> {
    match target(worker, &offered) {
        Ok(destination) => {
            let connection = Connection {
                peer: Peer::Authenticated(offered.offer.peer().identity.clone()),
                source_ip: offered.offer.peer().address.ip().to_canonical(),
                destination_ip: destination.ip(),
                destination_port: destination.port(),
            };
            describe(worker, &mut offered, destination);
            Some(Attributed { client: Client::Stream(offered), connection })
        }
        Err(error) => {
            offered.refuse(error.refusal(), error.reason());
            None
        }
    }
}

fn target(worker: &Worker, offered: &Offered) -> Result<SocketAddr, AttributeError> {
    let local = canonical(offered.offer.peer().local);
    let snapshot = worker.shared.current.get().ok_or(AttributeError::NotSynced)?;
    resolve(&offered.offer.request().authority, local, &snapshot.roster, &offered.pod.uid)
}

/// What an authority means at the address that the tunnel came to. Host names are for senders that let the receiver
/// translate a service's port.
pub(super) fn resolve(
    authority: &Authority,
    local: SocketAddr,
    roster: &Roster,
    own: &WorkloadUid,
) -> Result<SocketAddr, AttributeError> {
    let port = match &authority.host {
        Host::Ip(ip) if ip.to_canonical() != local.ip() => return Err(AttributeError::AuthorityMismatch),
        Host::Ip(_) => authority.port,
        Host::Name(name) => {
            let service = telemetry::service_of_host(name).ok_or(AttributeError::UnknownHost)?;
            let endpoints = roster.endpoints(&service, authority.port, local.ip());
            let endpoints = endpoints.map_err(|_| AttributeError::UnknownHost)?;
            let here = endpoints.iter().find(|endpoint| endpoint.workload.uid == *own);
            here.map(|endpoint| endpoint.address.port()).ok_or(AttributeError::UnknownHost)?
        }
    };
    if FORBIDDEN.contains(&port) {
        return Err(AttributeError::ForbiddenPort);
    }
    Ok(SocketAddr::new(local.ip(), port))
}

fn describe(worker: &Worker, offered: &mut Offered, destination: SocketAddr) {
    let workload = offered.pod.workload();
    let Offered { offer, outcome, .. } = offered;
    let record = outcome.note();
    record.trace = offer.request().traceparent;
    record.hbone_addr = Some(destination);
    if let Some(snapshot) = worker.shared.current.get() {
        let source = offer.peer().address.ip().to_canonical();
        // For the next connection's labels: nothing that is decided here waits for it.
        worker.shared.current.need(&snapshot, source);
        // The label follows the address only where the proven identity says the same.
        if let Some(source) = snapshot.holder(source).filter(|workload| workload.is(&offer.peer().identity)) {
            record.src.known(source);
        }
        let named = offer.request().forwarded.host.as_deref();
        record.service = telemetry::service_meant(&snapshot.roster, &workload, named, destination.port());
    }
}

impl Offered {
    /// Says no to the peer, and why to us.
    pub(super) fn refuse(self, refusal: Refusal, reason: &'static str) {
        let Self { offer, outcome, .. } = self;
        let offer: Offer = offer;
        offer.refuse(refusal);
        outcome.deny(reason);
    }
}
