//! The node's own identity: joined once by token, renewed by certificate, kept across restarts in memory.

mod store;

pub use store::{StoreError, load, save};

use std::{path::PathBuf, sync::Arc, time::Duration};

use culvert_identity::{IdError, SpiffeId};
use culvert_mtls::{Credentials, LocalIdentity};
use culvert_wire::proto::culvert::{JoinRequest, RenewRequest, node_service_client::NodeServiceClient};
use rustls_pki_types::CertificateDer;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use crate::{
    Clock, ControlPort, Issue, IssueError, Key, Observer, Request, Status, answer,
    rotation::{OnIssued, Rotation, Shared, Slot, status_of},
};

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A node certificate with its key.
pub struct NodeCredentials {
    pub(crate) key: Key,
    pub(crate) credentials: Credentials,
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The control plane did not give a certificate, or none that is acceptable.
    #[error("the control plane gave no node certificate")]
    Issue(#[from] IssueError),
    /// The control plane gave a name that is none.
    #[error("the control plane named the node in a way that is not part of a SPIFFE ID")]
    NodeName(#[source] IdError),
}

impl JoinError {
    /// The stable word for logs, metric labels and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Issue(error) => error.reason(),
            Self::NodeName(_) => "answer_bad_node_name",
        }
    }
}

impl NodeCredentials {
    /// The node's identity, `spiffe://TD/culvert/node/NAME`.
    pub fn id(&self) -> &SpiffeId {
        self.credentials.id()
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        self.id().node().unwrap_or_default()
    }

    /// The certificate.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

/// Exchanges a single-use token for a node certificate, over TLS in which only the server proves itself. A `port` with a
/// token file needs no other token.
/// Which node this is, the token says and the control plane answers.
pub async fn join(port: &ControlPort, token: &str, clock: &dyn Clock) -> Result<NodeCredentials, JoinError> {
    let key = Key::generate()?;
    let request = JoinRequest { token: token.trim().to_owned(), csr: key.request(None)? };
    let mut client = NodeServiceClient::new(port.anonymous_channel());
    let answer = tokio::time::timeout(TIMEOUT, client.join(request)).await.map_err(|_| IssueError::Timeout)?;
    let answer = answer.map_err(IssueError::from)?.into_inner();
    let id = SpiffeId::of_node(port.trust_domain(), &answer.node).map_err(JoinError::NodeName)?;
    let chain = answer::certificates(&answer.cert_chain)?;
    let credentials = answer::accept(chain, &id, &key, port.trust(), clock.wall())?;
    Ok(NodeCredentials { key, credentials })
}

/// Renews node certificates by the node certificate in use.
struct NodeSigner {
    port: ControlPort,
    identity: LocalIdentity,
}

impl Issue for NodeSigner {
    async fn issue(&self, request: Request) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        if self.port.has_token() {
            // The token proves which node it is, also where the certificate has ended meanwhile.
            let call = JoinRequest { token: String::new(), csr: request.csr };
            let mut client = NodeServiceClient::new(self.port.anonymous_channel());
            let answer = tokio::time::timeout(TIMEOUT, client.join(call)).await.map_err(|_| IssueError::Timeout)??;
            return answer::certificates(&answer.into_inner().cert_chain);
        }
        // A channel of its own each time: it presents the certificate that is in use now.
        let mut client = NodeServiceClient::new(self.port.channel(&self.identity));
        let call = client.renew(RenewRequest { csr: request.csr });
        let answer = tokio::time::timeout(TIMEOUT, call).await.map_err(|_| IssueError::Timeout)??.into_inner();
        answer::certificates(&answer.cert_chain)
    }
}

/// The node's identity in use: published for channels, renewed in time. Ends when dropped.
pub struct NodeIdentity {
    identity: LocalIdentity,
    status: watch::Receiver<Status>,
    slot: Slot,
    task: JoinHandle<()>,
}

impl NodeIdentity {
    /// Publishes what [`join`] or [`load`] gave and keeps it fresh; each new certificate is saved in
    /// `keep_in` if that is given. Must be called inside a tokio runtime.
    pub fn start(
        node: NodeCredentials,
        port: ControlPort,
        keep_in: Option<PathBuf>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, JoinError> {
        let id = node.id().clone();
        let (writer, identity) = LocalIdentity::new(id.clone(), port.trust());
        let slot = Slot::new(writer);
        let dates = (node.credentials.not_before(), node.credentials.not_after());
        let status = watch::Sender::new(status_of(&node.credentials));
        slot.publish(node.credentials)?;
        let shared = Shared {
            trust: port.trust().clone(),
            issuer: NodeSigner { port, identity: identity.clone() },
            clock,
            observer,
            places: Semaphore::new(1),
            // How long a node certificate lives is the control plane's choice.
            validity: Duration::ZERO,
            changes: watch::Sender::new(0),
        };
        let receiver = status.subscribe();
        let rotation = Rotation {
            id,
            slot: slot.clone(),
            shared: Arc::new(shared),
            status,
            pod: Box::new(|_| Ok(None)),
            on_issued: saver(keep_in),
        };
        let task = tokio::spawn(rotation.run(Some(dates)));
        Ok(Self { identity, status: receiver, slot, task })
    }

    /// For [`ControlPort::channel`].
    pub fn identity(&self) -> &LocalIdentity {
        &self.identity
    }

    /// Where the node's certificate stands; with each new generation, open a new channel.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

impl Drop for NodeIdentity {
    fn drop(&mut self) {
        self.slot.erase();
        self.task.abort();
    }
}

fn saver(keep_in: Option<PathBuf>) -> OnIssued {
    Box::new(move |key, credentials| {
        let Some(folder) = &keep_in else { return };
        if let Err(error) = store::save_parts(folder, key, credentials) {
            // The agent goes on with what it has in memory; only a restart would need a new token.
            tracing::error!(reason = error.reason(), %error, "the node's certificate could not be kept");
        }
    })
}
