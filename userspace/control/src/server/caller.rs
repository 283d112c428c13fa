//! Who is calling: a node by its certificate, or nobody. What a message says about the node is never asked.

use std::{net::SocketAddr, time::SystemTime};

use culvert_identity::SpiffeId;
use culvert_workload::WorkloadUid;
use tonic::{Code, Request, Status, metadata::MetadataValue};

use super::{Context, incoming::Peer};
use crate::{
    audit::Event,
    cluster::{Reviewer, TokenRefusal},
    metrics::Refused,
};

/// A node that has proven who it is.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Its name, from its certificate.
    pub(super) name: String,
    pub(super) id: SpiffeId,
    /// End of its certificate: nothing that it began is served any longer than that.
    pub(super) not_after: SystemTime,
    pub(super) address: SocketAddr,
    /// The agent's pod, where agents have to be one.
    pub(super) pod: Option<WorkloadUid>,
}

/// What a caller brings along.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    peer: Option<Peer>,
    /// Of `authorization: Bearer`.
    token: Option<String>,
}

impl Claim {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|text| text.strip_prefix("Bearer ")).map(|token| token.trim().to_owned());
        Self { peer: request.extensions().get::<Peer>().cloned(), token }
    }
}

/// Why a caller was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallerError {
    #[error("this call takes a node certificate: join first")]
    NoCertificate,
    #[error("the certificate is not a node's")]
    NotANode,
    #[error("the certificate is of another trust domain")]
    OtherTrustDomain,
    #[error("the node certificate has ended: renew it, or join again")]
    Expired,
    #[error("joining takes a token and no certificate")]
    CertificateAtJoin,
}

impl CallerError {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NoCertificate => "no_client_certificate",
            Self::NotANode => "not_a_node",
            Self::OtherTrustDomain => "other_trust_domain",
            Self::Expired => "node_certificate_expired",
            Self::CertificateAtJoin => "certificate_at_join",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::NoCertificate | Self::Expired => Code::Unauthenticated,
            Self::NotANode | Self::OtherTrustDomain | Self::CertificateAtJoin => Code::PermissionDenied,
        }
    }
}

impl Context {
    /// The calling node; anybody else is refused and written down.
    pub(super) async fn node(&self, claim: Claim, action: &'static str) -> Result<Node, Status> {
        let (peer, now) = (claim.peer.as_ref(), SystemTime::now());
        let event = Event {
            action,
            caller: peer.and_then(|peer| Some(peer.proven.as_ref()?.id().to_string())),
            peer: peer.map(|peer| peer.address),
            ..Event::default()
        };
        let node = self
            .node_of(peer, now)
            .map_err(|error| self.refuse(event.clone(), error.code(), error.reason(), &error.to_string()))?;
        let Some(reviewer) = &self.reviewer else {
            return Ok(node);
        };
        let agent = reviewer.agent(claim.token.as_deref(), now).await;
        let agent = agent.and_then(|agent| match agent.node == node.name {
            true => Ok(agent),
            false => Err(TokenRefusal::OtherNode),
        });
        match agent {
            Ok(agent) => Ok(Node { pod: Some(agent.pod), ..node }),
            Err(refusal) => Err(self.refuse_token(event, &refusal)),
        }
    }

    /// Whoever joins with the token of an agent's pod: its node.
    pub(super) async fn joining(&self, claim: &Claim, reviewer: &Reviewer, event: &Event) -> Result<String, Status> {
        match reviewer.agent(claim.token.as_deref(), SystemTime::now()).await {
            Ok(agent) => Ok(agent.node),
            Err(refusal) => Err(self.refuse_token(event.clone(), &refusal)),
        }
    }

    /// Why a caller that was let in is not to be served any longer.
    pub(super) fn away(&self, node: &Node) -> Option<TokenRefusal> {
        let (reviewer, pod) = (self.reviewer.as_ref()?, node.pod.clone()?);
        let state = std::sync::Arc::clone(&self.published.borrow().state);
        match reviewer.at_home(&state, pod) {
            Ok(agent) if agent.node == node.name => None,
            Ok(_) => Some(TokenRefusal::OtherNode),
            // It was known when it called.
            Err(TokenRefusal::PodUnknown) => Some(TokenRefusal::PodGone),
            Err(refusal) => Some(refusal),
        }
    }

    fn refuse_token(&self, event: Event, refusal: &TokenRefusal) -> Status {
        let code = match refusal {
            passing if passing.passes() => Code::Unavailable,
            TokenRefusal::OtherNode | TokenRefusal::OtherAccount => Code::PermissionDenied,
            _ => Code::Unauthenticated,
        };
        self.refuse(event, code, refusal.reason(), &refusal.to_string())
    }

    /// A caller that proves nothing: only to join.
    pub(super) fn nobody(&self, claim: &Claim, action: &'static str) -> Result<Option<SocketAddr>, Status> {
        let peer = claim.peer.as_ref();
        let address = peer.map(|peer| peer.address);
        match peer.and_then(|peer| peer.proven.as_ref()) {
            None => Ok(address),
            Some(proven) => {
                let error = CallerError::CertificateAtJoin;
                let event = Event { action, caller: Some(proven.id().to_string()), peer: address, ..Event::default() };
                Err(self.refuse(event, error.code(), error.reason(), &error.to_string()))
            }
        }
    }

    fn node_of(&self, peer: Option<&Peer>, now: SystemTime) -> Result<Node, CallerError> {
        let peer = peer.ok_or(CallerError::NoCertificate)?;
        let proven = peer.proven.as_ref().ok_or(CallerError::NoCertificate)?;
        if proven.id().trust_domain_str() != self.trust_domain().as_str() {
            return Err(CallerError::OtherTrustDomain);
        }
        let name = proven.id().node().ok_or(CallerError::NotANode)?;
        // The handshake may be hours ago.
        if now > proven.svid().not_after {
            return Err(CallerError::Expired);
        }
        Ok(Node {
            name: name.to_owned(),
            id: proven.id().clone(),
            not_after: proven.svid().not_after,
            address: peer.address,
            pod: None,
        })
    }

    /// Writes a refusal down, counts it, and makes the caller's answer of it: `culvert-reason` has the word.
    pub(super) fn refuse(&self, event: Event, code: Code, reason: &'static str, text: &str) -> Status {
        self.metrics.refused.get_or_create(&Refused { action: event.action, reason }).inc();
        let event = Event { granted: false, reason, ..event };
        match event.caller {
            Some(_) => self.audit.write(&event),
            None => self.audit.write_anonymous(event),
        }
        let mut status = Status::new(code, format!("{reason}: {text}"));
        status.metadata_mut().insert("culvert-reason", MetadataValue::from_static(reason));
        status
    }
}

impl Node {
    /// The beginning of an entry of the audit log.
    pub(super) fn event(&self, action: &'static str) -> Event {
        Event {
            action,
            peer: Some(self.address),
            caller: Some(self.id.to_string()),
            node: Some(self.name.clone()),
            ..Event::default()
        }
    }
}
