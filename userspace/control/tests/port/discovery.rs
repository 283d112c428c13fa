//! Delta xDS: first states, changes, coming back.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use culvert_wire::{
    Kind, Resource, SYNCED_NAME,
    proto::discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status as Detail,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    resource::read_synced,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    client::Caller,
    plane::{Plane, pod},
};

/// A client that follows the rule of the marker.
pub(crate) struct Watcher {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    pub(crate) held: BTreeMap<(Kind, String), (String, Resource)>,
    /// Resources sent since the last complete state, by type and name, and names taken away.
    pub(crate) sent: Vec<String>,
    pub(crate) removed: Vec<String>,
}

impl Watcher {
    pub(crate) async fn open(caller: &Caller) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(64);
        let mut client = AggregatedDiscoveryServiceClient::new(caller.channel());
        let responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses, held: BTreeMap::new(), sent: Vec::new(), removed: Vec::new() })
    }

    pub(crate) async fn subscribe(&self, kind: Kind) {
        let versions: HashMap<String, String> = self
            .held
            .iter()
            .filter(|((held, _), _)| *held == kind)
            .map(|((_, name), (version, _))| (name.clone(), version.clone()))
            .collect();
        let request = DeltaDiscoveryRequest {
            // A lie that nobody must believe.
            node: Some(Node { id: "n2".to_owned(), ..Default::default() }),
            type_url: kind.type_url().to_owned(),
            initial_resource_versions: versions,
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn receive(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let message = timeout(Duration::from_secs(20), self.responses.message()).await.expect("a response in time")?;
        message.ok_or_else(|| Status::cancelled("the stream ended"))
    }

    pub(crate) async fn answer(&self, response: &DeltaDiscoveryResponse, refused: Option<&str>) {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: refused.map(|text| Detail { code: 3, message: text.to_owned(), details: vec![] }),
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn first_state(&mut self) -> u64 {
        for kind in Kind::ALL {
            self.subscribe(kind).await;
        }
        self.next_state().await
    }

    /// Takes responses until all types are at the same generation.
    pub(crate) async fn next_state(&mut self) -> u64 {
        let (mut markers, _) = (BTreeMap::new(), (self.sent.clear(), self.removed.clear()));
        loop {
            let response = self.receive().await.unwrap();
            if let Some((kind, generation)) = self.take(&response) {
                markers.insert(kind, generation);
            }
            self.answer(&response, None).await;
            let newest = markers.values().copied().max().unwrap_or_default();
            if markers.len() == Kind::ALL.len() && markers.values().all(|generation| *generation == newest) {
                return newest;
            }
        }
    }

    fn take(&mut self, response: &DeltaDiscoveryResponse) -> Option<(Kind, u64)> {
        let kind = Kind::of_type_url(&response.type_url).unwrap();
        let mut marker = None;
        for name in &response.removed_resources {
            assert!(self.held.remove(&(kind, name.clone())).is_some(), "{name} was not held");
            self.removed.push(name.clone());
        }
        for resource in &response.resources {
            assert!(marker.is_none(), "nothing comes after the marker");
            if resource.name == SYNCED_NAME {
                marker = Some((kind, read_synced(resource.resource.as_ref()).unwrap().generation));
            } else {
                let read = Resource::decode(kind, &resource.name, resource.resource.as_ref()).unwrap();
                self.held.insert((kind, resource.name.clone()), (resource.version.clone(), read));
                self.sent.push(resource.name.clone());
            }
        }
        marker
    }

    pub(crate) fn get(&self, kind: Kind, name: &str) -> Option<&Resource> {
        self.held.get(&(kind, name.to_owned())).map(|(_, resource)| resource)
    }

    /// How the stream ends.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            match self.responses.message().await {
                Err(status) => return status,
                Ok(None) => return Status::ok("ended"),
                Ok(Some(response)) => self.answer(&response, None).await,
            }
        }
    }
}

const POLICY: &str = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, action: DENY, rules: [{from: [{source: {namespaces: [bad]}}]}]}
";

#[tokio::test]
async fn an_agent_is_told_everything_then_only_what_changes() {
    let plane = Plane::start(&format!("{}{}", pod("web", "n1"), pod("api", "n2")));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    let first = watcher.first_state().await;
    assert!(matches!(watcher.get(Kind::Mesh, "mesh"), Some(Resource::Mesh(mesh)) if mesh.cluster_ranges.len() == 2));
    assert!(
        matches!(watcher.get(Kind::Bundle, "cluster.local"), Some(Resource::Bundle(b)) if b.authorities.len() == 1)
    );
    let Some(Resource::Workload(web)) = watcher.get(Kind::Workload, "uid-web") else { panic!() };
    assert_eq!((&*web.node, &*web.service_account), ("n1", "web"));
    assert!(watcher.get(Kind::Workload, "uid-api").is_some());

    let before = std::time::Instant::now();
    plane.put("policy.yaml", POLICY);
    assert_eq!(watcher.next_state().await, first + 1);
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(watcher.sent, ["shop/p"], "the policy and nothing else");

    plane.put("a.yaml", &pod("web", "n1"));
    assert_eq!(watcher.next_state().await, first + 2);
    assert_eq!((watcher.sent.len(), watcher.removed.as_slice()), (0, ["uid-api".to_owned()].as_slice()));
}

#[tokio::test]
async fn an_agent_that_comes_back_is_sent_only_what_it_lacks() {
    let mut plane = Plane::start(&format!("{}{}", pod("web", "n1"), pod("api", "n2")));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    let first = watcher.first_state().await;
    let held = watcher.held;
    let mut back = Watcher { held: held.clone(), ..Watcher::open(&node).await.unwrap() };
    assert_eq!(back.first_state().await, first);
    assert!(back.sent.is_empty() && back.removed.is_empty());

    plane.kill();
    plane.put("a.yaml", &format!("{}{}", pod("web", "n1"), pod("new", "n2")));
    plane.run();
    let node = Caller::node(&plane, "n1").await;
    let mut back = Watcher { held, ..Watcher::open(&node).await.unwrap() };
    assert!(back.first_state().await > first, "generations go on after a restart");
    assert_eq!(
        (back.sent.as_slice(), back.removed.as_slice()),
        (["uid-new".to_owned()].as_slice(), ["uid-api".to_owned()].as_slice())
    );
}

#[tokio::test]
async fn an_agent_that_knows_very_much_is_served_all_the_same() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let (requests, receiver) = mpsc::channel(64);
    let mut client = AggregatedDiscoveryServiceClient::new(node.channel()).max_decoding_message_size(64 << 20);
    let known = (0..30_000).map(|at| (format!("shop/{at:0>240}"), "0".repeat(64)));
    let first = DeltaDiscoveryRequest {
        type_url: Kind::AuthorizationPolicy.type_url().to_owned(),
        initial_resource_versions: known.collect(),
        ..Default::default()
    };
    requests.send(first).await.unwrap();
    let answered = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap();
    let response = timeout(Duration::from_secs(20), answered.into_inner().message()).await.unwrap().unwrap().unwrap();
    assert_eq!(response.removed_resources.len(), 30_000, "all of it is gone");
}

#[tokio::test]
async fn a_state_that_is_not_answered_holds_back_the_next_one() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    watcher.subscribe(Kind::Workload).await;
    watcher.subscribe(Kind::Service).await;
    let workloads = watcher.receive().await.unwrap();
    let services = watcher.receive().await.unwrap();
    watcher.answer(&services, None).await;
    plane.put("b.yaml", &pod("api", "n1"));
    let early = timeout(Duration::from_secs(1), watcher.responses.message()).await;
    assert!(early.is_err(), "nothing new before the first state is answered");
    watcher.answer(&workloads, Some("uid-web: no")).await;
    let (next, last) = (watcher.receive().await.unwrap(), watcher.receive().await.unwrap());
    let names: Vec<&str> = next.resources.iter().chain(&last.resources).map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["uid-api", SYNCED_NAME, SYNCED_NAME], "a refused version is not sent again");
    let refused = super::files::admin(&plane, "/status").await;
    let refused: serde_json::Value = serde_json::from_str(&refused).unwrap();
    assert_eq!(refused["nodes"]["n1"]["refused"]["workload"], "uid-web: no");
}

#[tokio::test]
async fn what_nobody_serves_ends_the_stream_with_a_reason() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    let request = DeltaDiscoveryRequest { type_url: "type.googleapis.com/x".to_owned(), ..Default::default() };
    watcher.requests.send(request).await.unwrap();
    let ended = watcher.end().await;
    assert_eq!(super::client::word(&ended).1, "unknown_type");
    assert_eq!(plane.audited("stream", "unknown_type")["node"], "n1");
}

/// A client that takes responses and answers none is cut off, so that it cannot pass for one that is served.
#[tokio::test]
async fn a_client_that_answers_nothing_is_cut_off() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    let mut watcher = Watcher::open(&node).await.unwrap();
    let begun = std::time::Instant::now();
    watcher.subscribe(Kind::Workload).await;
    watcher.receive().await.expect("the first response");
    let ended = timeout(Duration::from_secs(50), watcher.responses.message()).await.expect("it goes on");
    let status = ended.expect_err("cut off, with its reason");
    assert_eq!(super::client::word(&status), (tonic::Code::DeadlineExceeded, "no_answer".to_owned()));
    let took = begun.elapsed();
    assert!((29..45).contains(&took.as_secs()), "after {took:?}");
    plane.audited("stream", "no_answer");
    // One that answers stays.
    let mut good = Watcher::open(&node).await.unwrap();
    good.first_state().await;
}
