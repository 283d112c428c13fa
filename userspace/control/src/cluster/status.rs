//! Conditions and Events: what the leader writes into the cluster.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_manifests::{Held, Object, ObjectKey, ObjectKind};
use culvert_wire::{Kind, Resource};
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{
    acks::Acks,
    verdict::{self, Enrolled, Nodes, Said},
};
use crate::{
    api::{Api, ApiError, Body},
    audit::rfc3339,
    index::{Published, Snapshot},
    server::NodeBook,
    source::kube::{Record, Records},
};

/// How often everything is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Writes per look: a change of many policies does not drown the API server.
const WRITES: usize = 20;
/// What was written and is not shown by the watch after so long has been overwritten.
const SHOWN: Duration = Duration::from_secs(10);
/// A pod that is not captured for so long is worth an Event.
const UNCAPTURED: Duration = Duration::from_secs(15);

/// What conditions depend on.
type Seen = (Arc<Snapshot>, Arc<Records>, BTreeMap<String, String>);

/// Writes, while this process leads.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) api: Api,
    pub(super) published: watch::Receiver<Published>,
    pub(super) records: watch::Receiver<Arc<Records>>,
    pub(super) nodes: Arc<NodeBook>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) reporter: String,
    acks: Acks,
    /// What everything has been said of.
    done: Option<Seen>,
    /// What has been written, until the watch shows it.
    written: HashMap<ObjectKey, (Instant, Value)>,
    /// Events that have been sent.
    sent: BTreeSet<String>,
    uncaptured: BTreeMap<(String, String), Instant>,
}

impl Writer {
    pub(super) fn new(
        api: Api,
        published: watch::Receiver<Published>,
        records: watch::Receiver<Arc<Records>>,
        nodes: Arc<NodeBook>,
        leads: watch::Receiver<bool>,
        acks: Acks,
        reporter: String,
    ) -> Self {
        Self {
            api,
            published,
            records,
            nodes,
            leads,
            reporter,
            acks,
            done: None,
            written: HashMap::new(),
            sent: BTreeSet::new(),
            uncaptured: BTreeMap::new(),
        }
    }

    /// Looks for ever.
    pub(super) async fn run(mut self) {
        loop {
            let published = self.published.borrow().clone();
            self.acks.observe(&published.snapshot);
            // By everybody: the leader cannot see the agents of others.
            if let Err(error) = self.acks.share(&self.nodes, SystemTime::now()).await {
                tracing::warn!(reason = error.reason(), %error, "what nodes enforce cannot be shared");
            }
            if *self.leads.borrow()
                && let Err(error) = self.round(&published).await
            {
                tracing::warn!(reason = error.reason(), %error, "conditions and Events cannot be written");
            }
            time::sleep(LOOK).await;
        }
    }

    async fn round(&mut self, published: &Published) -> Result<(), ApiError> {
        let records = Arc::clone(&self.records.borrow());
        self.written.retain(|key, (at, status)| {
            at.elapsed() < SHOWN && records.get(key).is_some_and(|record| !shows(&record.status, status))
        });
        let nodes = self.acks.nodes(&self.nodes);
        let now = Some((Arc::clone(&published.snapshot), Arc::clone(&records), nodes.clone()));
        if is_same(&self.done, &now) && self.written.is_empty() {
            return self.pods(published).await;
        }
        self.done = None;
        let enrolled = Enrolled::of(&published.state);
        let mut writes = 0;
        for (key, record) in records.iter() {
            let said = self.say(published, &enrolled, record, &nodes);
            let before = self.written.get(key).map_or(&record.status, |(_, status)| status);
            let moment = rfc3339(SystemTime::now());
            let Some(status) = verdict::status(&said, before, record.generation, &moment) else {
                continue;
            };
            if writes == WRITES {
                break;
            }
            writes += 1;
            self.event(key, record, &said).await?;
            match self.write(key, record, &status).await {
                Ok(()) => drop(self.written.insert(key.clone(), (Instant::now(), status))),
                Err(error) if error.is(404) || error.is(409) => {}
                Err(error) => return Err(error),
            }
        }
        if writes == 0 {
            self.done = now;
        }
        self.pods(published).await
    }

    fn say(
        &self,
        published: &Published,
        enrolled: &Enrolled<'_>,
        record: &Record,
        digests: &BTreeMap<String, String>,
    ) -> Said {
        let nodes_of = |held| self.nodes_of(held, published, enrolled, digests);
        let nodes = record.held.as_ref().map(nodes_of).unwrap_or_default();
        verdict::judge(record.held.as_ref(), &record.errors, &nodes, &published.state)
    }

    fn nodes_of(
        &self,
        held: &Held,
        published: &Published,
        enrolled: &Enrolled<'_>,
        digests: &BTreeMap<String, String>,
    ) -> Nodes {
        let Some((name, selector)) = verdict::selector(&held.object) else {
            return Nodes::default();
        };
        let concerned = enrolled.nodes(&name.namespace, selector);
        let Some((kind, name, version)) = told(held, &published.snapshot) else {
            return Nodes { concerned, enforcing: BTreeSet::new() };
        };
        let enforces =
            |node: &&String| digests.get(*node).is_some_and(|digest| self.acks.has(digest, kind, &name, &version));
        let enforcing = concerned.iter().filter(enforces).cloned().collect();
        Nodes { concerned, enforcing }
    }

    async fn write(&self, key: &ObjectKey, record: &Record, status: &Value) -> Result<(), ApiError> {
        let plural = match key.kind {
            ObjectKind::AuthorizationPolicy => "authorizationpolicies",
            ObjectKind::PeerAuthentication => "peerauthentications",
            _ => "requestauthentications",
        };
        let (version, namespace, name) = (&record.api_version, &key.namespace, &key.name);
        let path = format!("/apis/{version}/namespaces/{namespace}/{plural}/{name}/status");
        // Of this object and of no other one that has its name meanwhile.
        let patch = json!({"metadata": {"uid": record.uid}, "status": status});
        self.api.send(Method::PATCH, &path, Body::Merge, &patch).await.map(drop)
    }

    /// An Event for what its author has to know: refused, or not as it is written.
    async fn event(&mut self, key: &ObjectKey, record: &Record, said: &Said) -> Result<(), ApiError> {
        let refused =
            said.conditions.iter().find(|condition| condition.kind == "Accepted" && condition.status != "True");
        let inexact =
            said.conditions.iter().find(|condition| !said.ineffective.is_empty() && condition.kind == "Enforced");
        let Some((reason, condition)) = refused
            .map(|condition| ("Refused", condition))
            .or(inexact.map(|condition| ("IneffectiveRules", condition)))
        else {
            return Ok(());
        };
        let object = json!({"apiVersion": record.api_version, "kind": key.kind.as_str(), "namespace": key.namespace,
            "name": key.name, "uid": record.uid});
        self.send_event(&object, reason, &condition.message, &format!("{} {}", record.uid, record.generation)).await
    }

    /// Enrolled pods whose traffic the kernel does not steer, as their agents report it.
    async fn pods(&mut self, published: &Published) -> Result<(), ApiError> {
        let mut now = BTreeMap::new();
        let mut events = Vec::new();
        // What was reported here before its agent went to another control plane is of the past.
        for entry in self.nodes.all().values().filter(|entry| entry.streams > 0) {
            let Some((_, report)) = &entry.report else { continue };
            for pod in report.pods.iter().filter(|pod| !pod.captured) {
                let key = (pod.uid.to_string(), pod.reason.to_string());
                let since = *self.uncaptured.get(&key).unwrap_or(&Instant::now());
                if let (true, Some(known)) = (since.elapsed() >= UNCAPTURED, published.state.workloads.get(&pod.uid)) {
                    let object = json!({"apiVersion": "v1", "kind": "Pod", "namespace": *known.namespace,
                        "name": *known.name, "uid": pod.uid.as_str()});
                    events.push((object, format!("the pod is not in the mesh: {}", pod.reason), key.clone()));
                }
                now.insert(key, since);
            }
        }
        self.uncaptured = now;
        for (object, message, (uid, reason)) in events.into_iter().take(WRITES) {
            self.send_event(&object, "NotCaptured", &message, &format!("{uid} {reason}")).await?;
        }
        Ok(())
    }

    /// `once`: what makes it another Event than the ones before; told once by any control plane.
    async fn send_event(&mut self, object: &Value, reason: &str, message: &str, once: &str) -> Result<(), ApiError> {
        let digest = hex::encode(&Sha256::digest(format!("{reason} {once}"))[..8]);
        let name = format!("{}.{digest}", object["name"].as_str().unwrap_or_default());
        if !self.sent.insert(name.clone()) {
            return Ok(());
        }
        let namespace = object["namespace"].as_str().unwrap_or("default");
        let now = rfc3339(SystemTime::now());
        let mut message = message.to_owned();
        message.truncate(message.floor_char_boundary(1000));
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace},
            "involvedObject": object, "reason": reason, "message": message, "type": "Warning", "count": 1,
            "source": {"component": "culvert-control"}, "reportingComponent": "culvert.dev/control",
            "reportingInstance": self.reporter, "firstTimestamp": now, "lastTimestamp": now});
        match self.api.send(Method::POST, &format!("/api/v1/namespaces/{namespace}/events"), Body::Whole, &event).await
        {
            Ok(_) => Ok(()),
            // Told already, or the namespace is on its way out.
            Err(error) if error.is(409) || error.is(403) || error.is(404) => Ok(()),
            Err(error) => {
                self.sent.remove(&name);
                Err(error)
            }
        }
    }
}

/// Does a status say what was written.
fn shows(status: &Value, written: &Value) -> bool {
    let fields = ["conditions", "observedGeneration", "ineffectiveRules"];
    fields.iter().all(|field| status[field] == written[field])
}

/// What agents have been told of exactly this; `None`: nothing yet.
fn told(held: &Held, snapshot: &Snapshot) -> Option<(Kind, String, String)> {
    let resource = match &held.object {
        Object::AuthorizationPolicy(policy) => Resource::AuthorizationPolicy(policy.clone()),
        Object::PeerAuthentication(policy) => Resource::PeerAuthentication(policy.clone()),
        _ => return None,
    };
    let (kind, name) = (resource.kind(), resource.name());
    let table = snapshot.table(kind);
    let entry = table.get(&*name).filter(|entry| entry.body == resource.encode())?;
    Some((kind, name, entry.version.clone()))
}

fn is_same(before: &Option<Seen>, now: &Option<Seen>) -> bool {
    match (before, now) {
        (Some(a), Some(b)) => Arc::ptr_eq(&a.0, &b.0) && Arc::ptr_eq(&a.1, &b.1) && a.2 == b.2,
        _ => false,
    }
}
