//! The one owner of the index: everything that changes it comes through its queue.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use culvert_manifests::{Assembly, Catalog, Complaint, Held, MeshOverrides, Object, Severity, assemble};
use culvert_wire::TrustBundle;
use culvert_workload::WorkloadUid;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{KeepError, Kept, Published, Reading, Reported, Snapshot, keep};
use crate::state_dir::StateDir;

/// How often keeping is tried again where it has failed.
const KEEP_AGAIN: Duration = Duration::from_secs(5);

/// What changes the index.
#[derive(Debug)]
pub enum Change {
    /// The directory was read.
    Directory(Reading),
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
    catalog: Catalog,
    reported: Reported,
    /// Of the files, without those of the assembly.
    file_complaints: Vec<Complaint>,
    unread: Option<Arc<str>>,
    publish: watch::Sender<Published>,
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
        let assembly = assemble(&catalog, &sources.overrides, &in_force(&catalog, &kept.reported));
        // Another generation than the one before the restart: nobody can know whether anything changed meanwhile.
        let snapshot = Snapshot::new(kept.generation + 1, &assembly.state, &sources.bundle);
        let published = Published {
            snapshot: Arc::new(snapshot),
            complaints: Arc::new(all(&file_complaints, &assembly.complaints)),
            state: Arc::new(assembly.state),
            unread: unread.clone(),
            unkept: None,
        };
        let (publish, receiver) = watch::channel(published);
        log_new(&[], &receiver.borrow().complaints);
        let owner = Self { sources, catalog, reported: kept.reported, file_complaints, unread, publish };
        owner.keep(kept.generation + 1)?;
        Ok((owner, receiver))
    }

    /// Takes changes until nobody can send any more.
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        loop {
            let patience = if self.publish.borrow().unkept.is_some() { KEEP_AGAIN } else { Duration::MAX };
            let mut changed = match time::timeout(patience, changes.recv()).await {
                Ok(Some(change)) => self.take(change),
                Ok(None) => return,
                // What could not be kept is tried again.
                Err(_) => true,
            };
            // What waits already goes into the same generation.
            while let Ok(change) = changes.try_recv() {
                changed |= self.take(change);
            }
            if changed {
                self.publish();
            }
        }
    }

    /// Answers whether it says anything new: agents report the same again and again.
    fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Directory(Reading::Catalog(catalog, complaints)) => {
                let new = (&catalog, &complaints, &None) != (&self.catalog, &self.file_complaints, &self.unread);
                (self.catalog, self.file_complaints, self.unread) = (catalog, complaints, None);
                new
            }
            Change::Directory(Reading::Unusable(why)) => {
                let why = Some(why.into());
                std::mem::replace(&mut self.unread, why.clone()) != why
            }
            Change::Roots(roots) => {
                let bundle = &mut self.sources.bundle;
                let new = bundle.authorities != roots;
                (bundle.authorities, bundle.sequence) = (roots, bundle.sequence + u64::from(new));
                new
            }
            Change::Addresses { node, pods } => self.reported.insert(node, pods.clone()).as_ref() != Some(&pods),
        }
    }

    fn publish(&mut self) {
        let assembly = assemble(&self.catalog, &self.sources.overrides, &in_force(&self.catalog, &self.reported));
        let before = self.publish.borrow().clone();
        let next = before.snapshot.next(&assembly.state, &self.sources.bundle);
        let Assembly { state, complaints } = assembly;
        let complaints = all(&self.file_complaints, &complaints);
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
                    (published.snapshot, published.state) = (Arc::new(next), Arc::new(state));
                }
            }
            Err(error) => published.unkept = Some(error.to_string().into()),
        }
        self.publish.send_replace(published);
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

/// Each complaint is logged when it appears, not at every read of the directory.
fn log_new(before: &[Complaint], now: &[Complaint]) {
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
    let addresses = |(_, held): (_, &Held)| match &held.object {
        Object::Pod(pod) => Some((pod.uid.clone(), reported.get(&pod.node)?.get(&pod.uid)?.clone())),
        _ => None,
    };
    catalog.objects().filter_map(addresses).collect()
}

fn all(files: &[Complaint], assembly: &[Complaint]) -> Vec<Complaint> {
    files.iter().chain(assembly).cloned().collect()
}
