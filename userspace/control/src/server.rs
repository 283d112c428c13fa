//! The control port: TLS, who is calling, and the four services.

mod caller;
mod certificates;
mod discovery;
mod incoming;
mod node_book;
mod nodes;
mod own;
mod scope;
mod session;
mod status;
#[cfg(test)]
mod testing;

use std::{future::Future, sync::Arc, time::Duration};

use culvert_identity::TrustDomain;
use culvert_mtls::LocalIdentity;
use culvert_wire::proto::{
    ca::istio_certificate_service_server::IstioCertificateServiceServer,
    culvert::{node_service_server::NodeServiceServer, status_service_server::StatusServiceServer},
    discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tonic::transport::Server;

use crate::{
    audit::Audit,
    ca::Authority,
    cluster::Reviewer,
    index::{Change, Published},
    metrics::Metrics,
    token::Tokens,
};

pub use node_book::{NodeBook, NodeEntry};
pub use own::{OwnError, OwnIdentity};

/// Largest request for a certificate, in bytes, token and all. It is read before anybody asks who sends it.
const LARGEST_REQUEST: usize = 32 * 1024;
/// Largest first message of a stream, in bytes: all names and versions that an agent knows. Only a node's is read.
const LARGEST_KNOWN: usize = 64 << 20;

/// What the services share.
#[derive(Debug)]
pub struct Context {
    /// Signs.
    pub authority: Arc<Authority>,
    /// Join tokens.
    pub tokens: Tokens,
    /// Where agents are pods: who holds their service account's tokens. Join tokens are then nobody's.
    pub reviewer: Option<Reviewer>,
    /// Writes everything down.
    pub audit: Arc<Audit>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// What is known now.
    pub published: watch::Receiver<Published>,
    /// The index's queue.
    pub changes: mpsc::Sender<Change>,
    /// What is known of nodes.
    pub nodes: Arc<NodeBook>,
    /// Life of a leaf when the agent does not ask for another, and of node certificates.
    pub leaf_life: Duration,
    /// In a mesh of more workloads than this, nodes are sent their own and those that they ask for.
    pub whole_up_to: usize,
}

impl Context {
    fn trust_domain(&self) -> &TrustDomain {
        self.authority.trust_domain()
    }
}

/// Serves until `stop` is done.
pub async fn serve(
    listener: TcpListener,
    identity: LocalIdentity,
    context: Arc<Context>,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let incoming = incoming::accept(listener, identity, Arc::clone(&context));
    let discovery = AggregatedDiscoveryServiceServer::new(discovery::Discovery(Arc::clone(&context)));
    let certificates = IstioCertificateServiceServer::new(certificates::Certificates(Arc::clone(&context)));
    let nodes = NodeServiceServer::new(nodes::Nodes(Arc::clone(&context)));
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(64)
        .add_service(discovery.max_decoding_message_size(LARGEST_KNOWN))
        .add_service(certificates.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(nodes.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(StatusServiceServer::new(status::Reports(context)))
        .serve_with_incoming_shutdown(incoming, stop)
        .await
}
