//! Bringing pods under culvert and letting them go. Who a pod is comes only from the control plane's record of its UID
//! on this node; where it is comes from the network namespace that the caller hands over.

mod book;
mod discover;
mod error;
mod find;
mod follow;
mod keeping;
mod local;
mod reconcile;
mod recover;
mod socket;
#[cfg(test)]
mod tests;
mod uninstall;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    net::IpAddr,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use culvert_handover::enrolment::Claim;
use culvert_identity::SpiffeId;
use culvert_redirect::{self as redirect, Listeners, OpenFlows, PodRedirect, PodSettings, Redirect};
use culvert_svid::{Keeper, Signer, Status};
use culvert_workload::{Phase, Protocol, Workload, WorkloadUid};
use tokio::sync::{Notify, watch};

use crate::{
    acceptor::{Acceptors, Waiting},
    cni::Installation,
    judge::Judge,
    pod::{Pod, PodParts},
    snapshot::Snapshot,
    worker::{Shared, Workers},
};

pub use book::{Book, Entry};
pub use culvert_handover::enrolment as protocol;
pub use discover::{Discovery, UidInCgroup, uid_of};
pub use error::EnrolError;
pub use keeping::Keeping;
pub(crate) use socket::listen;
pub use socket::serve;

/// How long the control plane's record of a pod is waited for: the pod may be faster than its record.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);
/// How long the pod's first SVID is waited for.
const SVID_PATIENCE: Duration = Duration::from_secs(15);
/// Connections older than their pod's enrolment, where plaintext is allowed.
const KEEP_OPEN: OpenFlows = OpenFlows::Keep { at_most: 256, at_longest: Duration::from_secs(3600) };

/// A pod that this agent holds.
#[derive(Debug)]
struct Held {
    pod: Arc<Pod>,
    netns_inode: u64,
    settings: PodSettings,
    acceptors: Acceptors,
    /// Once more what is accepted on, where there is a keeper that may have to be told again.
    listeners: Option<Listeners>,
    /// Its record says that it is not enrolled any more; open connections may end by themselves for a while.
    draining: bool,
}

/// What a captured pod is held with.
struct Means {
    settings: PodSettings,
    local: culvert_mtls::LocalIdentity,
    kept: Option<Listeners>,
}

/// What the caller is told.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Addresses read in the namespace.
    pub addresses: Vec<IpAddr>,
    /// The pod's identity.
    pub identity: SpiffeId,
}

/// What enrolment needs from the rest of the agent.
pub struct Parts {
    /// This node's name.
    pub node: Arc<str>,
    /// The kernel side.
    pub redirect: Arc<Redirect>,
    /// Identities.
    pub keeper: Keeper<Signer>,
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The worker threads.
    pub workers: Arc<Workers>,
    /// The book of pods.
    pub book: Book,
    /// Who keeps listeners while no agent runs.
    pub keeping: Option<Keeping>,
    /// The CNI plugin and its configuration.
    pub cni: Option<Arc<Installation>>,
    /// Where the node's procfs is.
    pub proc: PathBuf,
}

/// Nobody else changes the kernel side while this is held.
type Alone<'a> = tokio::sync::MutexGuard<'a, ()>;

/// All pods of this node.
pub struct Enroller {
    parts: Parts,
    held: Mutex<HashMap<WorkloadUid, Held>>,
    /// Pods that the kernel keeps closed and nobody holds, each with the reason.
    closed: Mutex<BTreeMap<WorkloadUid, &'static str>>,
    /// One change of the kernel side at a time.
    changing: tokio::sync::Mutex<()>,
    /// One snapshot after the other reaches the pods: never an older one after a newer.
    following: Mutex<()>,
    /// Rung when a pod was released: its pins are to be looked after.
    released: Notify,
    /// Counts changes of the set of pods and of their state, for the status report.
    changed: watch::Sender<u64>,
    /// Pods of this node that should be held and are not, with the reason.
    missing: Mutex<BTreeMap<WorkloadUid, &'static str>>,
    /// How often the kernel side of a pod was set up, well or not.
    captures: AtomicU64,
    /// Culvert is being uninstalled.
    leaving: AtomicBool,
    /// The agent ends: what is not accepted now is for the next one.
    ending: AtomicBool,
}

impl Enroller {
    /// Holds no pod yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            held: Mutex::default(),
            closed: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            following: Mutex::default(),
            released: Notify::new(),
            changed: watch::Sender::new(0),
            missing: Mutex::default(),
            captures: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        })
    }

    /// The pods held now, by UID.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let mut pods: Vec<_> = self.held().values().map(|held| held.pod.clone()).collect();
        pods.sort_by(|a, b| a.uid.cmp(&b.uid));
        pods
    }

    /// Pods that are closed because their record does not fit or they could not be taken back, each with the reason.
    pub fn closed(&self) -> BTreeMap<WorkloadUid, &'static str> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of each change of the set of pods and of their state.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The kernel side.
    pub fn redirect(&self) -> &Arc<Redirect> {
        &self.parts.redirect
    }

    /// Identities.
    pub fn keeper(&self) -> &Keeper<Signer> {
        &self.parts.keeper
    }

    /// Captures a pod; returns once it has its SVID. Repeating it changes nothing.
    pub async fn enrol(
        self: &Arc<Self>,
        uid: &str,
        netns: OwnedFd,
        claim: Option<&Claim>,
    ) -> Result<Enrolled, EnrolError> {
        self.staying()?;
        let uid = WorkloadUid::new(uid);
        let record = self.record(&uid).await?;
        agrees(&record, claim)?;
        let identity = record.identity().ok_or(EnrolError::BadIdentity)?;
        let pod = self.capture(&record, identity.clone(), netns).await?;
        self.catch_up(&pod)?;
        self.wait_for_svid(&identity).await?;
        if let Some(claim) = claim.filter(|claim| !claim.veths.is_empty() && !claim.veths.contains(&pod.host_veth)) {
            let (kernel, said) = (&pod.host_veth, &claim.veths);
            tracing::warn!(pod = %pod.uid, kernel, ?said, "other CNI plugins name another interface of the pod");
        }
        Ok(Enrolled { addresses: pod.addresses.clone(), identity })
    }

    /// Whether the pod is held, and captured as the kernel says.
    pub async fn check(&self, uid: &str) -> Result<(), EnrolError> {
        let uid = WorkloadUid::new(uid);
        if !self.held().contains_key(&uid) {
            return Err(EnrolError::NotHeld);
        }
        let captured = self.captured(&uid).await;
        if captured.is_complete() { Ok(()) } else { Err(EnrolError::NotCaptured(captured.reason())) }
    }

    /// Lets a pod go: everything of it ends, its traffic is its own again. With a namespace, only where it is the pod's.
    pub async fn withdraw(&self, uid: &str, netns: Option<&OwnedFd>) -> Result<(), EnrolError> {
        let changing = self.changing.lock().await;
        if let Some(netns) = netns {
            let pinned = self.pinned().await.map_err(EnrolError::Pins)?;
            if pinned.get(uid).is_none_or(|pin| pin.netns_inode != inode_of(netns)) {
                return Ok(());
            }
        }
        self.withdraw_alone(&changing, uid).await
    }

    /// Our part first: what an application still sends on a connection that we carried must not find its own way out.
    async fn withdraw_alone(&self, _changing: &Alone<'_>, uid: &str) -> Result<(), EnrolError> {
        self.forget(&WorkloadUid::new(uid));
        let (redirect, name) = (self.parts.redirect.clone(), uid.to_owned());
        let result = blocking(move || redirect.withdraw(&name)).await?;
        match result {
            // Repeating it changes nothing.
            Err(redirect::WithdrawError::NotEnrolled(_)) => {}
            other => other?,
        }
        self.drop_kept(uid).await;
        self.parts.book.remove(uid).map_err(EnrolError::Book)?;
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).remove(&WorkloadUid::new(uid));
        self.changed.send_modify(|count| *count += 1);
        tracing::info!(pod = uid, "pod withdrawn");
        Ok(())
    }

    /// Ends accepting and all connections of all pods; pins stay, so the kernel keeps them closed.
    pub fn release_all(&self) {
        let held: Vec<Held> = self.held().drain().map(|(_, held)| held).collect();
        for held in held {
            self.end(&held);
        }
    }

    /// Stops taking new connections; open ones go on.
    pub async fn stop_accepting(&self) {
        let stopped: Vec<_> = {
            let held = self.held();
            // Under the lock: a pod that is held from now on finds it set.
            self.ending.store(true, Ordering::Relaxed);
            held.values().map(|held| held.acceptors.stop()).collect()
        };
        futures::future::join_all(stopped).await;
    }

    async fn record(&self, uid: &WorkloadUid) -> Result<Arc<Workload>, EnrolError> {
        let current = &self.parts.shared.current;
        // A record that says no is an answer; only one that is not there yet is waited for.
        let known = |snapshot: &Arc<Snapshot>| match usable(snapshot, uid, &self.parts.node) {
            Err(EnrolError::NoRecord(_)) => None,
            answer => Some(answer),
        };
        let answer = current.wait_for(RECORD_PATIENCE, known).await;
        answer.unwrap_or_else(|| match current.get() {
            None => Err(EnrolError::NotSynced),
            Some(_) => Err(EnrolError::NoRecord(self.parts.node.clone())),
        })
    }

    async fn capture(
        self: &Arc<Self>,
        record: &Arc<Workload>,
        identity: SpiffeId,
        netns: OwnedFd,
    ) -> Result<Arc<Pod>, EnrolError> {
        let changing = self.changing.lock().await;
        self.capture_alone(&changing, record, identity, netns).await
    }

    async fn capture_alone(
        self: &Arc<Self>,
        _changing: &Alone<'_>,
        record: &Arc<Workload>,
        identity: SpiffeId,
        netns: OwnedFd,
    ) -> Result<Arc<Pod>, EnrolError> {
        if let Some(pod) = self.same(record, &identity, inode_of(&netns)) {
            return Ok(pod);
        }
        let uid = record.uid.as_str().to_owned();
        // The key is made and the CSR on its way while the kernel side is set up.
        let local = self.parts.keeper.hold(&identity, &uid);
        let settings = self.settings(record);
        let (redirect, wanted) = (self.parts.redirect.clone(), settings.clone());
        let (name, kept) = (uid.clone(), self.kept(&uid).await);
        let captured = blocking(move || redirect.enrol_with(&name, netns, wanted, kept)).await?;
        self.captures.fetch_add(1, Ordering::Relaxed);
        let captured = match captured {
            Ok(captured) => captured,
            Err(error) => {
                self.release_unheld(&record.uid);
                return Err(error.into());
            }
        };
        if !record.addresses.is_empty() && !record.addresses.iter().any(|own| captured.addresses.contains(own)) {
            // Stays captured and closed: nothing of it may leave under a name that is not proven to be its own.
            self.release_unheld(&record.uid);
            return Err(EnrolError::AddressMismatch);
        }
        self.write_down(&captured).await?;
        let kept = self.keep(&uid, &captured.listeners).await;
        Ok(self.hold(record, captured, Means { settings, local, kept }))
    }

    /// The pod, if it is held already as just that.
    fn same(&self, record: &Workload, identity: &SpiffeId, inode: u64) -> Option<Arc<Pod>> {
        let held = self.held();
        let held = held.get(&record.uid).filter(|held| held.netns_inode == inode)?;
        Some(held.pod.clone()).filter(|pod| pod.identity() == identity)
    }

    /// A pod that could not be held has no identity either.
    fn release_unheld(&self, uid: &WorkloadUid) {
        if !self.held().contains_key(uid) {
            self.parts.keeper.release(uid.as_str());
        }
    }

    /// On a thread of its own: a disk that hangs must hold up nobody but this pod.
    async fn write_down(&self, captured: &PodRedirect) -> Result<(), EnrolError> {
        let entry = Entry {
            uid: captured.uid.clone(),
            netns_inode: captured.netns_inode,
            host_veth: captured.host_veth.clone(),
            host_ifindex: captured.host_ifindex,
        };
        let book = self.parts.book.clone();
        blocking(move || book.put(&entry)).await?.map_err(EnrolError::Book)
    }

    /// From here on the pod's connections are carried.
    fn hold(self: &Arc<Self>, record: &Arc<Workload>, captured: PodRedirect, means: Means) -> Arc<Pod> {
        let Means { settings, local, kept } = means;
        self.forget_tasks(&record.uid);
        let PodRedirect { addresses, host_veth, netns_inode, listeners, early, netns, .. } = captured;
        let places = self.parts.shared.places.of_pod();
        let parts = PodParts { workload: record.clone(), netns, addresses, host_veth, local, places };
        let pod = Arc::new(Pod::new(parts));
        if let Some(snapshot) = self.parts.shared.current.get() {
            pod.follow(&snapshot, record);
        }
        let waiting = Waiting { listeners, early, svid: self.svid_of(&pod) };
        let mut table = self.held();
        let acceptors = self.accept(waiting, &pod);
        let held = Held { pod: pod.clone(), netns_inode, settings, acceptors, listeners: kept, draining: false };
        table.insert(record.uid.clone(), held);
        drop(table);
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).remove(&record.uid);
        self.changed.send_modify(|count| *count += 1);
        let (namespace, name) = (&record.namespace, &record.name);
        tracing::info!(pod = %record.uid, %namespace, %name, addresses = ?pod.addresses, "pod captured");
        pod
    }

    /// To be called with the table of pods locked.
    fn accept(&self, waiting: Waiting, pod: &Arc<Pod>) -> Acceptors {
        if self.ending.load(Ordering::Relaxed) {
            return Acceptors::none();
        }
        Acceptors::start(waiting, pod, &self.parts.shared, &self.parts.workers)
    }

    /// Where the SVID of a pod stands; of one that is not held any more nothing will be said.
    fn svid_of(&self, pod: &Pod) -> watch::Receiver<Status> {
        self.parts.keeper.watch(pod.identity()).unwrap_or_else(|| watch::Sender::new(Status::default()).subscribe())
    }

    async fn wait_for_svid(&self, identity: &SpiffeId) -> Result<(), EnrolError> {
        let keeper = &self.parts.keeper;
        match tokio::time::timeout(SVID_PATIENCE, keeper.ready(identity)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(EnrolError::Ended),
            Err(_) => {
                let failure = keeper.watch(identity).and_then(|status| status.borrow().last_failure);
                Err(EnrolError::NoSvid(failure.unwrap_or("no answer yet")))
            }
        }
    }

    /// What the kernel side is to do for this pod.
    fn settings(&self, record: &Workload) -> PodSettings {
        let strict =
            self.parts.shared.current.get().is_none_or(|snapshot| Judge::of(&snapshot, record).rules().is_strict());
        PodSettings {
            addresses: record.addresses.clone(),
            probe_ports: record.probe_ports.clone(),
            deny_non_tcp: record.deny_non_tcp,
            open_flows: if strict { OpenFlows::Cut } else { KEEP_OPEN },
        }
    }

    /// Takes a pod out of the table and ends what it has.
    fn forget(&self, uid: &WorkloadUid) {
        self.forget_tasks(uid);
        self.parts.keeper.release(uid.as_str());
    }

    /// The same for a pod that is about to be held anew: its identity stays.
    fn forget_tasks(&self, uid: &WorkloadUid) {
        if let Some(held) = self.held().remove(uid) {
            self.end(&held);
        }
    }

    fn end(&self, held: &Held) {
        held.pod.let_go();
        self.parts.workers.withdrawn(&held.pod);
        drop(held.acceptors.stop());
    }

    fn held(&self) -> MutexGuard<'_, HashMap<WorkloadUid, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caller and the record mean the same pod.
fn agrees(record: &Workload, claim: Option<&Claim>) -> Result<(), EnrolError> {
    let Some(claim) = claim else { return Ok(()) };
    if *claim.namespace == *record.namespace && *claim.name == *record.name {
        return Ok(());
    }
    Err(EnrolError::NameMismatch {
        claimed: format!("{}/{}", claim.namespace, claim.name),
        recorded: format!("{}/{}", record.namespace, record.name),
    })
}

/// Is there a pod of this UID on this node that may be enrolled.
fn usable(snapshot: &Snapshot, uid: &WorkloadUid, node: &Arc<str>) -> Result<Arc<Workload>, EnrolError> {
    let record = snapshot.roster.workload(uid).ok_or_else(|| EnrolError::NoRecord(node.clone()))?;
    if record.node != *node {
        return Err(EnrolError::OtherNode(record.node.clone()));
    }
    if record.host_network {
        return Err(EnrolError::HostNetwork);
    }
    if record.phase == Phase::Ended {
        return Err(EnrolError::Ended);
    }
    match record.protocol {
        Protocol::Hbone => Ok(record.clone()),
        Protocol::Plain => Err(EnrolError::NotEnrolled),
    }
}

fn inode_of(netns: &OwnedFd) -> u64 {
    let file = netns.try_clone().map(File::from);
    file.and_then(|file| file.metadata()).map_or(0, |metadata| metadata.ino())
}

/// Runs a call that blocks on a thread of its own kind.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, EnrolError> {
    tokio::task::spawn_blocking(call).await.map_err(|_| EnrolError::Stopping)
}

/// Makes the run directory: 0700 and root's, or it is not used.
pub fn prepare_run_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let metadata = std::fs::symlink_metadata(path)?;
    let own = nix::unistd::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != own || metadata.mode() & 0o077 != 0 {
        let text = format!("{} must be a folder of this user with mode 0700", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}
