//! By which ways a connection may leave: mutual TLS wherever the other side is enrolled, plaintext only where the
//! control plane has said that it is not, or outside of the cluster.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use culvert_identity::SpiffeId;
use culvert_workload::{Endpoint, EndpointError, Protocol, Workload};
use rand::seq::SliceRandom;

use super::attribute::{Attributed, Target};
use crate::{
    accepted::Accepted,
    outcome::{Blame, Step, Transport},
    worker::Worker,
};

/// A connection with the ways that it may take, best first. Only [`authorize`] makes one, and only [`super::dial`]
/// takes it apart: what is dialled is what was authorized.
#[derive(Debug)]
pub(super) struct Authorized {
    accepted: Accepted,
    ways: Vec<Way>,
}

/// One way of reaching what the pod has called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// Plainly, within the pod.
    Itself(SocketAddr),
    /// By mutual TLS, to a peer that must prove this identity.
    Tunnel { workload: Arc<Workload>, address: SocketAddr, identity: SpiffeId },
    /// In plaintext, to somebody who is not enrolled.
    Plain { workload: Option<Arc<Workload>>, address: SocketAddr, why: &'static str },
}

impl Authorized {
    pub(super) fn into_parts(self) -> (Accepted, Vec<Way>) {
        (self.accepted, self.ways)
    }
}

/// Decides by which ways the connection may go.
pub(super) fn authorize(worker: &Worker, attributed: Attributed) -> Option<Authorized> {
    let Attributed { accepted, target } = attributed;
    let target = match near(target, &accepted.pod.workload().node) {
        Ok(target) => target,
        Err(error) => {
            accepted.fail(Step::Attribute, Blame::Peer, error.reason(), &error);
            return None;
        }
    };
    let affine = matches!(target, Target::Service { affine: true, .. });
    let is_own = |address: SocketAddr| accepted.pod.netns.is_own(address.ip());
    let mut ways = ways(target, accepted.original, is_own);
    if ways.is_empty() {
        accepted.refuse("no_identity");
        return None;
    }
    // Endpoints that did not answer a moment ago come last, in an order like that of the others.
    match affine {
        true => ways.sort_by_key(|way| draw(accepted.peer.ip(), way.address())),
        false => ways.shuffle(&mut rand::rng()),
    }
    ways.sort_by_key(|way| worker.is_shunned(way.address()));
    Some(Authorized { accepted, ways })
}

/// Of a service that is to be served on the client's own node, the endpoints that are there. Pure.
pub(super) fn near(target: Target, node: &str) -> Result<Target, EndpointError> {
    match target {
        Target::Service { name, mut endpoints, affine, local: true } => {
            endpoints.retain(|endpoint| *endpoint.workload.node == *node);
            match endpoints.is_empty() {
                true => Err(EndpointError::NoEndpoint),
                false => Ok(Target::Service { name, endpoints, affine, local: true }),
            }
        }
        other => Ok(other),
    }
}

/// A client's lots for each endpoint: the smallest wins, so that a client comes back to the same endpoint, by whatever port
/// of the service and whatever agent, and only those of an endpoint that is gone go elsewhere. Pure.
pub(super) fn draw(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (client.to_canonical(), endpoint.ip().to_canonical()).hash(&mut hasher);
    hasher.finish()
}

/// The ways to a target, in no order. Pure. A workload that is enrolled and has no valid identity has no way: it is
/// never called in plaintext instead.
pub(super) fn ways(target: Target, original: SocketAddr, is_own: impl Fn(SocketAddr) -> bool) -> Vec<Way> {
    match target {
        Target::Itself => vec![Way::Itself(original)],
        Target::Enrolled(workload) => way_to(workload, original).into_iter().collect(),
        Target::NotEnrolled(workload) => {
            vec![Way::Plain { workload, address: original, why: "none: destination is not enrolled" }]
        }
        Target::Outside => vec![Way::Plain { workload: None, address: original, why: "none: outside of the cluster" }],
        Target::Service { endpoints, .. } => {
            let way = |endpoint: Endpoint| match is_own(endpoint.address) {
                true => Some(Way::Itself(endpoint.address)),
                false => way_to(endpoint.workload, endpoint.address),
            };
            endpoints.into_iter().filter_map(way).collect()
        }
    }
}

fn way_to(workload: Arc<Workload>, address: SocketAddr) -> Option<Way> {
    match workload.protocol {
        Protocol::Hbone => {
            let identity = workload.identity()?;
            Some(Way::Tunnel { workload, address, identity })
        }
        Protocol::Plain => {
            Some(Way::Plain { workload: Some(workload), address, why: "none: destination is not enrolled" })
        }
    }
}

impl Way {
    /// Where the connection goes in the end, whatever carries it.
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Itself(address) | Self::Tunnel { address, .. } | Self::Plain { address, .. } => *address,
        }
    }

    /// The same for explanations.
    pub(super) fn leads(self) -> super::Leads {
        let address = self.address();
        let (transport, workload) = match self {
            Self::Itself(_) => (Transport::Hairpin, None),
            Self::Tunnel { workload, .. } => (Transport::Hbone, Some(workload)),
            Self::Plain { workload, .. } => (Transport::Passthrough, workload),
        };
        super::Leads { address, workload, transport: transport.word() }
    }
}
