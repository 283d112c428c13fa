//! The open connections of one pod, so that they can be judged again, shown and ended.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use culvert_identity::SpiffeId;
use culvert_policy::Connection;
use culvert_tunnel::Revoker;
use culvert_workload::WorkloadUid;
use foldhash::fast::RandomState;

use crate::{
    outcome::{Flow, Record},
    pod::Objection,
};

/// One open connection.
#[derive(Debug)]
pub struct Live {
    /// What it rests on.
    pub ground: Ground,
    /// Read when somebody asks for it; written once.
    record: Mutex<Arc<Record>>,
    /// Its bytes.
    pub flow: Arc<Flow>,
    revoker: Revoker,
    objection: OnceLock<Objection>,
}

/// What an open connection rests on: when it no longer holds, the connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ground {
    /// Inbound: policy allows this.
    Allowed(Connection),
    /// Outbound: this workload has this address and identity.
    Destination {
        /// Address and port of the workload.
        address: std::net::SocketAddr,
        /// Whose it is.
        workload: WorkloadUid,
        /// What it proves.
        identity: SpiffeId,
    },
    /// Outbound in plaintext: nobody enrolled has this address.
    NotEnrolled(std::net::SocketAddr),
    /// The pod calls itself.
    Itself,
}

/// The open connections of one pod.
#[derive(Debug, Default)]
pub struct LiveTable {
    connections: Mutex<HashMap<u64, Arc<Live>, RandomState>>,
    next: AtomicU64,
}

/// Takes the connection out of the table when it is over.
#[derive(Debug)]
pub struct Listed {
    table: Arc<LiveTable>,
    id: u64,
    live: Arc<Live>,
}

impl Listed {
    /// The connection.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Live {
    /// A connection that `revoker` can end.
    pub fn new(ground: Ground, record: Arc<Record>, flow: Arc<Flow>, revoker: Revoker) -> Self {
        Self { ground, record: Mutex::new(record), flow, revoker, objection: OnceLock::new() }
    }

    /// As it stood when it was listed, or opened.
    pub fn record(&self) -> Arc<Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It stands from end to end: this is what is known now.
    pub(crate) fn stands(&self, record: &Arc<Record>) {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = record.clone();
    }

    /// Notes why it is about to be revoked; the first reason stays.
    pub fn object(&self, objection: Objection) {
        let _ = self.objection.set(objection);
    }

    /// Why it was revoked, where a decision did it.
    pub fn objection(&self) -> Option<&Objection> {
        self.objection.get()
    }

    /// Ends it with a stable word; says whether it was the first.
    pub fn revoke(&self, reason: &'static str) -> bool {
        self.revoker.revoke(reason)
    }
}

impl LiveTable {
    /// Puts a connection in, until the answer is dropped. To be called *before* the decision that lets the connection
    /// go on: a change of policy then either finds it here or is seen by that decision.
    pub fn list(self: &Arc<Self>, live: Live) -> Listed {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let live = Arc::new(live);
        self.lock().insert(id, live.clone());
        Listed { table: self.clone(), id, live }
    }

    /// All of them now.
    pub fn all(&self) -> Vec<Arc<Live>> {
        self.lock().values().cloned().collect()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// How many have ended so far.
    pub fn ended(&self) -> u64 {
        // What is listed in between makes the answer smaller at worst by that.
        self.next.load(Ordering::Relaxed).saturating_sub(self.len() as u64)
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends those for which `verdict` has a reason; gives their number.
    pub fn revoke_where(&self, verdict: impl Fn(&Live) -> Option<&'static str>) -> usize {
        self.all().iter().filter(|live| verdict(live).is_some_and(|reason| live.revoke(reason))).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Live>, RandomState>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}
