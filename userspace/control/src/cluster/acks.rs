//! Which nodes enforce which policies, also those whose agents call another control plane.
//!
//! Generations of two control planes cannot be compared, what they stand for can: the policies with their versions. So a
//! control plane writes down, for each of its nodes, the digest of the policies that the node enforces, in an entry of its
//! own in one ConfigMap; the leader knows which policies a digest stands for, since it has seen them itself.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_wire::Kind;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::{
    api::{Api, ApiError, Body},
    index::{Snapshot, Table},
    server::NodeBook,
};

/// The ConfigMap.
const NAME: &str = "culvert-nodes";
/// States that are remembered; a node that is further behind counts as one that enforces nothing.
const REMEMBERED: usize = 64;
/// How often nodes are written down and read.
const PERIOD: Duration = Duration::from_secs(5);
/// What a control plane wrote counts for so long.
const GOOD_FOR: Duration = Duration::from_secs(30);

/// What nodes enforce.
#[derive(Debug)]
pub(super) struct Acks {
    api: Api,
    namespace: String,
    me: String,
    states: VecDeque<Policies>,
    /// By node: the digest that it enforces, as other control planes wrote it down.
    elsewhere: BTreeMap<String, String>,
    last: Option<Instant>,
    /// What was written down last, and when.
    written: Option<(Instant, BTreeMap<String, String>)>,
}

/// All policies at one time.
#[derive(Debug, Clone)]
struct Policies {
    /// The first generation that had them.
    generation: u64,
    digest: String,
    tables: [Arc<Table>; 2],
}

/// What one control plane writes down.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Written {
    /// Seconds since the epoch.
    at: u64,
    nodes: BTreeMap<String, String>,
}

const KINDS: [Kind; 2] = [Kind::AuthorizationPolicy, Kind::PeerAuthentication];

impl Acks {
    pub(super) fn new(api: Api, namespace: &str, me: String) -> Self {
        let (namespace, states) = (namespace.to_owned(), VecDeque::new());
        Self { api, namespace, me, states, elsewhere: BTreeMap::new(), last: None, written: None }
    }

    /// Remembers what agents are told now.
    pub(super) fn observe(&mut self, snapshot: &Snapshot) {
        let tables = KINDS.map(|kind| snapshot.table(kind));
        let same = |last: &Policies| last.tables.iter().zip(&tables).all(|(a, b)| Arc::ptr_eq(a, b));
        if self.states.back().is_some_and(same) {
            return;
        }
        let digest = digest(&tables);
        if self.states.back().is_some_and(|last| last.digest == digest) {
            return;
        }
        self.states.push_back(Policies { generation: snapshot.generation, digest, tables });
        if self.states.len() > REMEMBERED {
            self.states.pop_front();
        }
    }

    /// The digest that each node enforces: those that report here, and those that report elsewhere.
    pub(super) fn nodes(&self, book: &NodeBook) -> BTreeMap<String, String> {
        let mut nodes = self.elsewhere.clone();
        nodes.extend(self.own(book));
        nodes
    }

    /// Does whoever enforces this digest enforce a policy in this version.
    pub(super) fn has(&self, digest: &str, kind: Kind, name: &str, version: &str) -> bool {
        let state = self.states.iter().rev().find(|state| state.digest == digest);
        let table = KINDS.iter().position(|known| *known == kind).zip(state).map(|(index, state)| &state.tables[index]);
        table.and_then(|table| table.get(name)).is_some_and(|entry| entry.version == version)
    }

    fn own(&self, book: &NodeBook) -> BTreeMap<String, String> {
        // An agent that calls another control plane now reports there: what it said here last is of the past.
        let here = book.all().into_iter().filter(|(_, entry)| entry.streams > 0);
        let reported = here.filter_map(|(node, entry)| Some((node, entry.report?.1)));
        let enforced = reported.filter_map(|(node, report)| {
            let state = self.states.iter().rev().find(|state| state.generation <= report.enforced_generation)?;
            Some((node, state.digest.clone()))
        });
        enforced.collect()
    }

    /// Writes down what is known here, and reads what is known elsewhere, now and then.
    pub(super) async fn share(&mut self, book: &NodeBook, now: SystemTime) -> Result<(), ApiError> {
        if self.last.is_some_and(|last| last.elapsed() < PERIOD) {
            return Ok(());
        }
        self.last = Some(Instant::now());
        let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let own = Written { at, nodes: self.own(book) };
        let all = format!("/api/v1/namespaces/{}/configmaps", self.namespace);
        let path = format!("{all}/{NAME}");
        let held = match self.api.get(&path).await {
            Ok(map) => map,
            Err(error) if error.is(404) => {
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME,
                    "namespace": self.namespace, "labels": {"app.kubernetes.io/part-of": "culvert"}}});
                self.api.send(Method::POST, &all, Body::Whole, &map).await?
            }
            Err(error) => return Err(error),
        };
        let (elsewhere, gone) = read(&held["data"], &self.me, at);
        self.elsewhere = elsewhere;
        let fresh = |(at, nodes): &(Instant, _)| at.elapsed() < GOOD_FOR / 2 && *nodes == own.nodes;
        if gone.is_empty() && self.written.as_ref().is_some_and(fresh) {
            return Ok(());
        }
        // Entries of control planes that are no more are taken away by null.
        let mut data: BTreeMap<String, Value> = gone.into_iter().map(|name| (name, Value::Null)).collect();
        data.insert(self.me.clone(), serde_json::to_string(&own).unwrap_or_default().into());
        self.api.send(Method::PATCH, &path, Body::Merge, &json!({"data": data})).await?;
        self.written = Some((Instant::now(), own.nodes));
        Ok(())
    }
}

/// What others have written lately, the newest where two have written of one node; and whose entries are old.
fn read(data: &Value, me: &str, now: u64) -> (BTreeMap<String, String>, Vec<String>) {
    let (mut written, mut gone) = (Vec::new(), Vec::new());
    for (name, text) in data.as_object().into_iter().flatten().filter(|(name, _)| *name != me) {
        let entry: Option<Written> = text.as_str().and_then(|text| serde_json::from_str(text).ok());
        match entry.filter(|entry| now.abs_diff(entry.at) < GOOD_FOR.as_secs()) {
            Some(entry) => written.push(entry),
            None => gone.push(name.clone()),
        }
    }
    written.sort_by_key(|entry| entry.at);
    (written.into_iter().flat_map(|entry| entry.nodes).collect(), gone)
}

fn digest(tables: &[Arc<Table>; 2]) -> String {
    let mut digest = Sha256::new();
    for table in tables {
        for (name, entry) in table.iter() {
            digest.update(name.as_bytes());
            digest.update([0]);
            digest.update(entry.version.as_bytes());
            digest.update([0]);
        }
        digest.update([1]);
    }
    hex::encode(&digest.finalize()[..12])
}

#[cfg(test)]
mod tests;
