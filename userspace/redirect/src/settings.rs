//! What the agent decides about the redirect.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the node.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where a bpffs is mounted, usually `/sys/fs/bpf`.
    pub bpffs: PathBuf,
    /// Name of the node: one folder of pins per node, also where several nodes share a kernel.
    pub node: String,
    /// Log each steering and guard decision through aya-log to `tracing` (target `culvert_ebpf`).
    /// Off, the statements are removed by the verifier and cost nothing.
    pub ebpf_log: bool,
    /// Folder of kubelet's cgroup in the cgroup2 tree. `None`: no probe goes past the agent.
    pub kubelet_cgroup: Option<PathBuf>,
    /// The cluster's DNS servers, reachable by UDP for pods with [`PodSettings::deny_non_tcp`].
    pub dns: Vec<IpAddr>,
    /// How the programs of the host veth are attached.
    pub hooks: HostHooks,
    /// Where the node's procfs is: `/proc`, or in a container whose own is read-only the place that the node's is mounted
    /// at. Processes are looked for and sysctls are written there.
    pub proc: PathBuf,
}

/// How the programs of the host veth are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostHooks {
    /// tcx where the kernel has it (6.6), else clsact.
    #[default]
    Auto,
    /// Always clsact, priority 1: for nodes whose CNI replaces the tcx chain.
    Clsact,
}

/// Settings of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSettings {
    /// The addresses that the pod is known by, if it is. What else its interface has of a family named here is not taken
    /// for its own at its first enrolment: a process with `NET_ADMIN` may have put it there. Link-local addresses are
    /// not concerned, and what an earlier enrolment took stays as it was.
    pub addresses: Vec<IpAddr>,
    /// Ports of httpGet, tcpSocket and gRPC probes and lifecycle hooks; at most 16.
    pub probe_ports: Vec<u16>,
    /// Drop UDP and SCTP, DNS to [`Config::dns`] excepted (`culvert.dev/non-tcp: deny`).
    pub deny_non_tcp: bool,
    /// What happens to TCP connections that were open before the pod was enrolled.
    pub open_flows: OpenFlows,
}

/// What happens to TCP connections that were open before the pod was enrolled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenFlows {
    /// They end at once (the pod is STRICT).
    #[default]
    Cut,
    /// They go on outside the mesh, counted as `guard_pre_enrolment`; what exceeds a bound is cut.
    Keep {
        /// At most so many connections (each costs a routing rule in the pod); at most 256.
        at_most: usize,
        /// At most so long.
        at_longest: Duration,
    },
}
