//! What the process gives up: core dumps, being traced, capabilities beyond the documented set.

use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        statvfs::{FsFlags, statvfs},
    },
};

/// What the agent keeps after start. docs/threat-model.md says what each is for.
pub const KEPT: [Capability; 6] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_RAW,
    // readlink of /proc/PID/ns/net when pods are found again after a crash
    Capability::CAP_SYS_PTRACE,
];

/// Most descriptors that are asked for.
const DESCRIPTORS: u64 = 1_048_576;

/// The process could not be hardened.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// `prctl` or `setrlimit` for core dumps failed.
    #[error("core dumps and tracing could not be switched off")]
    Dumps(#[source] nix::Error),
    /// Capabilities could not be given up.
    #[error("capabilities could not be dropped")]
    Capabilities(#[source] caps::errors::CapsError),
}

impl HardenError {
    /// Stable word for the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dumps(_) => "harden_dumps",
            Self::Capabilities(_) => "harden_capabilities",
        }
    }
}

/// Keys must not reach a core file or a debugger. Called first, before any key exists.
pub fn forbid_dumps() -> Result<(), HardenError> {
    prctl::set_dumpable(false).map_err(HardenError::Dumps)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(HardenError::Dumps)
}

/// Raises the limit of open descriptors as far as the machine lets us; a refusal is only a warning.
pub fn raise_descriptor_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft >= DESCRIPTORS || setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, hard.max(DESCRIPTORS)).is_ok() {
        return;
    }
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => tracing::warn!(limit = hard, "fewer open files than wished: the hard limit may not be raised"),
        Err(error) => tracing::warn!(%error, limit = soft, "the limit of open files could not be raised"),
    }
}

/// Container runtimes give a container without `privileged` a read-only `/proc/sys`. Settings of pods' network namespaces
/// are written there, so it is made writable in this process's own mounts; a refusal shows when a pod is enrolled.
pub fn open_sysctls() {
    let read_only = statvfs("/proc/sys").is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if read_only && let Err(error) = mount(None::<&str>, "/proc/sys", None::<&str>, flags, None::<&str>) {
        tracing::warn!(%error, "settings of pods' network namespaces cannot be written: /proc/sys stays read-only");
    }
}

/// Drops every capability outside [`KEPT`] from this thread, and so from all that it starts later: called before
/// the first thread is made.
pub fn drop_capabilities() -> Result<(), HardenError> {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    let held = caps::read(None, CapSet::Permitted).map_err(HardenError::Capabilities)?;
    let rest: CapsHashSet = held.intersection(&kept).copied().collect();
    for capability in caps::all() {
        if !kept.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, capability).map_err(HardenError::Capabilities)?;
        }
    }
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).map_err(HardenError::Capabilities)?;
    }
    caps::set(None, CapSet::Effective, &rest).map_err(HardenError::Capabilities)?;
    caps::set(None, CapSet::Permitted, &rest).map_err(HardenError::Capabilities)
}
