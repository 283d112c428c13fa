//! Istio's certificate protocol: identities of live pods of the caller's node, and nothing else.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_identity::{IdError, SpiffeId};
use culvert_manifests::State;
use culvert_wire::proto::ca::{
    IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::IstioCertificateService,
};
use culvert_workload::{Phase, Protocol, WorkloadUid};
use prost_types::{Struct, value::Kind};
use tonic::{Code, Request, Response, Status};

use super::{
    Context,
    caller::{Claim, Node},
};
use crate::{
    audit::{Event, rfc3339},
    ca::{CaError, Issued, RequestError, SigningRequest},
    metrics::Action,
};

/// The service.
#[derive(Debug)]
pub(super) struct Certificates(pub(super) Arc<Context>);

/// Why an identity was not signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    #[error("metadata.ImpersonatedIdentity is missing")]
    NoIdentity,
    #[error("metadata.ImpersonatedIdentity is not a SPIFFE ID: {0}")]
    BadIdentity(IdError),
    #[error("metadata.PodUID is missing")]
    NoPod,
    #[error("the control plane knows no such pod")]
    UnknownPod,
    #[error("the pod is on another node")]
    OtherNode,
    #[error("the pod has ended")]
    PodEnded,
    #[error("the pod is not enrolled")]
    NotEnrolled,
    #[error("the identity is of another trust domain")]
    OtherTrustDomain,
    #[error("the identity is not this pod's")]
    OtherIdentity,
    #[error("validity_duration is negative")]
    BadValidity,
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl IssueError {
    fn reason(&self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::BadIdentity(_) => "bad_identity",
            Self::NoPod => "no_pod_uid",
            Self::UnknownPod => "unknown_pod",
            Self::OtherNode => "pod_on_other_node",
            Self::PodEnded => "pod_ended",
            Self::NotEnrolled => "pod_not_enrolled",
            Self::OtherTrustDomain => "other_trust_domain",
            Self::OtherIdentity => "not_the_pods_identity",
            Self::BadValidity => "bad_validity",
            Self::Request(error) => error.reason(),
            Self::Ca(error) => error.reason(),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::NoIdentity | Self::BadIdentity(_) | Self::NoPod | Self::BadValidity | Self::Request(_) => {
                Code::InvalidArgument
            }
            Self::Ca(_) => Code::Unavailable,
            _ => Code::PermissionDenied,
        }
    }
}

/// What is asked for, as far as it can be read.
struct Asked {
    identity: Option<String>,
    pod: Option<String>,
}

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let node = self.0.node(Claim::of(&request), "issue").await?;
        let message = request.into_inner();
        let asked = Asked::of(message.metadata.as_ref());
        let event = Event { identity: asked.identity.clone(), pod: asked.pod.clone(), ..node.event("issue") };
        match self.issue(&node, &asked, &message, SystemTime::now()) {
            Ok(issued) => {
                self.0.metrics.issued.get_or_create(&Action { action: "issue" }).inc();
                self.0.audit.write(&granted(event, &issued));
                let mut cert_chain = issued.chain;
                cert_chain.push(self.0.authority.roots().pem);
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(error) => Err(self.0.refuse(event, error.code(), error.reason(), &error.to_string())),
        }
    }
}

impl Certificates {
    fn issue(
        &self,
        node: &Node,
        asked: &Asked,
        message: &IstioCertificateRequest,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let identity = asked.identity.as_deref().ok_or(IssueError::NoIdentity)?;
        let identity = SpiffeId::parse(identity).map_err(IssueError::BadIdentity)?;
        let pod = asked.pod.as_deref().ok_or(IssueError::NoPod)?;
        let state = Arc::clone(&self.0.published.borrow().state);
        entitled(&state, &node.name, pod, &identity)?;
        let life = match u64::try_from(message.validity_duration) {
            Ok(0) => self.0.leaf_life,
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => return Err(IssueError::BadValidity),
        };
        let request = SigningRequest::from_pem(&message.csr)?;
        Ok(self.0.authority.sign(&identity, &request, life, now)?)
    }
}

/// May this node have this identity for this pod.
fn entitled(state: &State, node: &str, pod: &str, identity: &SpiffeId) -> Result<(), IssueError> {
    let pod = state.workloads.get(&WorkloadUid::new(pod)).ok_or(IssueError::UnknownPod)?;
    if *pod.node != *node {
        return Err(IssueError::OtherNode);
    }
    if pod.phase == Phase::Ended {
        return Err(IssueError::PodEnded);
    }
    if pod.protocol != Protocol::Hbone {
        return Err(IssueError::NotEnrolled);
    }
    if identity.trust_domain_str() != pod.trust_domain.as_str() {
        return Err(IssueError::OtherTrustDomain);
    }
    if pod.identity().as_ref() != Some(identity) {
        return Err(IssueError::OtherIdentity);
    }
    Ok(())
}

impl Asked {
    fn of(metadata: Option<&Struct>) -> Self {
        let text = |key: &str| match metadata?.fields.get(key)?.kind.as_ref()? {
            Kind::StringValue(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        };
        Self { identity: text("ImpersonatedIdentity"), pod: text("PodUID") }
    }
}

pub(super) fn granted(event: Event, issued: &Issued) -> Event {
    let (serial, not_after) = (Some(issued.serial.clone()), Some(rfc3339(issued.not_after)));
    Event { granted: true, serial, not_after, ..event }
}

#[cfg(test)]
mod tests;
