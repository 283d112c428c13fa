//! What an agent does with the control plane, by the agent's own client code.

use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use culvert_identity::SpiffeId;
use culvert_mtls::{Role, verify_chain};
use culvert_svid::{
    ControlPort, Issue as _, IssueError, Key, NoObserver, NodeIdentity, Request, Signer, SystemClock, node,
};
use culvert_wire::resource::read_synced;
use culvert_wire::{
    Kind, Resource, SYNCED_NAME,
    proto::discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{Control, Server, server::path};

/// An agent's side of the control channel.
pub struct Agent {
    /// The control port, with the token.
    pub port: ControlPort,
    /// The node's identity.
    pub identity: NodeIdentity,
}

/// A stream of all types, and what it has brought.
pub struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    /// The generation of the last marker.
    pub generation: Option<u64>,
    /// All resources by kind and name.
    pub held: BTreeMap<(Kind, String), Resource>,
}

impl Agent {
    /// The agent's pod on a node, running.
    pub fn pod(name: &str, node: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "culvert-system"},
            "spec": {"nodeName": node, "hostNetwork": true, "serviceAccountName": "culvert-agent",
                "containers": [{"name": "agent", "image": "agent"}]},
            "status": {"phase": "Running", "podIP": "172.30.0.11"}})
    }

    /// The control port for whoever has this token.
    pub async fn port(server: &Server, control: &Control, name: &str, token: &str) -> Result<ControlPort> {
        let file = path(&format!("token-{name}"));
        fs::write(&file, token)?;
        Ok(control.port(server).await?.with_token_file(file))
    }

    /// Makes the pod, and joins by its token.
    pub async fn join(server: &Server, control: &Control, name: &str, node: &str) -> Result<Self> {
        let pod = server.apply(&Self::pod(name, node)).await?;
        let token = server.token(("culvert-system", "culvert-agent"), "culvert-control", 600, Some(&pod)).await?;
        Self::with(Self::port(server, control, name, &token).await?).await
    }

    /// Joins; a control plane that does not know the pod yet is asked again.
    pub async fn with(port: ControlPort) -> Result<Self> {
        let clock = Arc::new(SystemClock::new());
        let mut last = None;
        for _ in 0..40 {
            match node::join(&port, "", &*clock).await {
                Ok(joined) => {
                    let identity = NodeIdentity::start(joined, port.clone(), None, clock, Arc::new(NoObserver))?;
                    return Ok(Self { port, identity });
                }
                Err(error) => {
                    let waits = matches!(&error, culvert_svid::JoinError::Issue(IssueError::Unreachable { .. }));
                    last = Some(error);
                    if !waits {
                        break;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        bail!("no join: {}", last.map(|error| format!("{error:?}")).unwrap_or_default())
    }

    /// Asks for a pod's identity, and verifies it as a peer with the same roots would.
    pub async fn issue(&self, pod_uid: &str, identity: &str) -> Result<usize, IssueError> {
        let key = Key::generate()?;
        let id = SpiffeId::parse(identity).map_err(|_| IssueError::Request)?;
        let request = Request {
            csr: key.request(Some(&id))?,
            id,
            pod_uid: Some(pod_uid.into()),
            validity: Duration::from_secs(600),
        };
        let chain = Signer::new(self.port.clone(), self.identity.identity().clone()).issue(request).await?;
        let bundles = self.port.trust().bundles().snapshot();
        verify_chain(&chain, &bundles, Role::Client, SystemTime::now()).map_err(IssueError::AnswerNotTrusted)?;
        Ok(chain.len())
    }

    /// Opens a stream of all types.
    pub async fn stream(&self) -> Result<Stream> {
        let (requests, receiver) = mpsc::channel(64);
        for kind in Kind::ALL {
            let first = DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..Default::default() };
            requests.send(first).await?;
        }
        let mut client = AggregatedDiscoveryServiceClient::new(self.port.channel(self.identity.identity()));
        let responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Stream { requests, responses, generation: None, held: BTreeMap::new() })
    }
}

impl Stream {
    /// Takes what comes until `found` sees what it looks for.
    pub async fn until<T>(&mut self, what: &str, found: impl Fn(&Self) -> Option<T>) -> Result<T> {
        let look = async {
            loop {
                if let Some(found) = found(self) {
                    return Ok(found);
                }
                self.next().await?;
            }
        };
        match tokio::time::timeout(Duration::from_secs(45), look).await {
            Ok(found) => found,
            Err(_) => bail!("{what}: not within 45 s; held: {:?}", self.held.keys().collect::<Vec<_>>()),
        }
    }

    /// Takes one response.
    pub async fn next(&mut self) -> Result<()> {
        let response = self.responses.message().await?.context("the stream ended")?;
        let kind = Kind::of_type_url(&response.type_url).context("a known type")?;
        for resource in &response.resources {
            if resource.name == SYNCED_NAME {
                self.generation = Some(read_synced(resource.resource.as_ref())?.generation);
            } else {
                let decoded = Resource::decode(kind, &resource.name, resource.resource.as_ref())?;
                self.held.insert((kind, resource.name.clone()), decoded);
            }
        }
        for name in &response.removed_resources {
            self.held.remove(&(kind, name.clone()));
        }
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        Ok(self.requests.send(answer).await?)
    }

    /// The workload of this name.
    pub fn workload(&self, name: &str) -> Option<culvert_workload::Workload> {
        self.held.values().find_map(|resource| match resource {
            Resource::Workload(workload) if *workload.name == *name => Some(workload.clone()),
            _ => None,
        })
    }
}
