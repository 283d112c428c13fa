//! Delta xDS: one task per stream drives a [`Session`].

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_wire::{
    Kind, SYNCED_NAME,
    proto::discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, aggregated_discovery_service_server::AggregatedDiscoveryService,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Context,
    caller::{Claim, Node},
    session::{Session, Step},
};
use crate::{audit::Event, index::Published, metrics::Type};

/// A client that answers nothing for so long is cut off.
const ANSWER: Duration = Duration::from_secs(30);
/// How often the wall clock is compared with the end of the caller's certificate.
const LOOK: Duration = Duration::from_secs(5);
/// Responses that wait for a slow client.
const QUEUE: usize = 16;

/// The service.
#[derive(Debug)]
pub(super) struct Discovery(pub(super) Arc<Context>);

type Outgoing = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let node = self.0.node(Claim::of(&request), "stream").await?;
        self.0.audit.write(&Event { granted: true, ..node.event("stream") });
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut published = self.0.published.clone();
        let session = {
            let snapshot = Arc::clone(&published.borrow_and_update().snapshot);
            Session::new(snapshot, &node.name, self.0.whole_up_to)
        };
        let stream = Stream { context: Arc::clone(&self.0), node, session, published, sender, waiting_since: None };
        tokio::spawn(stream.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Stream {
    context: Arc<Context>,
    node: Node,
    session: Session,
    published: watch::Receiver<Published>,
    sender: Outgoing,
    /// Since when an answer is waited for.
    waiting_since: Option<Instant>,
}

/// Why a stream ended.
enum End {
    /// The client went away.
    Gone,
    /// We end it.
    Refused(Code, &'static str, String),
}

impl Stream {
    async fn run(mut self, incoming: Streaming<DeltaDiscoveryRequest>) {
        self.context.metrics.streams.inc();
        self.context.nodes.update(&self.node.name, |entry| entry.streams += 1);
        let end = self.serve(incoming).await;
        self.context.nodes.update(&self.node.name, |entry| entry.streams -= 1);
        self.context.metrics.streams.dec();
        if let End::Refused(code, reason, text) = end {
            let status = self.context.refuse(self.node.event("stream"), code, reason, &text);
            // The queue may be full of what the client does not read; then it sees the end only.
            let _ = self.sender.try_send(Err(status));
        }
    }

    async fn serve(&mut self, mut incoming: Streaming<DeltaDiscoveryRequest>) -> End {
        let mut look = time::interval(LOOK);
        loop {
            tokio::select! {
                biased;
                _ = look.tick() => if let Some(end) = self.overdue() { return end },
                () = self.sender.closed() => return End::Gone,
                message = incoming.message() => match message {
                    Ok(Some(request)) => if let Err(end) = self.request(&request).await { return end },
                    Err(status) if status.code() == Code::OutOfRange => {
                        return End::Refused(Code::OutOfRange, "request_too_large", status.message().to_owned());
                    }
                    Ok(None) | Err(_) => return End::Gone,
                },
                changed = self.published.changed(), if self.session.idle() => {
                    if changed.is_err() {
                        return End::Gone;
                    }
                    let snapshot = Arc::clone(&self.published.borrow_and_update().snapshot);
                    let responses = self.session.advance(snapshot);
                    if responses.is_empty() && self.session.complete() {
                        // Nothing in it concerns the node: it is as good as answered.
                        let generation = self.session.generation();
                        self.context.nodes.update(&self.node.name, |entry| entry.answered_generation = generation);
                    }
                    if let Err(end) = self.send(responses).await { return end }
                }
            }
        }
    }

    /// Nothing is served past the end of the certificate that the stream was opened with.
    fn overdue(&self) -> Option<End> {
        if SystemTime::now() > self.node.not_after {
            let text = "the node certificate that opened this stream has ended".to_owned();
            return Some(End::Refused(Code::Unauthenticated, "node_certificate_expired", text));
        }
        if let Some(refusal) = self.context.away(&self.node) {
            return Some(End::Refused(Code::Unauthenticated, refusal.reason(), refusal.to_string()));
        }
        if self.waiting_since.is_some_and(|since| since.elapsed() >= ANSWER) {
            let text = "a response was not answered within 30 s".to_owned();
            return Some(End::Refused(Code::DeadlineExceeded, "no_answer", text));
        }
        None
    }

    async fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<(), End> {
        let step = self.session.request(request);
        let step = step.map_err(|error| End::Refused(Code::InvalidArgument, error.reason(), error.to_string()))?;
        match step {
            Step::Send(responses) => return self.send(responses).await,
            Step::Taken(kind) => self.answered(kind, None),
            Step::Refused(kind, why) => {
                tracing::warn!(node = self.node.name, r#type = kind.label(), why, "an agent refused resources");
                self.context.metrics.nacks.get_or_create(&Type { r#type: kind.label() }).inc();
                self.answered(kind, Some(why));
            }
            Step::Stale => {}
        }
        Ok(())
    }

    fn answered(&mut self, kind: Kind, refused: Option<String>) {
        self.waiting_since = (!self.session.idle()).then(Instant::now);
        let generation = (self.session.idle() && self.session.complete()).then(|| self.session.generation());
        self.context.nodes.update(&self.node.name, |entry| {
            entry.answered_generation = generation.unwrap_or(entry.answered_generation);
            match refused {
                Some(why) => drop(entry.refused.insert(kind, why)),
                None => drop(entry.refused.remove(&kind)),
            }
        });
    }

    async fn send(&mut self, responses: Vec<DeltaDiscoveryResponse>) -> Result<(), End> {
        for response in responses {
            if let Some(kind) = Kind::of_type_url(&response.type_url) {
                let label = Type { r#type: kind.label() };
                self.context.metrics.responses.get_or_create(&label).inc();
                let resources = response.resources.iter().filter(|resource| resource.name != SYNCED_NAME).count();
                self.context.metrics.sent.get_or_create(&label).inc_by(resources as u64);
            }
            match time::timeout(ANSWER, self.sender.send(Ok(response))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(End::Gone),
                Err(_) => {
                    let text = "the client reads nothing".to_owned();
                    return Err(End::Refused(Code::DeadlineExceeded, "slow_reader", text));
                }
            }
        }
        if !self.session.idle() && self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
        }
        Ok(())
    }
}
