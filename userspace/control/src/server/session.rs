//! One discovery stream as a state machine: requests in, responses out. It knows no socket and no clock.
//!
//! The stream is always at exactly one snapshot. A type is answered from it; when every response has been answered,
//! the stream moves to the newest snapshot, and every subscribed type gets what changed and the marker.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use culvert_wire::{
    Kind, SYNCED_NAME,
    proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    resource::synced,
};

use crate::index::{Entry, Snapshot, Table};

/// Responses end after the resource that brings them over this size, in bytes.
const RESPONSE_SIZE: usize = 1 << 20;
/// Longest text of a refusal that is kept.
const LONGEST_REFUSAL: usize = 500;

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Session {
    snapshot: Arc<Snapshot>,
    subscribed: BTreeSet<Kind>,
    /// Nonces of responses that have not been answered.
    outstanding: BTreeMap<String, Kind>,
    nonces: u64,
}

/// What a client holds.
enum Held<'h> {
    /// By its own account.
    Told(&'h HashMap<String, String>),
    /// Because it was sent.
    Sent(&'h Table),
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
    #[error("only everything of a type can be subscribed to, not single names")]
    SingleNames,
}

impl SessionError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::UnknownType(_) => "unknown_type",
            Self::SingleNames => "single_names",
        }
    }
}

impl Session {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, subscribed: BTreeSet::new(), outstanding: BTreeMap::new(), nonces: 0 }
    }

    /// Takes one request.
    pub(super) fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Step, SessionError> {
        let kind = Kind::of_type_url(&request.type_url)
            .ok_or_else(|| SessionError::UnknownType(request.type_url.chars().take(100).collect()))?;
        let names = request.resource_names_subscribe.iter().chain(&request.resource_names_unsubscribe);
        if names.into_iter().any(|name| name != "*") {
            return Err(SessionError::SingleNames);
        }
        if request.response_nonce.is_empty() {
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

    /// Moves to a newer snapshot. Only when idle.
    pub(super) fn advance(&mut self, snapshot: Arc<Snapshot>) -> Vec<DeltaDiscoveryResponse> {
        if snapshot.generation == self.snapshot.generation || !self.idle() {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        let kinds = self.subscribed.clone();
        kinds.into_iter().flat_map(|kind| self.state_of(kind, &Held::Sent(&before.table(kind)))).collect()
    }

    fn subscribe(&mut self, kind: Kind, request: &DeltaDiscoveryRequest) -> Vec<DeltaDiscoveryResponse> {
        self.subscribed.insert(kind);
        // Whatever of this type was on its way belongs to a subscription that is over.
        self.outstanding.retain(|_, waiting| *waiting != kind);
        self.state_of(kind, &Held::Told(&request.initial_resource_versions))
    }

    /// What brings a client that holds these versions to the state of the snapshot, the marker last.
    fn state_of(&mut self, kind: Kind, held: &Held<'_>) -> Vec<DeltaDiscoveryResponse> {
        let table = self.snapshot.table(kind);
        let gone = |name: &&String| *name != SYNCED_NAME && !table.contains_key(*name);
        let removed = held.names().filter(gone).cloned().collect();
        let mut responses = vec![self.response(kind, removed)];
        let mut size = 0;
        for (name, entry) in table.iter().filter(|(name, entry)| !held.has(name, entry)) {
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
            last.resources.push(self.marker());
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

    fn marker(&self) -> Resource {
        Resource {
            name: SYNCED_NAME.to_owned(),
            version: self.snapshot.generation.to_string(),
            resource: Some(synced(self.snapshot.generation)),
            aliases: Vec::new(),
        }
    }
}

impl Held<'_> {
    fn names(&self) -> Box<dyn Iterator<Item = &String> + '_> {
        match self {
            Self::Told(versions) => Box::new(versions.keys()),
            Self::Sent(table) => Box::new(table.keys()),
        }
    }

    fn has(&self, name: &str, entry: &Arc<Entry>) -> bool {
        match self {
            Self::Told(versions) => versions.get(name) == Some(&entry.version),
            Self::Sent(table) => {
                table.get(name).is_some_and(|sent| Arc::ptr_eq(sent, entry) || sent.version == entry.version)
            }
        }
    }
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
