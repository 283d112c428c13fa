//! Pins whose pod is not held: those of a former agent after a crash, and those of pods that were closed because their
//! record did not fit any more. Each is taken back as soon as a record of this node fits. Until then it stays closed:
//! steering and guard are never taken from a pod because nothing is known of it. Only a record of this node that says
//! "not enrolled" opens it, or the enrolment socket.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use culvert_redirect::PinnedPod;
use culvert_workload::WorkloadUid;

use super::{EnrolError, Enroller, Entry, find, usable};

/// Pause between two rounds for pods that could not be taken back at once.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause between two rounds when there is nothing to be taken back.
const PERIOD: Duration = Duration::from_secs(30);

/// What may become of pins whose pod cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The control plane says of this very pod that it is not culvert's: its traffic is its own again.
    Open,
    /// Closed until another record comes.
    Wait,
    /// Closed, and tried again soon.
    Retry,
}

/// What becomes of pins whose pod could not be held for this reason.
pub(super) fn fate(why: &EnrolError) -> Fate {
    match why {
        EnrolError::NotEnrolled => Fate::Open,
        EnrolError::NoRecord(_)
        | EnrolError::OtherNode(_)
        | EnrolError::HostNetwork
        | EnrolError::Ended
        | EnrolError::BadIdentity
        | EnrolError::Uninstalling
        | EnrolError::NotSynced => Fate::Wait,
        EnrolError::NotRoot(_)
        | EnrolError::NoNetns
        | EnrolError::AddressMismatch
        | EnrolError::Redirect(_)
        | EnrolError::Withdraw(_)
        | EnrolError::NoSvid(_)
        | EnrolError::Book(_)
        | EnrolError::IdentityChanged
        | EnrolError::NameMismatch { .. }
        | EnrolError::NotHeld
        | EnrolError::NotCaptured(_)
        | EnrolError::Cni(_)
        | EnrolError::Pins(_)
        | EnrolError::Stopping => Fate::Retry,
    }
}

/// Pods that were not taken back in a round.
#[derive(Debug, Clone, Copy, Default)]
struct Left {
    waiting: usize,
    retry: usize,
}

impl Enroller {
    /// Takes back every pod that has pins on this node, collects pins whose pod is gone, and brings changed settings of
    /// the held ones to the kernel; for ever.
    pub async fn recover(self: Arc<Self>) {
        // Nothing is decided before the control plane has said who lives where.
        let mut changes = self.parts.shared.current.changes();
        while self.parts.shared.current.get().is_none() {
            if changes.changed().await.is_err() {
                return;
            }
        }
        let mut warned = HashSet::new();
        self.strike_out().await;
        let mut left = self.round(&mut warned).await;
        let identities: Vec<_> = self.pods().iter().map(|pod| pod.identity().clone()).collect();
        // A pod whose SVID does not come is closed and held; there is nothing more to do for it here.
        let _ = futures::future::join_all(identities.iter().map(|identity| self.wait_for_svid(identity))).await;
        self.parts.shared.current.set_recovered();
        loop {
            let pause = if left.retry > 0 { PAUSE } else { PERIOD };
            let due = tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => left.waiting + left.retry > 0,
                    Err(_) => return,
                },
                () = self.released.notified() => true,
                () = tokio::time::sleep(pause) => true,
            };
            self.update_all().await;
            if due {
                left = self.round(&mut warned).await;
            }
        }
    }

    async fn round(self: &Arc<Self>, warned: &mut HashSet<(String, &'static str)>) -> Left {
        let pinned = match self.sweep().await {
            Ok(pinned) => pinned,
            Err(text) => {
                tracing::error!(error = text, "the pins cannot be read");
                return Left { retry: 1, waiting: 0 };
            }
        };
        let held: HashSet<_> = self.pods().iter().map(|pod| pod.uid.to_string()).collect();
        let (mut left, mut closed) = (Left::default(), BTreeMap::new());
        for pin in pinned.into_values().filter(|pin| !held.contains(&pin.uid)) {
            let Err(error) = self.take_back(&pin).await else {
                warned.retain(|(uid, _)| *uid != pin.uid);
                continue;
            };
            match fate(&error) {
                Fate::Open => continue,
                Fate::Wait => left.waiting += 1,
                Fate::Retry => left.retry += 1,
            }
            let reason = error.reason();
            closed.insert(WorkloadUid::new(&pin.uid), reason);
            if warned.insert((pin.uid.clone(), reason)) {
                tracing::warn!(pod = pin.uid, reason, %error, "not taken back yet; the pod stays closed");
            }
        }
        self.set_closed(closed);
        left
    }

    fn set_closed(&self, mut closed: BTreeMap<WorkloadUid, &'static str>) {
        let held = self.held();
        closed.retain(|uid, _| !held.contains_key(uid));
        drop(held);
        let before =
            std::mem::replace(&mut *self.closed.lock().unwrap_or_else(PoisonError::into_inner), closed.clone());
        if before != closed {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Holds the pod of these pins if its record fits, opens it if its record says so, else keeps it closed.
    async fn take_back(self: &Arc<Self>, pin: &PinnedPod) -> Result<(), EnrolError> {
        let (proc, inode) = (self.parts.proc.clone(), pin.netns_inode);
        let netns = super::blocking(move || find::netns(&proc, inode)).await?;
        let changing = self.changing.lock().await;
        self.staying()?;
        // Since the pins were listed the socket may have withdrawn the pod, or enrolled it.
        let still = self.pins().await.map_err(|_| EnrolError::Stopping)?.get(&pin.uid) == Some(pin);
        if !still || self.held().contains_key(&WorkloadUid::new(&pin.uid)) {
            return Ok(());
        }
        let snapshot = self.parts.shared.current.get().ok_or(EnrolError::NotSynced)?;
        let record = match usable(&snapshot, &WorkloadUid::new(&pin.uid), &self.parts.node) {
            Ok(record) => record,
            Err(why) if fate(&why) == Fate::Open => {
                tracing::info!(pod = pin.uid, reason = why.reason(), "the control plane lets the pod go");
                self.withdraw_alone(&changing, &pin.uid).await?;
                return Err(why);
            }
            Err(why) => {
                self.let_netns_go(&pin.uid).await;
                return Err(why);
            }
        };
        let identity = record.identity().ok_or(EnrolError::BadIdentity)?;
        let netns = netns.ok_or(EnrolError::NoNetns)?;
        let pod = self.capture_alone(&changing, &record, identity, netns).await?;
        drop(changing);
        tracing::info!(pod = pin.uid, "pod taken back");
        self.catch_up(&pod)
    }

    /// Nothing of ours may keep the namespace of a closed pod alive: its end is what its pins are collected by.
    async fn let_netns_go(&self, uid: &str) {
        let (redirect, name) = (self.parts.redirect.clone(), uid.to_owned());
        if let Ok(Err(error)) = super::blocking(move || redirect.release(&name)).await {
            tracing::warn!(pod = uid, %error, "connections from before the pod's enrolment could not be ended");
        }
    }

    /// Collects the pins of pods that are gone; gives those of the others. One that has a guard and no steering was being
    /// enrolled or withdrawn when its agent died: it is closed, and is opened if its record says so.
    async fn sweep(&self) -> Result<BTreeMap<String, PinnedPod>, String> {
        let _changing = self.changing.lock().await;
        let redirect = self.parts.redirect.clone();
        let swept = super::blocking(move || redirect.sweep()).await.map_err(|error| error.to_string())?;
        // What cannot be collected now can be taken back all the same.
        let swept = swept.inspect_err(|error| tracing::warn!(%error, "pins of pods that are gone are not collected"));
        for uid in swept.unwrap_or_default() {
            tracing::info!(pod = uid, "pins of a pod that is gone were removed");
            self.forget(&WorkloadUid::new(&uid));
            self.drop_kept(&uid).await;
            if let Err(error) = self.parts.book.remove(&uid) {
                tracing::warn!(pod = uid, %error, "the pod could not be struck out of the book");
            }
        }
        self.pins().await
    }

    /// Pods that are steered: whose namespace is alive.
    pub(super) async fn pinned(&self) -> Result<BTreeMap<String, PinnedPod>, String> {
        let mut pins = self.pins().await?;
        pins.retain(|_, pin| pin.netns_inode != 0);
        Ok(pins)
    }

    /// Pods that are steered or guarded.
    async fn pins(&self) -> Result<BTreeMap<String, PinnedPod>, String> {
        let redirect = self.parts.redirect.clone();
        let look = move || redirect.pinned().map_err(|error| error.to_string());
        let pinned = super::blocking(look).await.map_err(|error| error.to_string())??;
        let is_there = |pin: &PinnedPod| pin.netns_inode != 0 || pin.host_ifindex != 0;
        Ok(pinned.into_iter().filter(is_there).map(|pin| (pin.uid.clone(), pin)).collect())
    }

    /// The book says what a killed agent held; what the kernel does not confirm is struck out, and said.
    async fn strike_out(&self) {
        let _changing = self.changing.lock().await;
        // Pins that cannot be read confirm nothing and refute nothing.
        let Ok(pinned) = self.pinned().await else { return };
        let entries = self.parts.book.all().unwrap_or_else(|error| {
            tracing::warn!(%error, "the book of pods cannot be read");
            Vec::new()
        });
        for entry in entries {
            let confirmed = pinned.get(&entry.uid).is_some_and(|pin| confirms(pin, &entry));
            if !confirmed {
                let uid = &entry.uid;
                tracing::warn!(pod = uid, "the book of pods has a pod that the kernel does not confirm");
                let _ = self.parts.book.remove(uid);
            }
        }
    }
}

fn confirms(pin: &PinnedPod, entry: &Entry) -> bool {
    pin.netns_inode == entry.netns_inode && (pin.host_ifindex == 0 || pin.host_ifindex == entry.host_ifindex)
}
