//! Pods that run already: their namespaces are found by the cgroups of their processes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    net::IpAddr,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use culvert_redirect::Redirect;
use culvert_workload::{Workload, WorkloadUid};

use super::{EnrolError, Enroller, find};

/// How running pods are found.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The node's procfs.
    pub proc: PathBuf,
}

/// A UID as it stands in a cgroup's path: the systemd driver writes `_` for `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UidInCgroup(String);

impl UidInCgroup {
    /// The same UID has the same form, whichever driver wrote it.
    pub fn new(uid: &str) -> Self {
        Self(uid.replace('_', "-"))
    }
}

/// The pod whose cgroup a process is in, from the text of `/proc/PID/cgroup` (cgroups(7): `ID:CONTROLLERS:PATH`); under
/// v1 each hierarchy has its say, and the first that names a pod is believed.
///
/// The *first* part of a path that names a pod counts: whoever may make cgroups inside of a pod's own can name them after
/// another pod.
pub fn uid_of(cgroup: &str) -> Option<UidInCgroup> {
    cgroup.lines().find_map(|line| line.splitn(3, ':').nth(2)?.split('/').find_map(uid_in))
}

/// `podUID`, or the systemd driver's `...-podU_I_D.slice`.
fn uid_in(part: &str) -> Option<UidInCgroup> {
    let uid = match part.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").map(|(_, uid)| uid).or_else(|| slice.strip_prefix("pod"))?,
        None => part.strip_prefix("pod")?,
    };
    let good = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-' || byte == b'_';
    (uid.len() >= 8 && uid.bytes().all(good)).then(|| UidInCgroup::new(uid))
}

/// What a pod's cgroup may be named after. Who calls himself a static pod is looked for by his own UID all the same.
fn uids(record: &Workload) -> impl Iterator<Item = UidInCgroup> {
    [Some(record.uid.as_str()), record.kubelet_uid.as_deref()].into_iter().flatten().map(UidInCgroup::new)
}

/// Network namespaces by pod, from one walk over all processes.
type Sightings = HashMap<UidInCgroup, BTreeSet<Sighting>>;

/// Where a namespace was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Sighting {
    inode: u64,
    path: PathBuf,
}

fn sightings(proc: &Path, wanted: &BTreeSet<UidInCgroup>) -> Sightings {
    let mut seen = Sightings::new();
    for process in find::entries(proc).filter(|path| find::is_process(path)) {
        // Processes end while we look.
        let Ok(cgroup) = fs::read_to_string(process.join("cgroup")) else { continue };
        let Some(uid) = uid_of(&cgroup).filter(|uid| wanted.contains(uid)) else { continue };
        let path = process.join("ns/net");
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let inode = metadata.ino();
        let of_pod = seen.entry(uid).or_default();
        // One process per namespace is enough to reach it.
        if of_pod.iter().all(|one| one.inode != inode) {
            of_pod.insert(Sighting { inode, path });
        }
    }
    seen
}

/// Why a running pod was not taken.
#[derive(Debug, Clone, Copy)]
enum Missing {
    /// No process was seen in its cgroup.
    NoNetns,
    /// What was found has none of its addresses.
    NoAddress,
    /// What was found cannot be enrolled.
    Refused(&'static str),
}

impl Missing {
    fn reason(self) -> &'static str {
        match self {
            Self::NoNetns => "netns_not_found",
            Self::NoAddress => "address_mismatch",
            Self::Refused(word) => word,
        }
    }
}

/// The namespace of a pod among those that its processes are in: one that has an address of the pod, and whose veth ends
/// in the node's namespace. A process of a pod may be in a namespace of its own making; that one does not.
fn choose(redirect: &Redirect, record: &Workload, seen: &BTreeSet<Sighting>) -> Result<OwnedFd, Missing> {
    let mut why = Missing::NoNetns;
    for sighting in seen {
        let Some(netns) = find::open(&sighting.path, sighting.inode) else { continue };
        match redirect.addresses(&netns) {
            Ok(addresses) if shares(&record.addresses, &addresses) => return Ok(netns),
            Ok(_) => why = Missing::NoAddress,
            Err(error) => why = Missing::Refused(error.reason()),
        }
    }
    Err(why)
}

fn shares(known: &[IpAddr], read: &[IpAddr]) -> bool {
    known.iter().any(|address| read.contains(address))
}

impl Enroller {
    /// Takes the pods of `records` that run and are not held. Gives whether some are still missing.
    pub(super) async fn discover(self: &Arc<Self>, discovery: &Discovery, records: &[Arc<Workload>]) -> bool {
        let Ok(pinned) = self.pinned().await else { return true };
        // Pins are for `recover`; a pod without an address is not there yet, or its CNI plugin is at it.
        let is_missing = |record: &&Arc<Workload>| {
            !self.held().contains_key(&record.uid) && !pinned.contains_key(record.uid.as_str())
        };
        let due: Vec<_> = records.iter().filter(is_missing).filter(|one| !one.addresses.is_empty()).cloned().collect();
        if due.is_empty() || self.staying().is_err() {
            self.set_missing(BTreeMap::new());
            return false;
        }
        let (redirect, proc) = (self.parts.redirect.clone(), discovery.proc.clone());
        let looked = super::blocking(move || {
            let wanted = due.iter().flat_map(|record| uids(record)).collect();
            let seen = sightings(&proc, &wanted);
            let of_pod = |record: &Workload| uids(record).filter_map(|uid| seen.get(&uid)).flatten().cloned().collect();
            let choose = |record: Arc<Workload>| (choose(&redirect, &record, &of_pod(&record)), record);
            due.into_iter().map(choose).collect::<Vec<_>>()
        });
        let mut missing = BTreeMap::new();
        for (found, record) in looked.await.unwrap_or_default() {
            let taken = match found {
                Ok(netns) => self.take(&record, netns).await.map_err(|error| error.reason()),
                Err(why) => Err(why.reason()),
            };
            if let Err(why) = taken {
                missing.insert(record.uid.clone(), why);
            }
        }
        let some = !missing.is_empty();
        self.set_missing(missing);
        some
    }

    async fn take(self: &Arc<Self>, record: &Workload, netns: OwnedFd) -> Result<(), EnrolError> {
        let enrolled = self.enrol(record.uid.as_str(), netns, None).await?;
        tracing::info!(pod = %record.uid, addresses = ?enrolled.addresses, "a running pod was taken");
        Ok(())
    }

    /// Pods of this node that should be held and are not, with the reason.
    pub(super) fn missing(&self) -> BTreeMap<WorkloadUid, &'static str> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_missing(&self, now: BTreeMap<WorkloadUid, &'static str>) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if *missing == now {
            return;
        }
        for (uid, reason) in now.iter().filter(|(uid, reason)| missing.get(*uid) != Some(*reason)) {
            tracing::warn!(pod = %uid, reason, "a running pod should be captured and is not");
        }
        *missing = now;
        drop(missing);
        self.changed.send_modify(|count| *count += 1);
    }
}
