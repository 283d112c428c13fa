//! Kernel contact: loads and attaches the BPF programs, prepares a pod's network namespace, checks
//! and repairs all of it by reading back from the kernel, and makes the agent's sockets inside a
//! pod's namespace. The only userspace crate with aya or `unsafe`.
//!
//! ```text
//! Redirect::open -> enrol(uid, netns) -> PodRedirect { listeners, netns }
//!                                          accept on listeners      netns.connect_wire / connect_app / connect_plain
//! ```
//!
//! Everything that enforces is pinned under `<bpffs>/culvert/v<abi>/<node>/`: dropping a
//! [`Redirect`] changes nothing in the kernel, only [`Redirect::withdraw`] does.

mod deviation;
mod error;
mod event;
mod pod;
mod settings;
mod socket;

pub use culvert_abi::{Counter, PodCounters};
pub use deviation::{Deviation, Direction, Family, Finding, Repair};
pub use error::{DialError, EnrolError, EventsError, OpenError, VerifyError, WithdrawError};
pub use event::{Drop, DropEvent, Events};
pub use pod::{Listeners, PinnedPod, PodRedirect};
pub use settings::{Config, HostHooks, OpenFlows, PodSettings};
pub use socket::{AppLeg, Leg, Netns};

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The kernel side of one node. All methods may be called from any thread; they block for
/// milliseconds (netlink, loading), so an async caller uses `spawn_blocking`.
#[derive(Debug)]
pub struct Redirect {}

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
        let _ = config;
        Err(OpenError::NoPrograms)
    }

    /// Brings a pod under culvert, or takes over one that an earlier agent enrolled. The guard is
    /// attached first and never leaves; until set-up is complete no TCP passes it. Ends with a
    /// read-back of everything and a self-test connection. Idempotent for the same UID and netns:
    /// a second call replaces programs and listeners.
    pub fn enrol(&self, uid: &str, netns: OwnedFd, settings: PodSettings) -> Result<PodRedirect, EnrolError> {
        let _ = (netns, settings);
        Err(EnrolError::Uid(uid.to_owned()))
    }

    /// Changes a pod's probe ports or non-TCP rule. `open_flows` has no effect here.
    pub fn update(&self, uid: &str, settings: PodSettings) -> Result<(), VerifyError> {
        let _ = settings;
        Err(VerifyError::NotEnrolled(uid.to_owned()))
    }

    /// Every pod with pins on this node.
    pub fn pinned(&self) -> Result<Vec<PinnedPod>, VerifyError> {
        Ok(Vec::new())
    }

    /// Detaches everything of a pod and removes rules, routes and pins. Works with a netns or veth
    /// that is gone.
    pub fn withdraw(&self, uid: &str) -> Result<(), WithdrawError> {
        Err(WithdrawError::NotEnrolled(uid.to_owned()))
    }

    /// Compares what a pod should have with what the kernel has. Empty: the pod is captured.
    pub fn verify(&self, uid: &str) -> Result<Vec<Deviation>, VerifyError> {
        Err(VerifyError::NotEnrolled(uid.to_owned()))
    }

    /// Mends what [`verify`](Self::verify) finds, as far as possible; the guard stays closed meanwhile.
    pub fn repair(&self, uid: &str) -> Result<Repair, VerifyError> {
        Err(VerifyError::NotEnrolled(uid.to_owned()))
    }

    /// Ends what has run out: connections kept from before enrolment whose time is up, pins of pods
    /// whose netns and veth are gone. Call it with each reconcile. Returns the UIDs of pods removed.
    pub fn sweep(&self) -> Result<Vec<String>, VerifyError> {
        Ok(Vec::new())
    }

    /// Tells the programs which cgroup is kubelet's; again after each restart of kubelet.
    pub fn set_kubelet_cgroup(&self, folder: Option<&Path>) -> std::io::Result<()> {
        let _ = folder;
        Ok(())
    }

    /// Tells the programs the cluster's DNS servers; at most 8.
    pub fn set_dns(&self, servers: &[IpAddr]) -> std::io::Result<()> {
        let _ = servers;
        Ok(())
    }

    /// Counters of every enrolled pod.
    pub fn counters(&self) -> Result<Vec<Counts>, VerifyError> {
        Ok(Vec::new())
    }

    /// The stream of drops. Once.
    pub fn events(&self) -> Result<Events, EventsError> {
        Err(EventsError::Taken)
    }
}

/// Looks at this machine: what culvert needs and what is there. Changes nothing. `bpffs` as in [`Config`].
#[must_use]
pub fn check_machine(bpffs: &Path) -> Vec<Finding> {
    let _ = bpffs;
    Vec::new()
}

/// Switches core dumps and ptrace of this process off, for keys in memory.
pub fn forbid_inspection() -> std::io::Result<()> {
    Ok(())
}
