//! The identities of this node's pods: one key each, for as long as a pod has it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use culvert_identity::SpiffeId;
use culvert_mtls::{LocalIdentity, Trust};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use crate::{
    Clock, Issue, IssueError, Observer, Status,
    rotation::{PodOf, Rotation, Shared, Slot},
};

/// How identities are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeeperSettings {
    /// Life that is asked for; 1 h unless told.
    pub validity: Duration,
    /// Requests under way at once; 8 unless told.
    pub at_once: usize,
}

impl Default for KeeperSettings {
    fn default() -> Self {
        Self { validity: Duration::from_secs(3600), at_once: 8 }
    }
}

/// Keeps one key and one current SVID per identity that a local pod has. A cheap handle.
pub struct Keeper<I>(Arc<Inner<I>>);

struct Inner<I> {
    shared: Arc<Shared<I>>,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: HashMap<SpiffeId, Kept>,
    /// Which identity each pod has.
    pods: HashMap<Arc<str>, SpiffeId>,
}

struct Kept {
    identity: LocalIdentity,
    slot: Slot,
    status: watch::Receiver<Status>,
    pods: Pods,
    task: JoinHandle<()>,
}

/// The pods that have one identity; the rotation asks in the name of one of them.
type Pods = Arc<Mutex<BTreeSet<Arc<str>>>>;

impl<I> Clone for Keeper<I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I: Issue> Keeper<I> {
    /// Must be called inside the tokio runtime in which renewals are to run.
    pub fn new(
        issuer: I,
        trust: Trust,
        settings: KeeperSettings,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let shared = Shared {
            issuer,
            trust,
            clock,
            observer,
            places: Semaphore::new(settings.at_once),
            validity: settings.validity,
            changes: watch::Sender::new(0),
        };
        Self(Arc::new(Inner { shared: Arc::new(shared), runtime: Handle::current(), state: Mutex::default() }))
    }

    /// Notes that a local pod has an identity, and starts to ask for its SVID if it is the first one. A pod
    /// has one identity: with another one than before, it lets go of the former.
    pub fn hold(&self, id: &SpiffeId, pod_uid: &str) -> LocalIdentity {
        let mut state = self.state();
        let pod: Arc<str> = pod_uid.into();
        if state.pods.get(&pod).is_some_and(|held| held != id) {
            self.let_go(&mut state, &pod);
        }
        state.pods.insert(Arc::clone(&pod), id.clone());
        let kept = state.kept.entry(id.clone()).or_insert_with(|| self.start(id, &pod));
        lock(&kept.pods).insert(pod);
        kept.identity.clone()
    }

    /// Notes that a pod is gone. With the last one of an identity its key is erased before this returns;
    /// true if that happened.
    pub fn release(&self, pod_uid: &str) -> bool {
        let mut state = self.state();
        self.let_go(&mut state, pod_uid)
    }

    /// The identity of that name, if a local pod has it.
    pub fn identity(&self, id: &SpiffeId) -> Option<LocalIdentity> {
        self.state().kept.get(id).map(|kept| kept.identity.clone())
    }

    /// Where an identity stands, now and from now on.
    pub fn watch(&self, id: &SpiffeId) -> Option<watch::Receiver<Status>> {
        self.state().kept.get(id).map(|kept| kept.status.clone())
    }

    /// Waits until an identity is published; false if no pod has it (any more).
    pub async fn ready(&self, id: &SpiffeId) -> bool {
        let Some(mut status) = self.watch(id) else { return false };
        status.wait_for(|status| status.generation > 0).await.is_ok()
    }

    /// Changes with each publication and each erasure, of any identity.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.shared.changes.subscribe()
    }

    /// Each identity with its pods and where it stands, for `culvert status`.
    pub fn statuses(&self) -> Vec<(SpiffeId, Vec<Arc<str>>, Status)> {
        let state = self.state();
        let mut all: Vec<_> = state.kept.iter().map(|(id, kept)| (id.clone(), kept.pods(), kept.status())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    fn start(&self, id: &SpiffeId, first: &Arc<str>) -> Kept {
        let (writer, identity) = LocalIdentity::new(id.clone(), &self.0.shared.trust);
        let slot = Slot::new(writer);
        let pods: Pods = Arc::new(Mutex::new(BTreeSet::from([Arc::clone(first)])));
        let status = watch::Sender::new(Status::default());
        let receiver = status.subscribe();
        let rotation = Rotation {
            id: id.clone(),
            slot: slot.clone(),
            shared: Arc::clone(&self.0.shared),
            status,
            pod: one_after_the_other(Arc::clone(&pods)),
            on_issued: Box::new(|_, _| {}),
        };
        let task = self.0.runtime.spawn(rotation.run(None));
        Kept { identity, slot, status: receiver, pods, task }
    }

    fn let_go(&self, state: &mut State, pod_uid: &str) -> bool {
        let Some(id) = state.pods.remove(pod_uid) else { return false };
        let Some(kept) = state.kept.get(&id) else { return false };
        let nobody_left = {
            let mut pods = lock(&kept.pods);
            pods.remove(pod_uid);
            pods.is_empty()
        };
        if nobody_left {
            // Dropping it aborts its task and erases its key.
            drop(state.kept.remove(&id));
            self.0.shared.changes.send_modify(|n| *n += 1);
            self.0.shared.observer.erased(&id);
            tracing::info!(identity = %id, "identity erased with its last pod");
        }
        nobody_left
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

impl Kept {
    fn pods(&self) -> Vec<Arc<str>> {
        lock(&self.pods).iter().cloned().collect()
    }

    fn status(&self) -> Status {
        self.status.borrow().clone()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.slot.erase();
        self.task.abort();
    }
}

/// A CA that refuses one pod (ended a moment ago) may accept the next.
fn one_after_the_other(pods: Pods) -> PodOf {
    Box::new(move |attempt| {
        let pods = lock(&pods);
        let at = attempt as usize % pods.len().max(1);
        pods.iter().nth(at).cloned().map(Some).ok_or(IssueError::NoPod)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
