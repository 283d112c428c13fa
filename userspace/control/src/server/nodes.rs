//! Nodes join by a token and renew by certificate.

use std::{sync::Arc, time::SystemTime};

use culvert_identity::SpiffeId;
use culvert_wire::proto::culvert::{JoinRequest, JoinResponse, RenewRequest, node_service_server::NodeService};
use tonic::{Code, Request, Response, Status};

use super::{Context, caller::Claim, certificates::granted};
use crate::{
    audit::Event,
    ca::{CaError, Issued, SigningRequest},
    metrics::Action,
};

/// The service.
#[derive(Debug)]
pub(super) struct Nodes(pub(super) Arc<Context>);

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let claim = Claim::of(&request);
        let peer = self.0.nobody(&claim, "join")?;
        let message = request.into_inner();
        let now = SystemTime::now();
        let claimed = message.token.rsplit_once('.').map(|(node, _)| node.chars().take(253).collect());
        let event = Event { action: "join", peer, node: claimed, ..Event::default() };
        // The request is read first: a token is not to be lost over a mistake in it.
        let csr = SigningRequest::from_pem(&message.csr)
            .map_err(|error| self.0.refuse(event.clone(), Code::InvalidArgument, error.reason(), &error.to_string()))?;
        let node = match &self.0.reviewer {
            Some(reviewer) => self.0.joining(&claim, reviewer, &event).await?,
            None => self.node_of_token(&message.token, &event, now)?,
        };
        self.answer(event, &node, &csr, now)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<JoinResponse>, Status> {
        let node = self.0.node(Claim::of(&request), "renew").await?;
        let event = node.event("renew");
        let csr = SigningRequest::from_pem(&request.into_inner().csr)
            .map_err(|error| self.0.refuse(event.clone(), Code::InvalidArgument, error.reason(), &error.to_string()))?;
        self.answer(event, &node.name, &csr, SystemTime::now())
    }
}

impl Nodes {
    fn node_of_token(&self, token: &str, event: &Event, now: SystemTime) -> Result<String, Status> {
        self.0.tokens.take(token, now).map_err(|error| {
            // Whoever guesses is not told how near the guess was; the audit log is.
            let event = Event { detail: Some(error.to_string()), ..event.clone() };
            let mut status = self.0.refuse(event, Code::Unauthenticated, error.reason(), "");
            status =
                Status::with_metadata(Code::Unauthenticated, "the join token was refused", status.metadata().clone());
            status.metadata_mut().remove("culvert-reason");
            status
        })
    }

    fn answer(
        &self,
        event: Event,
        node: &str,
        csr: &SigningRequest,
        now: SystemTime,
    ) -> Result<Response<JoinResponse>, Status> {
        match self.sign(node, csr, now) {
            Ok((id, issued)) => {
                self.0.metrics.issued.get_or_create(&Action { action: event.action }).inc();
                let event = Event { node: Some(node.to_owned()), identity: Some(id.to_string()), ..event };
                self.0.audit.write(&granted(event, &issued));
                Ok(Response::new(JoinResponse { node: node.to_owned(), cert_chain: issued.chain }))
            }
            Err(error) => Err(self.0.refuse(event, Code::Unavailable, error.reason(), &error.to_string())),
        }
    }

    fn sign(&self, node: &str, csr: &SigningRequest, now: SystemTime) -> Result<(SpiffeId, Issued), CaError> {
        let id = SpiffeId::of_node(self.0.trust_domain(), node).map_err(|error| CaError::Signing(error.to_string()))?;
        let issued = self.0.authority.sign(&id, csr, self.0.leaf_life, now)?;
        Ok((id, issued))
    }
}
