//! Why the kernel side could not do what it was asked, one enum per step.

use std::io;
use std::path::PathBuf;

/// Why [`crate::Redirect::open`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The binary carries no programs.
    #[error("built without BPF programs: run `cargo xtask build-ebpf` and build again")]
    NoPrograms,
    /// The machine lacks something; the remedy is in the text.
    #[error("{what}: {remedy}")]
    Unsupported {
        /// Stable snake_case reason, a [`crate::Finding::name`].
        name: &'static str,
        /// What was found.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The name of the node cannot be a folder.
    #[error("node name {0:?} cannot be used as a folder: use 1 to 63 of a-z, A-Z, 0-9, '-', '_'")]
    NodeName(String),
    /// The folder of pins is not private.
    #[error("{path} is {found}: it must be a folder of uid 0 with mode 0700")]
    PinFolder {
        /// The folder.
        path: PathBuf,
        /// What it is instead.
        found: String,
    },
    /// A pinned map has another layout than this agent's.
    #[error("pinned map {path} {found}: it was not made by this version; withdraw all pods and remove it")]
    PinnedMap {
        /// The pin.
        path: PathBuf,
        /// What differs.
        found: String,
    },
    /// The kernel refused a program; the text holds the verifier's last words.
    #[error("cannot load {program}: {detail}")]
    Load {
        /// The program or object.
        program: &'static str,
        /// aya's error with its sources.
        detail: String,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// Stable snake_case reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoPrograms => "no_bpf_programs",
            Self::Unsupported { name, .. } => name,
            Self::NodeName(_) => "node_name_invalid",
            Self::PinFolder { .. } => "pin_folder_unsafe",
            Self::PinnedMap { .. } => "pinned_map_mismatch",
            Self::Load { .. } => "program_refused",
            Self::System { .. } => "system_call_failed",
        }
    }
}

/// Why a pod could not be enrolled. Whatever was attached so far stays closed: no TCP leaves the pod.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// Not a UID.
    #[error("pod uid {0:?} is not 1 to 63 of a-z, A-Z, 0-9, '-', '_'")]
    Uid(String),
    /// The netns is the node's: a host-network pod.
    #[error("the pod uses the node's own network: it cannot be enrolled")]
    HostNetwork,
    /// The netns belongs to another pod.
    #[error("netns {inode} is already enrolled as pod {uid}")]
    NetnsTaken {
        /// Inode of the netns.
        inode: u64,
        /// The pod that has it.
        uid: String,
    },
    /// The UID is enrolled with another netns that is still alive.
    #[error("pod {uid} is already enrolled with netns {inode}: withdraw it first")]
    UidTaken {
        /// The pod.
        uid: String,
        /// Inode of the netns it is enrolled with.
        inode: u64,
    },
    /// The file descriptor is not a network namespace.
    #[error("the file descriptor is not a network namespace")]
    NotNetns,
    /// The pod has no usable interface.
    #[error("no usable interface in the pod: {0}")]
    Interface(String),
    /// Someone else's routing rules or routes are where ours go.
    #[error("routing in the pod is not free for us: {0}")]
    RoutingTaken(String),
    /// Settings beyond what the programs can hold.
    #[error("settings exceed a bound: {0}")]
    Settings(String),
    /// All slots are in use.
    #[error("{} pods are enrolled on this node, which is the limit", culvert_abi::MAX_PODS)]
    TooManyPods,
    /// The kernel refused a program.
    #[error("cannot load {program}: {detail}")]
    Load {
        /// The program.
        program: &'static str,
        /// aya's error with its sources.
        detail: String,
    },
    /// Read-back found something missing right after it was set up.
    #[error("read-back found {0}")]
    ReadBack(String),
    /// The self-test connection did not arrive at the outbound listener.
    #[error("self-test connection was not captured: {0}")]
    SelfTest(String),
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
}

impl EnrolError {
    /// Stable snake_case reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Uid(_) => "pod_uid_invalid",
            Self::HostNetwork => "host_network",
            Self::NetnsTaken { .. } => "netns_taken",
            Self::UidTaken { .. } => "uid_taken",
            Self::NotNetns => "not_a_netns",
            Self::Interface(_) => "no_usable_interface",
            Self::RoutingTaken(_) => "routing_taken",
            Self::Settings(_) => "settings_out_of_bounds",
            Self::TooManyPods => "too_many_pods",
            Self::Load { .. } => "program_refused",
            Self::ReadBack(_) => "read_back_failed",
            Self::SelfTest(_) => "self_test_failed",
            Self::System { .. } => "system_call_failed",
        }
    }
}

/// Why a pod could not be looked at or repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// No such pod is enrolled here.
    #[error("pod {0} is not enrolled here")]
    NotEnrolled(String),
    /// The repair failed.
    #[error("repair failed")]
    Repair(#[source] EnrolError),
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
}

impl VerifyError {
    /// Stable snake_case reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotEnrolled(_) => "not_enrolled",
            Self::Repair(error) => error.reason(),
            Self::System { .. } => "system_call_failed",
        }
    }
}

/// Why a pod could not be let go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WithdrawError {
    /// No such pod is enrolled here.
    #[error("pod {0} is not enrolled here")]
    NotEnrolled(String),
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
}

impl WithdrawError {
    /// Stable snake_case reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotEnrolled(_) => "not_enrolled",
            Self::System { .. } => "system_call_failed",
        }
    }
}

/// Why there is no event stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// [`crate::Redirect::events`] was called before.
    #[error("the event stream is already taken")]
    Taken,
    /// A system call failed.
    #[error("cannot read the event ring")]
    System(#[from] io::Error),
}

impl EventsError {
    /// Stable snake_case reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Taken => "events_taken",
            Self::System(_) => "system_call_failed",
        }
    }
}

/// Why a socket inside a pod's netns could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The socket could not be made or set up in the pod's netns.
    #[error("cannot {action} in the pod's netns")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// A wire or app leg of the wrong kind was asked for (a client address of the pod itself, an
    /// address family that differs).
    #[error("{0}")]
    Refused(&'static str),
    /// Every source port of the app leg range is in use for this client and destination.
    #[error("no source port is free for this client")]
    NoPort,
    /// The kernel map of connecting app legs is full.
    #[error("the kernel map of app legs does not take the entry")]
    Map(#[source] io::Error),
    /// The destination did not answer, or refused.
    #[error("connect failed")]
    Connect(#[source] io::Error),
}

impl DialError {
    /// Stable snake_case reason. Of a failed connect: `connection_refused`, `timed_out`,
    /// `network_unreachable`, `host_unreachable`, `connection_reset`, else `connect_failed`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Socket { .. } => "pod_socket_failed",
            Self::Refused(_) => "address_refused",
            Self::NoPort => "no_source_port",
            Self::Map(_) => "flow_map_full",
            Self::Connect(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => "connection_refused",
                io::ErrorKind::TimedOut => "timed_out",
                io::ErrorKind::NetworkUnreachable => "network_unreachable",
                io::ErrorKind::HostUnreachable => "host_unreachable",
                io::ErrorKind::ConnectionReset => "connection_reset",
                _ => "connect_failed",
            },
        }
    }
}
