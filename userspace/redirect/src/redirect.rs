//! The door to the kernel side of a node.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use culvert_abi::PodCounters;

use crate::deviation::{Deviation, Finding, Repair};
use crate::error::{EnrolError, EventsError, OpenError, VerifyError, WithdrawError};
use crate::event::Events;
use crate::machine;
use crate::node::Node;
use crate::pins::Pins;
use crate::pod::{Listeners, PinnedPod, PodRedirect};
use crate::settings::{Config, PodSettings};

/// The kernel side of one node. All methods may be called from any thread; they block for
/// milliseconds (netlink, loading), so an async caller uses `spawn_blocking`. Clones are the same node.
#[derive(Clone, Debug)]
pub struct Redirect {
    node: Arc<Node>,
}

/// Counters of one pod, summed over the CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// UID of the pod.
    pub uid: String,
    /// The sums; read them with [`PodCounters::get`].
    pub values: PodCounters,
}

impl Redirect {
    /// Checks the machine, makes or reopens the pins of this node and loads the programs of the
    /// host veths. The calling thread's netns is taken for the node's.
    pub fn open(config: Config) -> Result<Redirect, OpenError> {
        Node::open(&config).map(|node| Self { node: Arc::new(node) })
    }

    /// Brings a pod under culvert, or takes over one that an earlier agent enrolled. The guard is
    /// attached first and never leaves; until set-up is complete no TCP passes it. Ends with a
    /// read-back of everything and a self-test connection. Idempotent for the same UID and netns:
    /// a second call replaces programs and listeners.
    pub fn enrol(&self, uid: &str, netns: OwnedFd, settings: PodSettings) -> Result<PodRedirect, EnrolError> {
        self.node.enrol(uid, netns, settings, None)
    }

    /// The same with listeners that somebody has kept while no agent was there. They are used if they are the very
    /// sockets that the pod's connections are steered to: what waits in their backlog is accepted. Otherwise they are
    /// closed, and new ones are made.
    pub fn enrol_with(
        &self,
        uid: &str,
        netns: OwnedFd,
        settings: PodSettings,
        kept: Option<Listeners>,
    ) -> Result<PodRedirect, EnrolError> {
        self.node.enrol(uid, netns, settings, kept)
    }

    /// The addresses of a netns that could be enrolled, link-local ones left out; changes nothing. Refuses the node's own
    /// netns, and one whose interface is no veth that ends on this node.
    pub fn addresses(&self, netns: &OwnedFd) -> Result<Vec<IpAddr>, EnrolError> {
        self.node.addresses(netns)
    }

    /// Changes a pod's probe ports or non-TCP rule. With [`OpenFlows::Cut`](crate::OpenFlows)
    /// the connections that were kept at enrolment end; no other value has an effect here.
    pub fn update(&self, uid: &str, settings: PodSettings) -> Result<(), VerifyError> {
        self.node.update(uid, settings)
    }

    /// Removes the pins of a node that has no pods any more, and the folders that nobody else uses. What programs are
    /// still held by a process goes on until that ends.
    pub fn dismantle(bpffs: &Path, node: &str) -> Result<(), OpenError> {
        Pins::dismantle(bpffs, node)
    }

    /// How many connections from before its enrolment a pod still has open, outside of the mesh.
    pub fn pre_enrolment(&self, uid: &str) -> Result<usize, VerifyError> {
        self.node.pre_enrolment(uid)
    }

    /// Every pod with pins on this node.
    pub fn pinned(&self) -> Result<Vec<PinnedPod>, VerifyError> {
        self.node.pinned().map_err(|source| VerifyError::System { action: "read the pins".to_owned(), source })
    }

    /// Detaches everything of a pod and removes rules, routes and pins. Works with a netns or veth
    /// that is gone. Also closes what [`PodRedirect`] handed out from accepting: the listeners no
    /// longer get anything.
    pub fn withdraw(&self, uid: &str) -> Result<(), WithdrawError> {
        self.node.withdraw(uid)
    }

    /// Forgets a pod without touching its steering and its guard: it stays closed until it is enrolled again or
    /// withdrawn. Connections kept from before its enrolment end, and the netns is no longer kept alive, so that
    /// [`sweep`](Self::sweep) finds out when it is gone. Nothing happens for a pod that this process does not know.
    pub fn release(&self, uid: &str) -> io::Result<()> {
        self.node.release(uid)
    }

    /// Compares what a pod should have with what the kernel has. Empty: the pod is captured.
    pub fn verify(&self, uid: &str) -> Result<Vec<Deviation>, VerifyError> {
        self.node.verify(uid)
    }

    /// Mends what [`verify`](Self::verify) finds, as far as possible; the guard stays closed meanwhile.
    pub fn repair(&self, uid: &str) -> Result<Repair, VerifyError> {
        self.node.repair(uid)
    }

    /// Ends what has run out: connections kept from before enrolment whose time is up, pins of pods
    /// whose netns and veth are gone. Call it with each reconcile. Returns the UIDs of pods removed.
    pub fn sweep(&self) -> Result<Vec<String>, VerifyError> {
        self.node.sweep()
    }

    /// Tells the programs which cgroup is kubelet's (a folder of the cgroup2 tree); again after each
    /// restart of kubelet.
    pub fn set_kubelet_cgroup(&self, folder: Option<&Path>) -> io::Result<()> {
        self.node.set_kubelet(folder)
    }

    /// Tells the programs the cluster's DNS servers; at most 8.
    pub fn set_dns(&self, servers: &[IpAddr]) -> io::Result<()> {
        self.node.set_dns(servers)
    }

    /// Counters of every pod that this process enrolled.
    pub fn counters(&self) -> Result<Vec<Counts>, VerifyError> {
        let read = |source| VerifyError::System { action: "read the counters".to_owned(), source };
        let slots = self.node.slots().map_err(read)?;
        let mut counts = Vec::new();
        for pod in self.node.pods().values() {
            if slots.contains(&(pod.host.ifindex, pod.slot)) {
                let per_cpu = self.node.shared.maps.pod_counters.get_per_cpu(&pod.slot);
                let read = |source| VerifyError::System { action: "read the counters".to_owned(), source };
                counts.push(Counts { uid: pod.uid.clone(), values: sum(&per_cpu.map_err(read)?) });
            }
        }
        Ok(counts)
    }

    /// The stream of drops. There is one; [`EventsError::Taken`] while it lives. Needs a tokio runtime.
    pub fn events(&self) -> Result<Events, EventsError> {
        if self.node.events_taken.swap(true, Ordering::Relaxed) {
            return Err(EventsError::Taken);
        }
        Events::open(self.node.clone()).inspect_err(|_| self.node.events_taken.store(false, Ordering::Relaxed))
    }
}

fn sum(per_cpu: &[PodCounters]) -> PodCounters {
    let mut total = PodCounters::default();
    for cpu in per_cpu {
        for (sum, value) in total.values.iter_mut().zip(cpu.values) {
            *sum += value;
        }
    }
    total
}

/// Looks at this machine: what culvert needs and what is there. Changes nothing. `bpffs` as in [`Config`].
#[must_use]
pub fn check_machine(bpffs: &Path) -> Vec<Finding> {
    machine::check(bpffs)
}
