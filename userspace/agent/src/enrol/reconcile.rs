//! Every 30 seconds what the kernel has is compared with what should be there, and mended; its counters are read more
//! often.

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use culvert_redirect::{Counter, Deviation, Listeners};
use culvert_wire::report::{NodeStatus, PodStatus};
use culvert_workload::WorkloadUid;

use super::Enroller;
use crate::{acceptor::Waiting, kubelet::Kubelet, metrics::Metrics, pod::Pod};

/// How often the kernel's counters are read.
const COUNT: Duration = Duration::from_secs(5);
/// Every so many counts, pods are compared with the kernel: every 30 s.
const COUNTS_PER_LOOK: u32 = 6;

/// So many ended connections leave memory worth giving back.
const WORTH_IT: u64 = 200;

/// How many connections have ended: at the last look, and when memory was given back last.
#[derive(Debug, Default)]
struct Tide {
    last: u64,
    given_back: u64,
    captures: u64,
}

impl Tide {
    /// Whether enough connections have ended since memory was given back, and few since the last look: while many come
    /// and go, the memory of one serves the next. Pods that are withdrawn take their counts with them. What the capture
    /// of a pod leaves (the kernel's types are read to load its programs, tens of megabytes) serves no connection, so
    /// that it goes at once, however many come and go.
    fn is_out(&mut self, ended: u64, captures: u64) -> bool {
        let since_last = ended.saturating_sub(self.last);
        self.last = ended;
        self.given_back = self.given_back.min(ended);
        let captured = captures > self.captures;
        self.captures = captures;
        let out = captured || (since_last < WORTH_IT && ended - self.given_back >= WORTH_IT);
        if out {
            self.given_back = ended;
        }
        out
    }
}

/// What the kernel says of one pod.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// What is not as it should be; nothing: captured.
    pub deviations: Vec<Deviation>,
    /// Why the kernel could not be asked.
    pub error: Option<&'static str>,
}

impl Captured {
    /// Is the pod captured.
    pub fn is_complete(&self) -> bool {
        self.deviations.is_empty() && self.error.is_none()
    }

    /// The first thing that is wrong, in a word.
    pub fn reason(&self) -> &'static str {
        self.error.or_else(|| self.deviations.first().map(|deviation| deviation.name)).unwrap_or("")
    }
}

impl Enroller {
    /// Verifies and repairs, for ever.
    pub async fn reconcile(self: Arc<Self>, mut kubelet: Kubelet) {
        let mut clock = tokio::time::interval(COUNT);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tide = Tide::default();
        for turn in 1_u32.. {
            clock.tick().await;
            self.count().await;
            self.tidy(&mut tide).await;
            self.compare_kept().await;
            self.tell_kubelet(&mut kubelet);
            if !turn.is_multiple_of(COUNTS_PER_LOOK) {
                continue;
            }
            for pod in self.pods() {
                self.mend(&pod).await;
            }
        }
    }

    /// Gives memory back when pods were captured, or when many connections have ended and it has become quiet. Counted by
    /// what has ended, not by what is open at the moment of looking: a peak may come and go between two looks.
    async fn tidy(&self, tide: &mut Tide) {
        let ended = self.pods().iter().map(|pod| pod.live.ended()).sum();
        if !tide.is_out(ended, self.captures.load(Ordering::Relaxed)) {
            return;
        }
        if let Err(error) = super::blocking(culvert_redirect::return_unused_memory).await {
            tracing::warn!(%error, "unused memory could not be given back");
        }
    }

    /// kubelet's cgroup, again and again: a restarted kubelet may have another one.
    fn tell_kubelet(&self, kubelet: &mut Kubelet) {
        let Some(folder) = kubelet.look() else { return };
        if let Err(error) = self.parts.redirect.set_kubelet_cgroup(folder.as_deref()) {
            tracing::warn!(%error, "kubelet's cgroup is not there: its probes are judged like other plaintext");
        }
    }

    /// What the kernel says of a pod, now.
    pub async fn captured(&self, uid: &WorkloadUid) -> Captured {
        let (redirect, uid) = (self.parts.redirect.clone(), uid.to_string());
        match super::blocking(move || redirect.verify(&uid)).await {
            Ok(Ok(deviations)) => Captured { deviations, error: None },
            Ok(Err(error)) => Captured { error: Some(error.reason()), ..Captured::default() },
            Err(error) => Captured { error: Some(error.reason()), ..Captured::default() },
        }
    }

    /// How many connections a pod still has from before its enrolment; none where the kernel cannot be asked.
    pub async fn pre_enrolment(&self, uid: &WorkloadUid) -> usize {
        let (redirect, uid) = (self.parts.redirect.clone(), uid.to_string());
        super::blocking(move || redirect.pre_enrolment(&uid)).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// What the control plane is told.
    pub async fn report(&self) -> NodeStatus {
        let mut pods = Vec::new();
        for pod in self.pods() {
            let captured = self.captured(&pod.uid).await;
            pods.push(PodStatus {
                uid: pod.uid.clone(),
                captured: captured.is_complete(),
                reason: captured.reason().into(),
                addresses: confirmed(&pod),
            });
        }
        pods.extend(self.closed().into_iter().filter_map(closed));
        // What should be held and is not; its addresses are not confirmed by anything.
        for (uid, reason) in self.missing() {
            pods.push(PodStatus { uid, captured: false, reason: reason.into(), addresses: Vec::new() });
        }
        let own = &self.parts.shared.metrics.own;
        let captured = pods.iter().filter(|pod| pod.captured).count();
        own.pods.set(i64::try_from(pods.len()).unwrap_or(i64::MAX));
        own.pods_captured.set(i64::try_from(captured).unwrap_or(i64::MAX));
        let enforced_generation = self.parts.shared.current.get().map_or(0, |snapshot| snapshot.generation);
        NodeStatus { enforced_generation, pods }
    }

    async fn mend(self: &Arc<Self>, pod: &Arc<Pod>) {
        let captured = self.captured(&pod.uid).await;
        if captured.is_complete() {
            return;
        }
        for deviation in &captured.deviations {
            let (name, detail) = (deviation.name, &deviation.detail);
            tracing::error!(pod = %pod.uid, reason = name, detail, "the kernel does not have what the pod needs");
        }
        let _changing = self.changing.lock().await;
        let (redirect, uid) = (self.parts.redirect.clone(), pod.uid.to_string());
        match super::blocking(move || redirect.repair(&uid)).await {
            Ok(Ok(repair)) => {
                if let Some(listeners) = repair.listeners {
                    self.listen(pod, listeners).await;
                }
                for deviation in &repair.remaining {
                    let (name, detail) = (deviation.name, &deviation.detail);
                    tracing::error!(pod = %pod.uid, reason = name, detail, "could not be repaired: the pod is not captured");
                }
            }
            Ok(Err(error)) => {
                tracing::error!(pod = %pod.uid, reason = error.reason(), %error, "the pod could not be repaired");
            }
            Err(_stopping) => {}
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Accepts on new listeners; those of the lost ones end by themselves or with the pod.
    async fn listen(&self, pod: &Arc<Pod>, listeners: Listeners) {
        let kept = self.keep(pod.uid.as_str(), &listeners).await;
        let waiting = Waiting { listeners, early: Vec::new(), svid: self.svid_of(pod) };
        if let Some(held) = self.held().get_mut(&pod.uid) {
            held.acceptors = self.accept(waiting, pod);
            held.listeners = kept;
        }
    }

    async fn count(&self) {
        let metrics = &self.parts.shared.metrics;
        let redirect = self.parts.redirect.clone();
        match super::blocking(move || redirect.counters()).await {
            Ok(Ok(counts)) => counters(metrics, &counts),
            Ok(Err(error)) => tracing::warn!(reason = error.reason(), %error, "the kernel's counters cannot be read"),
            Err(_stopping) => {}
        }
    }
}

/// What is said of a pod that nobody holds. One of another node is that node's to speak of.
fn closed((uid, reason): (WorkloadUid, &'static str)) -> Option<PodStatus> {
    let said = PodStatus { uid, captured: false, reason: reason.into(), addresses: Vec::new() };
    (reason != "other_node").then_some(said)
}

/// The addresses read in the pod's namespace, without those that its record does not have: a pod that may change its
/// namespace can give itself any.
fn confirmed(pod: &Pod) -> Vec<std::net::IpAddr> {
    let record = pod.workload();
    let is_known = |address: &&std::net::IpAddr| record.addresses.is_empty() || record.addresses.contains(address);
    pod.addresses.iter().filter(is_known).copied().collect()
}

fn counters(metrics: &Metrics, counts: &[culvert_redirect::Counts]) {
    for counter in Counter::ALL {
        let sum: u64 = counts.iter().map(|pod| pod.values.get(*counter)).sum();
        let label = crate::metrics::Kernel { counter: counter.name() };
        metrics.own.kernel.get_or_create(&label).set(i64::try_from(sum).unwrap_or(i64::MAX));
    }
}
