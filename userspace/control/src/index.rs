//! The index: one owner puts together what files and agents say, and publishes it as one snapshot per generation.

mod keep;
mod owner;
mod snapshot;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use culvert_manifests::{Catalog, Complaint, Held, ObjectKey, State};
use culvert_workload::WorkloadUid;

pub use keep::{KeepError, Kept, load};
pub use owner::{Change, Owner, Sources};
pub(crate) use snapshot::DNS_NAMESPACE;
pub use snapshot::{Changes, Entry, Names, Snapshot, Strays, Table, Touched};

/// What is published. Everything in it belongs together.
#[derive(Debug, Clone)]
pub struct Published {
    /// What agents are sent.
    pub snapshot: Arc<Snapshot>,
    /// The same as domain objects, for the CA and for reports.
    pub state: Arc<State>,
    /// What is wrong with the files, the objects and how they fit.
    pub complaints: Arc<Vec<Complaint>>,
    /// Why the directory as a whole was not taken; the state is then the last good one.
    pub unread: Option<Arc<str>>,
    /// Why the newest state could not be kept on disk and is therefore not published.
    pub unkept: Option<Arc<str>>,
}

/// Objects as they are now; nothing: they are gone.
pub type Objects = Vec<(ObjectKey, Option<Arc<Held>>)>;

/// Addresses that agents read in pods, by node.
pub type Reported = BTreeMap<String, BTreeMap<WorkloadUid, Vec<IpAddr>>>;

/// What a read of the directory gave.
#[derive(Debug)]
pub enum Reading {
    /// All files, object by object.
    Catalog(Catalog, Vec<Complaint>),
    /// The directory itself cannot be used: what was known stays.
    Unusable(String),
}

#[cfg(test)]
mod tests;
