//! Pods follow the roster: a new record or new rules reach the pod at once. A pod whose record no longer fits is closed
//! at once; what becomes of its kernel side is decided after that, see `recover`.

use std::{sync::Arc, time::Duration};

use culvert_workload::Workload;

use super::{EnrolError, Enroller, usable};
use crate::{
    metrics::Own,
    pod::{POLICY_CHANGE, Pod},
    snapshot::Snapshot,
};

/// How often the connections of a pod that leaves are counted.
const LOOK: Duration = Duration::from_millis(50);
/// How long the connections of a pod that leaves may take after that to end by themselves.
const WAY_OUT: Duration = Duration::from_secs(5);
/// How long it takes at most until all agents have heard of a change (docs/control-plane.md, "Scale").
const WORD_GOES_ROUND: Duration = Duration::from_secs(1);

impl Enroller {
    /// Applies each new snapshot to all pods, for ever. Nothing here waits for a pod, the kernel or the CA.
    pub async fn follow(self: Arc<Self>) {
        let mut changes = self.parts.shared.current.changes();
        loop {
            changes.borrow_and_update();
            self.apply();
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn apply(self: &Arc<Self>) {
        let metrics = &self.parts.shared.metrics;
        let begun = std::time::Instant::now();
        let following = self.following.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(snapshot) = self.parts.shared.current.get() else { return };
        for pod in self.pods() {
            match self.show(&snapshot, &pod) {
                Ok(()) => {}
                Err(EnrolError::NotEnrolled) if !pod.judge().rules().is_strict() => self.drain(&pod),
                Err(why) => self.release(&pod, &why),
            }
        }
        drop(following);
        metrics.own.rejudge_seconds.observe(begun.elapsed());
        metrics.own.generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        self.parts.follow_dns(&snapshot);
    }

    /// A pod that was not among the held ones when a snapshot came sees it now.
    pub(super) fn catch_up(&self, pod: &Arc<Pod>) -> Result<(), EnrolError> {
        let _following = self.following.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(snapshot) = self.parts.shared.current.get() else { return Err(EnrolError::NotSynced) };
        self.show(&snapshot, pod).inspect_err(|why| self.release(pod, why))
    }

    /// The label was taken away, and nothing forbids that open connections end by themselves: for a while the agent goes on
    /// with them, and takes new ones, of which no policy of the mesh says anything any more. A strict pod's end at once.
    fn drain(self: &Arc<Self>, pod: &Arc<Pod>) {
        // Also of one that is on its way already: in between it may have been wanted again.
        pod.leave();
        match self.held().get_mut(&pod.uid).filter(|held| Arc::ptr_eq(&held.pod, pod)) {
            Some(held) if !held.draining => held.draining = true,
            _ => return,
        }
        tracing::info!(pod = %pod.uid, patience = ?WAY_OUT, "the pod leaves the mesh: its connections may end");
        let (enroller, pod) = (self.clone(), pod.clone());
        tokio::spawn(async move {
            // Until then some callers still come by HBONE, which is answered here only.
            tokio::time::sleep(WORD_GOES_ROUND).await;
            let quiet = async {
                while !pod.live.is_empty() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            let _ = tokio::time::timeout(WAY_OUT, quiet).await;
            enroller.settle(&pod);
        });
    }

    /// The end of a pod's way out: it is let go, or by now it is wanted again.
    fn settle(&self, pod: &Arc<Pod>) {
        let _following = self.following.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(held) = self.held().get_mut(&pod.uid).filter(|held| Arc::ptr_eq(&held.pod, pod)) {
            held.draining = false;
        }
        if let Some(snapshot) = self.parts.shared.current.get()
            && let Err(why) = self.show(&snapshot, pod)
        {
            self.release(pod, &why);
        }
    }

    /// Shows a snapshot to a pod; an error says why the pod may not be held any longer.
    fn show(&self, snapshot: &Snapshot, pod: &Pod) -> Result<(), EnrolError> {
        let record = usable(snapshot, &pod.uid, &self.parts.node)?;
        if record.identity().as_ref() != Some(pod.identity()) {
            return Err(EnrolError::IdentityChanged);
        }
        let own = &self.parts.shared.metrics.own;
        for reason in pod.follow(snapshot, &record) {
            own.decided("rejudge", "deny", reason);
            Own::word(&own.revoked, POLICY_CHANGE);
        }
        Ok(())
    }

    /// Probe ports, strictness and the like of all pods, where they have changed.
    pub(super) async fn update_all(&self) {
        for pod in self.pods() {
            self.update(&pod.workload()).await;
        }
    }

    async fn update(&self, record: &Workload) {
        let wanted = self.settings(record);
        // Also whether what was open before the enrolment may go on: a pod that has become strict keeps none of it.
        if self.held().get(&record.uid).is_none_or(|held| held.settings == wanted) {
            return;
        }
        let (redirect, uid, settings) = (self.parts.redirect.clone(), record.uid.to_string(), wanted.clone());
        match super::blocking(move || redirect.update(&uid, settings)).await {
            Ok(Ok(())) => {
                if let Some(held) = self.held().get_mut(&record.uid) {
                    held.settings = wanted;
                }
            }
            Ok(Err(error)) => {
                tracing::error!(pod = %record.uid, reason = error.reason(), %error, "settings of the pod not applied");
            }
            Err(_stopping) => {}
        }
    }

    /// Ends what the agent does for a pod; the kernel side stays, closed, until `recover` has looked after it.
    fn release(&self, pod: &Arc<Pod>, why: &EnrolError) {
        {
            let mut held = self.held();
            if held.get(&pod.uid).is_none_or(|held| !Arc::ptr_eq(&held.pod, pod)) {
                return;
            }
            if let Some(held) = held.remove(&pod.uid) {
                self.end(&held);
            }
        }
        self.parts.keeper.release(pod.uid.as_str());
        self.closed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(pod.uid.clone(), why.reason());
        tracing::warn!(pod = %pod.uid, reason = why.reason(), "the pod is closed: its record does not fit any more");
        self.changed.send_modify(|count| *count += 1);
        self.released.notify_one();
    }
}

impl super::Parts {
    /// Pods that may not use UDP may still ask the cluster's DNS.
    fn follow_dns(&self, snapshot: &Snapshot) {
        let is_dns = |name: &str| matches!(name, "kube-dns" | "coredns" | "rke2-coredns-rke2-coredns");
        let services = snapshot.roster.services();
        let mut servers: Vec<_> = services
            .filter(|service| &*service.name.namespace == "kube-system" && is_dns(&service.name.name))
            .flat_map(|service| service.vips.iter().copied())
            .collect();
        servers.sort();
        servers.truncate(8);
        if let Err(error) = self.redirect.set_dns(&servers) {
            tracing::warn!(%error, "the cluster's DNS servers are not known to the guard");
        }
    }
}
