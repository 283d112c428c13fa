//! The delta stream: all types on one stream, known versions on each reconnect, ACK and NACK.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use culvert_identity::bundle::X509Bundle;
use culvert_mtls::TrustBundles;
use culvert_svid::{ControlPort, NodeIdentity};
use culvert_wire::{
    Kind,
    proto::discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use rand::Rng;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::state::State;
use crate::{
    metrics::Metrics,
    snapshot::{Current, Snapshot},
};

const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often it is looked which addresses nobody needs any more.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Largest message, in bytes: as Istio's agents take them.
const MAX_MESSAGE: usize = 200 << 20;
/// gRPC's code for what a NACK says.
const INVALID_ARGUMENT: i32 = 3;

/// Where the stream comes from and what it feeds.
pub struct Feed {
    /// This node's name, for the server's log; it believes the certificate only.
    pub node: Arc<str>,
    /// The control plane.
    pub port: ControlPort,
    /// As whom we call.
    pub identity: Arc<NodeIdentity>,
    /// What decisions are made by.
    pub current: Arc<Current>,
    /// What peers are verified with.
    pub bundles: TrustBundles,
    /// All metrics.
    pub metrics: Arc<Metrics>,
}

/// Keeps the state up to date, for ever. While the control plane is away the last state stays.
pub async fn follow(feed: Feed) {
    let mut state = State::default();
    let mut pause = SHORTEST_PAUSE;
    loop {
        let before = feed.current.get().map(|snapshot| snapshot.generation);
        let error = feed.one_stream(&mut state).await;
        feed.metrics.own.control_connected.set(0);
        if feed.current.get().map(|snapshot| snapshot.generation) != before {
            pause = SHORTEST_PAUSE;
        }
        match error {
            End::Renewed => {}
            End::Failed(text) => {
                if pause == SHORTEST_PAUSE {
                    tracing::warn!(error = text, "the control plane's stream has ended; going on with the last state");
                } else {
                    tracing::debug!(error = text, "the control plane is still away");
                }
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// How a stream ended.
enum End {
    /// The node has a newer certificate: the next stream presents it.
    Renewed,
    /// It broke, or the server closed it.
    Failed(String),
}

impl Feed {
    async fn one_stream(&self, state: &mut State) -> End {
        let mut renewed = self.identity.watch();
        renewed.mark_unchanged();
        tokio::select! {
            error = self.receive(state) => End::Failed(error),
            changed = renewed.changed() => match changed {
                Ok(()) => End::Renewed,
                Err(_) => End::Failed("the node has no identity any more".to_owned()),
            },
        }
    }

    async fn receive(&self, state: &mut State) -> String {
        state.begin();
        let mut asked = self.current.asked().all(Instant::now());
        forget_unasked(state, &asked);
        let (requests, mut responses) = match self.open(state, &asked).await {
            Ok(stream) => stream,
            Err(text) => return text,
        };
        self.metrics.own.control_connected.set(1);
        let mut tick = tokio::time::interval(GIVE_UP);
        loop {
            let response = tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => response,
                    Ok(None) => return "closed by the control plane".to_owned(),
                    Err(status) => return said(&status),
                },
                () = self.current.asked().more() => match self.ask(state, &mut asked, &requests).await {
                    Ok(()) => continue,
                    Err(text) => return text,
                },
                _ = tick.tick() => match self.ask(state, &mut asked, &requests).await {
                    Ok(()) => continue,
                    Err(text) => return text,
                },
            };
            let answer = self.apply(state, &response);
            if response.type_url == Kind::Service.type_url() {
                // An answer may cross with the word that nobody asks any more.
                forget_unasked(state, &asked);
            }
            if requests.send(answer).await.is_err() {
                return "the control plane takes no more requests".to_owned();
            }
            if let Some(snapshot) = state.publish() {
                self.publish(snapshot);
            }
        }
    }

    /// Asks for the addresses that are needed now, and gives up those that no longer are.
    async fn ask(
        &self,
        state: &mut State,
        asked: &mut HashSet<IpAddr>,
        requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> Result<(), String> {
        let needed = self.current.asked().all(Instant::now());
        let more: Vec<IpAddr> = needed.difference(asked).copied().collect();
        let less: Vec<IpAddr> = asked.difference(&needed).copied().collect();
        if more.is_empty() && less.is_empty() {
            return Ok(());
        }
        // Before it is said: from now on nobody relies on what is about to be taken away.
        state.give_up(&less);
        if let Some(snapshot) = state.publish() {
            self.publish(snapshot);
        }
        *asked = needed;
        let request = DeltaDiscoveryRequest {
            type_url: Kind::Workload.type_url().to_owned(),
            resource_names_subscribe: names(&more),
            resource_names_unsubscribe: names(&less),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(request).await.map_err(|_| "the control plane takes no more requests".to_owned())
    }

    async fn open(
        &self,
        state: &State,
        asked: &HashSet<IpAddr>,
    ) -> Result<(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>), String> {
        let (sender, receiver) = mpsc::channel(64);
        for kind in Kind::ALL {
            let node = Some(Node { id: self.node.to_string(), ..Node::default() });
            let first = DeltaDiscoveryRequest {
                node,
                type_url: kind.type_url().to_owned(),
                initial_resource_versions: state.versions(kind),
                resource_names_subscribe: if kind == Kind::Workload { names(asked) } else { Vec::new() },
                ..DeltaDiscoveryRequest::default()
            };
            sender.send(first).await.map_err(|error| error.to_string())?;
        }
        let channel = self.port.channel(self.identity.identity());
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let answer = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await;
        let stream = answer.map_err(|status| said(&status))?.into_inner();
        self.port.set_line(channel);
        Ok((sender, stream))
    }

    /// Takes a response and gives its ACK or NACK.
    fn apply(&self, state: &mut State, response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let refused = match state.apply(response) {
            Ok(applied) => applied.refused,
            Err(error) => return nack(response, error.to_string()),
        };
        if refused.is_empty() {
            return ack(response);
        }
        for error in &refused {
            self.metrics.own.rejected_resources.inc();
            tracing::error!(reason = error.reason(), %error, "a resource of the control plane is refused");
        }
        nack(response, refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    /// Bundles first: nobody may be called by a snapshot whose roots are not known yet.
    fn publish(&self, snapshot: Snapshot) {
        let held = self.bundles.snapshot();
        for gone in held.trust_domains().filter(|domain| !snapshot.bundles.contains_key(*domain)) {
            self.bundles.remove(gone);
        }
        for bundle in snapshot.bundles.values() {
            let set = X509Bundle::from_der(bundle.trust_domain.clone(), &bundle.authorities)
                .map_err(|error| (error.reason(), error.to_string()))
                .and_then(|roots| self.bundles.set(roots).map_err(|error| (error.reason(), error.to_string())));
            if let Err((reason, error)) = set {
                tracing::error!(trust_domain = %bundle.trust_domain, reason, error, "a bundle cannot be used");
            }
        }
        let (generation, workloads) = (snapshot.generation, snapshot.roster.workload_count());
        tracing::info!(generation, workloads, policies = snapshot.authorizations.len(), "state of the control plane");
        self.current.set(Arc::new(snapshot));
    }
}

/// What nobody asks for is not kept up to date.
fn forget_unasked(state: &mut State, asked: &HashSet<IpAddr>) {
    let less: Vec<IpAddr> = state.answered().difference(asked).copied().collect();
    state.give_up(&less);
}

/// Names of a subscription to addresses.
fn names<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> Vec<String> {
    addresses.into_iter().map(ToString::to_string).collect()
}

/// gRPC's code with its message, and nothing of the layers below.
fn said(status: &tonic::Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn nack(response: &DeltaDiscoveryResponse, message: String) -> DeltaDiscoveryRequest {
    let error_detail = Some(Status { code: INVALID_ARGUMENT, message, details: Vec::new() });
    DeltaDiscoveryRequest { error_detail, ..ack(response) }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}
