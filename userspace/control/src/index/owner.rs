//! The one owner of the index: everything that changes it comes through its queue.
//!
//! A change of single pods and policies is put into the state that is there; anything else assembles all of it anew.
//! What is to be said about objects that are only wrong beside others is found out afterwards, beside the queue.

mod review;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use culvert_manifests::{
    Assembly, Catalog, Changed, Complaint, Frame, Held, MeshOverrides, Object, ObjectKey, ObjectKind, Severity, State,
};
use culvert_wire::TrustBundle;
use culvert_workload::WorkloadUid;
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use super::{KeepError, Kept, Objects, Published, Reading, Reported, Snapshot, keep};
use crate::state_dir::StateDir;
use review::Review;

/// How often keeping is tried again where it has failed.
const KEEP_AGAIN: Duration = Duration::from_secs(5);

/// What changes the index.
#[derive(Debug)]
pub enum Change {
    /// The directory was read.
    Directory(Reading),
    /// Of what was read before, these objects are different now.
    Objects {
        /// What they are now; nothing: they are gone.
        objects: Objects,
        /// What is to be said about single objects, all of them.
        complaints: Arc<Vec<Complaint>>,
    },
    /// The roots of this trust domain are these from now on, in DER.
    Roots(Vec<Vec<u8>>),
    /// An agent reported the addresses of its pods; all of them, each time.
    Addresses {
        /// Which node, by its certificate.
        node: String,
        /// What it read in its pods.
        pods: BTreeMap<WorkloadUid, Vec<IpAddr>>,
    },
}

/// What the index is made of besides files and reports.
#[derive(Debug)]
pub struct Sources {
    /// Where to keep the last good state.
    pub state: StateDir,
    /// What the command line says about the mesh.
    pub overrides: MeshOverrides,
    /// The roots of this trust domain.
    pub bundle: TrustBundle,
}

/// The owner; [`Owner::run`] is its life.
#[derive(Debug)]
pub struct Owner {
    sources: Sources,
    catalog: Arc<Catalog>,
    reported: Reported,
    /// Of the objects one by one, without those of the assembly.
    file_complaints: Arc<Vec<Complaint>>,
    /// Of the assembly.
    complaints: Vec<Complaint>,
    unread: Option<Arc<str>>,
    frame: Frame,
    pending: Pending,
    review: Review,
    publish: watch::Sender<Published>,
}

/// What has changed since the last generation.
#[derive(Debug)]
enum Pending {
    /// These objects at most.
    Objects(Changed),
    Everything,
}

impl Default for Pending {
    fn default() -> Self {
        Self::Objects(Changed::new())
    }
}

impl Owner {
    /// Begins with what was kept and what the directory says now. An error: the beginning itself cannot be kept.
    pub fn new(
        sources: Sources,
        kept: Kept,
        reading: Reading,
    ) -> Result<(Self, watch::Receiver<Published>), KeepError> {
        let (catalog, file_complaints, unread) = match reading {
            Reading::Catalog(catalog, complaints) => (catalog, complaints, None),
            Reading::Unusable(why) => (kept.catalog, Vec::new(), Some(why.into())),
        };
        let reported = in_force(&catalog, &kept.reported);
        let (assembly, frame) = Frame::assemble(&catalog, &sources.overrides, &reported);
        // Another generation than the one before the restart: nobody can know whether anything changed meanwhile.
        let snapshot = Snapshot::new(kept.generation + 1, &assembly.state, &sources.bundle);
        let published = Published {
            state: Arc::clone(snapshot.state()),
            snapshot: Arc::new(snapshot),
            complaints: Arc::new(all(&file_complaints, &assembly.complaints)),
            unread: unread.clone(),
            unkept: None,
        };
        let (publish, receiver) = watch::channel(published);
        log_new(&[], &receiver.borrow().complaints);
        let owner = Self {
            sources,
            catalog: Arc::new(catalog),
            reported: kept.reported,
            file_complaints: Arc::new(file_complaints),
            complaints: assembly.complaints,
            unread,
            frame,
            pending: Pending::default(),
            review: Review::default(),
            publish,
        };
        owner.keep(kept.generation + 1)?;
        Ok((owner, receiver))
    }

    /// Takes changes until nobody can send any more.
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        loop {
            let unkept = self.publish.borrow().unkept.is_some();
            let patience = if unkept { KEEP_AGAIN } else { Duration::MAX };
            let mut changed = tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => self.take(change),
                    None => return,
                },
                reviewed = self.review.next() => match reviewed {
                    Some(complaints) => {
                        self.complaints = complaints;
                        true
                    }
                    None => false,
                },
                // What could not be kept is tried again.
                () = time::sleep(patience), if unkept => true,
            };
            // What waits already goes into the same generation.
            while let Ok(change) = changes.try_recv() {
                changed |= self.take(change);
            }
            if changed {
                self.publish();
            }
            let (catalog, overrides) = (&self.catalog, &self.sources.overrides);
            self.review.look(|| (Arc::clone(catalog), overrides.clone(), self.reported.clone()));
        }
    }

    /// Answers whether it says anything new: agents report the same again and again.
    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Directory(Reading::Catalog(catalog, complaints)) => {
                let new = (&catalog, &complaints, &None) != (&*self.catalog, &*self.file_complaints, &self.unread);
                self.unread = None;
                (self.catalog, self.file_complaints) = (Arc::new(catalog), Arc::new(complaints));
                self.pending = Pending::Everything;
                new
            }
            Change::Directory(Reading::Unusable(why)) => {
                let why = Some(why.into());
                std::mem::replace(&mut self.unread, why.clone()) != why
            }
            Change::Objects { objects, complaints } => {
                let said = self.unread.take().is_some() || complaints != self.file_complaints;
                self.file_complaints = complaints;
                let any = !objects.is_empty();
                self.take_objects(objects);
                any || said
            }
            Change::Roots(roots) => {
                let bundle = &mut self.sources.bundle;
                let new = bundle.authorities != roots;
                (bundle.authorities, bundle.sequence) = (roots, bundle.sequence + u64::from(new));
                new
            }
            Change::Addresses { node, pods } => self.take_addresses(node, pods),
        }
    }

    fn take_objects(&mut self, objects: Objects) {
        let catalog = Arc::make_mut(&mut self.catalog);
        for (key, held) in objects {
            let before = catalog.set(key.clone(), held);
            if let Pending::Objects(changed) = &mut self.pending {
                changed.entry(key).or_insert(before);
            }
        }
    }

    fn take_addresses(&mut self, node: String, mut pods: BTreeMap<WorkloadUid, Vec<IpAddr>>) -> bool {
        let state = Arc::clone(&self.publish.borrow().state);
        if self.catalog.live().is_some() {
            // An API server knows most pods' addresses itself; what is kept of the others is written to disk each time.
            pods.retain(|uid, _| self.object_of(&state, uid).is_none_or(|(_, held)| !has_address(&held.object)));
        }
        let before = self.reported.get(&node);
        if before == Some(&pods) || before.is_none() && pods.is_empty() {
            return false;
        }
        let nothing = BTreeMap::new();
        let before = before.unwrap_or(&nothing);
        let differ = |uid: &&WorkloadUid| before.get(*uid) != pods.get(*uid);
        let uids = before.keys().chain(pods.keys()).filter(differ);
        let objects: Vec<_> = uids.filter_map(|uid| self.object_of(&state, uid)).collect();
        if let Pending::Objects(changed) = &mut self.pending {
            for (key, held) in objects {
                changed.entry(key).or_insert(Some(held));
            }
        }
        self.reported.insert(node, pods);
        true
    }

    fn object_of(&self, state: &State, uid: &WorkloadUid) -> Option<(ObjectKey, Arc<Held>)> {
        let record = state.workloads.get(uid)?;
        let (namespace, name) = (record.namespace.to_string(), record.name.to_string());
        let key = ObjectKey { kind: ObjectKind::Pod, namespace, name };
        let held = self.catalog.share(&key)?;
        Some((key, held))
    }

    fn publish(&mut self) {
        let before = self.publish.borrow().clone();
        let state = self.next_state(&before.state);
        let next = before.snapshot.next(&state, &self.sources.bundle);
        let complaints = all(&self.file_complaints, &self.complaints);
        let said = complaints != *before.complaints || self.unread != before.unread;
        if next.is_none() && !said && before.unkept.is_none() {
            return;
        }
        log_new(&before.complaints, &complaints);
        let mut published = Published { complaints: Arc::new(complaints), unread: self.unread.clone(), ..before };
        // Kept before it is published, so that no generation is ever given out twice, and none that a restart would
        // take back.
        let generation = next.as_ref().map_or(published.snapshot.generation, |next| next.generation);
        match self.keep(generation) {
            Ok(()) => {
                published.unkept = None;
                if let Some(next) = next {
                    published.state = Arc::clone(next.state());
                    published.snapshot = Arc::new(next);
                }
            }
            Err(error) => {
                // What was not published is still to come.
                self.pending = Pending::Everything;
                published.unkept = Some(error.to_string().into());
            }
        }
        self.publish.send_replace(published);
    }

    /// The state with all that is pending.
    fn next_state(&mut self, before: &State) -> State {
        let followed = match std::mem::take(&mut self.pending) {
            Pending::Objects(changed) if changed.is_empty() => return before.clone(),
            Pending::Objects(changed) => {
                let addresses = changed.keys().filter_map(|key| addresses_of(&self.catalog, key, &self.reported));
                let addresses = addresses.collect();
                self.frame.follow(before, &self.catalog, &changed, &addresses)
            }
            Pending::Everything => None,
        };
        if let Some(state) = followed {
            self.review.wanted();
            return state;
        }
        let reported = in_force(&self.catalog, &self.reported);
        let begun = Instant::now();
        let (assembly, frame) = Frame::assemble(&self.catalog, &self.sources.overrides, &reported);
        self.review.done(begun.elapsed());
        let Assembly { mut state, complaints } = assembly;
        (self.frame, self.complaints) = (frame, complaints);
        share(before, &mut state);
        state
    }

    fn keep(&self, generation: u64) -> Result<(), KeepError> {
        let Sources { state, bundle, .. } = &self.sources;
        keep::save(state, generation, &self.catalog, &self.reported, bundle).inspect_err(|error| {
            tracing::error!(
                reason = error.reason(), %error,
                "the last good state cannot be kept on disk: agents are told nothing new until it can"
            );
        })
    }
}

/// Records that came out the same become the same objects: they are compared by address from then on.
fn share(before: &State, state: &mut State) {
    let mut shared = before.workloads.clone();
    for (uid, now) in state.workloads.changes_since(&before.workloads, |_, _| false) {
        match now {
            Some(workload) => drop(shared.insert(uid.clone(), Arc::clone(workload))),
            None => drop(shared.remove(uid)),
        }
    }
    state.workloads = shared;
}

/// Each complaint is logged when it appears, not at every read of the directory.
fn log_new(before: &[Complaint], now: &[Complaint]) {
    let before: std::collections::BTreeSet<&Complaint> = before.iter().collect();
    for complaint in now.iter().filter(|complaint| !before.contains(complaint)) {
        match complaint.severity {
            Severity::Error => tracing::error!(reason = complaint.reason, "{complaint}"),
            Severity::Warning => tracing::warn!(reason = complaint.reason, "{complaint}"),
            Severity::Info => tracing::info!(reason = complaint.reason, "{complaint}"),
        }
    }
}

/// What was reported of pods by the nodes that they are on. What another node once said of a pod does not count.
fn in_force(catalog: &Catalog, reported: &Reported) -> BTreeMap<WorkloadUid, Vec<IpAddr>> {
    let pods = catalog.of_kind(ObjectKind::Pod);
    pods.filter_map(|(key, _)| addresses_of(catalog, key, reported)).collect()
}

fn addresses_of(catalog: &Catalog, key: &ObjectKey, reported: &Reported) -> Option<(WorkloadUid, Vec<IpAddr>)> {
    match &catalog.get(key)?.object {
        Object::Pod(pod) => Some((pod.uid.clone(), reported.get(&pod.node)?.get(&pod.uid)?.clone())),
        _ => None,
    }
}

fn has_address(object: &Object) -> bool {
    matches!(object, Object::Pod(pod) if !pod.addresses.is_empty())
}

fn all(files: &[Complaint], assembly: &[Complaint]) -> Vec<Complaint> {
    files.iter().chain(assembly).cloned().collect()
}
