//! Pods follow the roster: a new record or new rules reach the pod, and a pod without a record is let go.

use std::sync::Arc;

use culvert_workload::Workload;

use super::{EnrolError, Enroller, Held, usable};
use crate::{metrics::Own, pod::POLICY_CHANGE, snapshot::Snapshot};

/// What a new snapshot means for a held pod.
enum News {
    /// A record; the identity is the same.
    Record(Arc<Workload>),
    /// The same pod with another identity.
    Identity,
    /// None any more, or one that may not be enrolled.
    Gone(EnrolError),
}

impl Enroller {
    /// Applies each new snapshot to all pods, for ever.
    pub async fn follow(self: Arc<Self>) {
        let mut changes = self.parts.shared.current.changes();
        loop {
            changes.borrow_and_update();
            if let Some(snapshot) = self.parts.shared.current.get() {
                self.apply(&snapshot).await;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// One snapshot: judge again first, for that is what must not wait; then the kernel side.
    pub(super) async fn apply(self: &Arc<Self>, snapshot: &Snapshot) {
        let metrics = &self.parts.shared.metrics;
        let begun = std::time::Instant::now();
        let mut later = Vec::new();
        for pod in self.pods() {
            match self.news(snapshot, &pod) {
                News::Record(record) => {
                    for reason in pod.follow(snapshot, &record) {
                        metrics.own.decided("rejudge", "deny", reason);
                        Own::word(&metrics.own.revoked, POLICY_CHANGE);
                    }
                    later.push((pod, Ok(record)));
                }
                news @ (News::Identity | News::Gone(_)) => later.push((pod, Err(news))),
            }
        }
        metrics.own.rejudge_seconds.observe(begun.elapsed());
        for (pod, what) in later {
            match what {
                Ok(record) => self.update(&record).await,
                Err(News::Gone(why)) => self.let_go(pod.uid.as_str(), &why).await,
                Err(_) => self.replace(pod.uid.as_str()).await,
            }
        }
        metrics.own.generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        self.parts.follow_dns(snapshot);
    }

    fn news(&self, snapshot: &Snapshot, pod: &crate::pod::Pod) -> News {
        match usable(snapshot, &pod.uid, &self.parts.node) {
            Err(why) => News::Gone(why),
            Ok(record) if record.identity().as_ref() != Some(pod.identity()) => News::Identity,
            Ok(record) => News::Record(record),
        }
    }

    /// Probe ports and the like, where they have changed.
    async fn update(&self, record: &Workload) {
        let wanted = self.settings(record);
        let same = |held: &Held| {
            held.settings.probe_ports == wanted.probe_ports && held.settings.deny_non_tcp == wanted.deny_non_tcp
        };
        if self.held().get(&record.uid).is_none_or(same) {
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

    pub(super) async fn let_go(&self, uid: &str, why: &EnrolError) {
        tracing::info!(pod = uid, reason = why.reason(), "the control plane lets the pod go");
        if let Err(error) = self.withdraw(uid).await {
            tracing::error!(pod = uid, reason = error.reason(), %error, "the pod could not be let go");
        }
    }

    /// The same namespace under another identity: everything of the former one ends.
    async fn replace(self: &Arc<Self>, uid: &str) {
        let inode = self.held().get(&culvert_workload::WorkloadUid::new(uid)).map(|held| held.netns_inode);
        let Some(netns) = inode.and_then(super::find::netns) else {
            tracing::error!(
                pod = uid,
                reason = "netns_lost",
                "the pod's identity has changed and its netns is not found"
            );
            return self.release(uid);
        };
        if let Err(error) = self.enrol(uid, netns).await {
            tracing::error!(pod = uid, reason = error.reason(), %error, "the pod could not take its new identity");
            self.release(uid);
        }
    }

    /// Ends what the agent does for a pod; the kernel side stays, closed.
    fn release(&self, uid: &str) {
        self.forget(&culvert_workload::WorkloadUid::new(uid));
        self.changed.notify_waiters();
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
