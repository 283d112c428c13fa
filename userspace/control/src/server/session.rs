//! One discovery stream as a state machine: requests in, responses out. It knows no socket and no clock.
//!
//! The stream is always at exactly one snapshot. A type is answered from it; when every response has been answered,
//! the stream moves to the newest snapshot, and every subscribed type gets what changed and the marker.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use culvert_wire::{
    Kind, SYNCED_NAME,
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    resource::{Marker, synced},
};

use super::scope::{Part, Scope};
use crate::index::{Entry, Snapshot, Table};

/// Responses end after the resource that brings them over this size, in bytes.
const RESPONSE_SIZE: usize = 1 << 20;
/// Most addresses that one node may ask for: several times what its agent ever does.
const MOST_ADDRESSES: usize = 1 << 14;
/// Longest text of a refusal that is kept.
const LONGEST_REFUSAL: usize = 500;

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Session {
    snapshot: Arc<Snapshot>,
    scope: Scope,
    /// Workloads up to which every node is sent all of them.
    limit: usize,
    /// The node's part of the snapshot; none while it is sent everything.
    part: Option<Part>,
    subscribed: BTreeSet<Kind>,
    /// Generation of the markers that all subscribed types were sent last: the stream moves on without a word over what
    /// does not concern its node.
    told: u64,
    /// Nonces of responses that have not been answered.
    outstanding: BTreeMap<String, Kind>,
    nonces: u64,
}

/// What a client holds.
enum Held<'h> {
    /// By its own account.
    Told(&'h HashMap<String, String>),
    /// Because it was sent. Where it is known what has changed, only that is looked at.
    Sent(Arc<Table>, Option<Vec<Arc<str>>>),
}

/// What a request led to.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A type is subscribed to: its state is to be sent.
    Send(Vec<DeltaDiscoveryResponse>),
    /// A response was taken.
    Taken(Kind),
    /// A response, or a part of it, was refused.
    Refused(Kind, String),
    /// An answer to nothing that is waited for.
    Stale,
}

/// Why the stream cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionError {
    #[error("unknown type {0:?}")]
    UnknownType(String),
    #[error("only everything of a type, or addresses among workloads, can be subscribed to, not single names")]
    SingleNames,
    #[error("more than {MOST_ADDRESSES} addresses are asked for")]
    TooManyAddresses,
}

impl SessionError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::UnknownType(_) => "unknown_type",
            Self::SingleNames => "single_names",
            Self::TooManyAddresses => "too_many_addresses",
        }
    }
}

impl Session {
    /// A stream of this node. In a mesh of more than `limit` workloads it is sent its own part only.
    pub(super) fn new(snapshot: Arc<Snapshot>, node: &str, limit: usize) -> Self {
        let mut session = Self {
            told: snapshot.generation,
            snapshot,
            scope: Scope::new(node),
            limit,
            part: None,
            subscribed: BTreeSet::new(),
            outstanding: BTreeMap::new(),
            nonces: 0,
        };
        session.part = session.part_of(&session.snapshot);
        session
    }

    /// Takes one request.
    pub(super) fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Step, SessionError> {
        let kind = Kind::of_type_url(&request.type_url)
            .ok_or_else(|| SessionError::UnknownType(request.type_url.chars().take(100).collect()))?;
        let more = addresses(kind, &request.resource_names_subscribe)?;
        let less = addresses(kind, &request.resource_names_unsubscribe)?;
        if request.response_nonce.is_empty() {
            let asks = !(more.is_empty() && less.is_empty());
            let new = self.scope.ask(more, &less);
            if self.scope.wanted().len() > MOST_ADDRESSES {
                return Err(SessionError::TooManyAddresses);
            }
            if asks && self.subscribed.contains(&kind) {
                return Ok(Step::Send(self.widen(new)));
            }
            return Ok(Step::Send(self.subscribe(kind, request)));
        }
        if self.outstanding.remove(&request.response_nonce) != Some(kind) {
            return Ok(Step::Stale);
        }
        Ok(match &request.error_detail {
            None => Step::Taken(kind),
            Some(error) => Step::Refused(kind, error.message.chars().take(LONGEST_REFUSAL).collect()),
        })
    }

    /// Has everything been answered.
    pub(super) fn idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// The generation that the stream is at.
    pub(super) fn generation(&self) -> u64 {
        self.snapshot.generation
    }

    /// Has the client been sent all types.
    pub(super) fn complete(&self) -> bool {
        self.subscribed.len() == Kind::ALL.len()
    }

    /// Moves to a newer snapshot. Only when idle. Where nothing in it concerns the node there is nothing to send.
    pub(super) fn advance(&mut self, snapshot: Arc<Snapshot>) -> Vec<DeltaDiscoveryResponse> {
        if snapshot.generation == self.snapshot.generation || !self.idle() {
            return Vec::new();
        }
        let changed = snapshot.since(self.snapshot.generation);
        let partial = self.is_partial(&snapshot);
        let followed = match (&self.part, &changed) {
            // A client that has not subscribed to all types yet would be told different generations of them.
            (Some(_), Some(changed)) if partial && self.complete() && !self.scope.concerned(changed) => {
                self.snapshot = snapshot;
                return Vec::new();
            }
            (Some(part), Some(changed)) if partial && !changed.iter().any(|changes| changes.touched.ranges) => {
                Some(self.scope.follow(part, &snapshot, changed))
            }
            _ => self.part_of(&snapshot),
        };
        let before: Vec<_> = self.subscribed.iter().map(|kind| (*kind, self.table(*kind))).collect();
        let was_partial = self.part.is_some();
        self.part = followed;
        let whole = !was_partial && self.part.is_none();
        let names = |kind: Kind| {
            let known = changed.as_ref().filter(|_| whole || !is_scoped(kind))?;
            Some(known.iter().filter_map(|changes| changes.names.get(&kind)).flatten().cloned().collect())
        };
        let held: Vec<_> = before.into_iter().map(|(kind, table)| (kind, Held::Sent(table, names(kind)))).collect();
        self.snapshot = Arc::clone(&snapshot);
        self.told = snapshot.generation;
        held.iter().flat_map(|(kind, held)| self.state_of(*kind, held, Vec::new())).collect()
    }

    fn is_partial(&self, snapshot: &Snapshot) -> bool {
        // It takes fewer to go back, so that a mesh about as large as the limit does not swing.
        let limit = if self.part.is_some() { self.limit / 4 * 3 } else { self.limit };
        snapshot.state().workloads.len() > limit
    }

    fn part_of(&self, snapshot: &Snapshot) -> Option<Part> {
        self.is_partial(snapshot).then(|| self.scope.part(snapshot))
    }

    /// What the node is to hold of a type.
    fn table(&self, kind: Kind) -> Arc<Table> {
        match (&self.part, kind) {
            (Some(part), Kind::Workload) => Arc::clone(&part.workloads),
            (Some(part), Kind::Service) => Arc::clone(&part.services),
            _ => self.snapshot.table(kind),
        }
    }

    fn subscribe(&mut self, kind: Kind, request: &DeltaDiscoveryRequest) -> Vec<DeltaDiscoveryResponse> {
        if kind == Kind::Workload {
            self.part = self.part_of(&self.snapshot);
        }
        self.subscribed.insert(kind);
        // Whatever of this type was on its way belongs to a subscription that is over.
        self.outstanding.retain(|_, waiting| *waiting != kind);
        let answered = self.scope.wanted().iter().copied().collect();
        self.state_of(kind, &Held::Told(&request.initial_resource_versions), answered)
    }

    /// Other addresses are asked for: workloads first, so that the marker behind the services finds all of it there. The
    /// other types get markers as well where the stream has moved on without a word.
    fn widen(&mut self, new: BTreeSet<IpAddr>) -> Vec<DeltaDiscoveryResponse> {
        let behind = self.told != self.snapshot.generation;
        let others = Kind::ALL.into_iter().filter(|kind| behind && !is_scoped(*kind));
        let kinds = others.chain([Kind::Workload, Kind::Service]).filter(|kind| self.subscribed.contains(kind));
        let names = |kind: Kind| (!is_scoped(kind)).then(Vec::new);
        let before: Vec<_> = kinds.map(|kind| (kind, Held::Sent(self.table(kind), names(kind)))).collect();
        self.part = self.part_of(&self.snapshot);
        self.told = self.snapshot.generation;
        let answered: Vec<IpAddr> = new.into_iter().collect();
        before.iter().flat_map(|(kind, held)| self.state_of(*kind, held, answered.clone())).collect()
    }

    /// What brings a client that holds these versions to the state of the snapshot, the marker last.
    fn state_of(&mut self, kind: Kind, held: &Held<'_>, answered: Vec<IpAddr>) -> Vec<DeltaDiscoveryResponse> {
        let table = self.table(kind);
        let mut responses = vec![self.response(kind, held.gone(&table))];
        let mut size = 0;
        for (name, entry) in held.differing(&table) {
            if size > RESPONSE_SIZE {
                responses.push(self.response(kind, Vec::new()));
                size = 0;
            }
            size += entry.body.value.len() + 2 * name.len() + 200;
            if let Some(last) = responses.last_mut() {
                last.resources.push(resource(name, entry));
            }
        }
        if let Some(last) = responses.last_mut() {
            last.resources.push(self.marker(if kind == Kind::Service { answered } else { Vec::new() }));
        }
        responses
    }

    fn response(&mut self, kind: Kind, removed_resources: Vec<String>) -> DeltaDiscoveryResponse {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        self.outstanding.insert(nonce.clone(), kind);
        DeltaDiscoveryResponse {
            system_version_info: self.snapshot.generation.to_string(),
            resources: Vec::new(),
            type_url: kind.type_url().to_owned(),
            nonce,
            removed_resources,
        }
    }

    fn marker(&self, addresses: Vec<IpAddr>) -> Resource {
        let generation = self.snapshot.generation;
        Resource {
            name: SYNCED_NAME.to_owned(),
            version: generation.to_string(),
            resource: Some(synced(&Marker { generation, partial: self.part.is_some(), addresses })),
            aliases: Vec::new(),
        }
    }
}

fn is_scoped(kind: Kind) -> bool {
    matches!(kind, Kind::Workload | Kind::Service)
}

/// Names of a subscription: addresses of workloads and services, asked for with the workloads.
fn addresses(kind: Kind, names: &[String]) -> Result<BTreeSet<IpAddr>, SessionError> {
    let address = |name: &String| match name.parse::<IpAddr>() {
        Ok(address) if kind == Kind::Workload => Ok(address.to_canonical()),
        _ => Err(SessionError::SingleNames),
    };
    names.iter().filter(|name| *name != "*").map(address).collect()
}

impl Held<'_> {
    /// What is held and is not in the table.
    fn gone(&self, table: &Table) -> Vec<String> {
        let is_gone = |name: &str| name != SYNCED_NAME && !table.contains_key(name);
        match self {
            Self::Told(versions) => versions.keys().filter(|name| is_gone(name)).cloned().collect(),
            Self::Sent(sent, Some(changed)) => {
                let gone: BTreeSet<_> = changed.iter().filter(|n| sent.contains_key(*n) && is_gone(n)).collect();
                gone.into_iter().map(ToString::to_string).collect()
            }
            Self::Sent(sent, None) => sent.keys().filter(|name| is_gone(name)).map(ToString::to_string).collect(),
        }
    }

    /// What is in the table and is not held, or not in this version.
    fn differing<'t>(&self, table: &'t Table) -> Vec<(&'t Arc<str>, &'t Arc<Entry>)> {
        match self {
            Self::Sent(sent, Some(changed)) => {
                let changed: BTreeSet<&Arc<str>> = changed.iter().collect();
                let now = changed.into_iter().filter_map(|name| table.get_key_value(name));
                now.filter(|(name, entry)| !holds(sent, name, entry)).collect()
            }
            Self::Sent(sent, None) => table.iter().filter(|(name, entry)| !holds(sent, name, entry)).collect(),
            Self::Told(versions) => {
                table.iter().filter(|(name, entry)| versions.get(&***name) != Some(&entry.version)).collect()
            }
        }
    }
}

fn holds(sent: &Table, name: &str, entry: &Arc<Entry>) -> bool {
    sent.get(name).is_some_and(|sent| Arc::ptr_eq(sent, entry) || sent.version == entry.version)
}

fn resource(name: &str, entry: &Entry) -> Resource {
    Resource {
        name: name.to_owned(),
        version: entry.version.clone(),
        resource: Some(entry.body.clone()),
        aliases: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
