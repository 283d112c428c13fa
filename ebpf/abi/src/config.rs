//! What the agent tells the programs.

use crate::Address;

/// Addresses of a pod that the programs know, per pod.
pub const MAX_POD_ADDRESSES: usize = 8;
/// Ports that kubelet may probe, per pod.
pub const MAX_PROBE_PORTS: usize = 16;
/// DNS servers that stay reachable for a pod that may not use UDP.
pub const MAX_DNS: usize = 8;

/// Bits of [`PodConfig::flags`].
pub mod pod_flags {
    /// Set-up is complete: tagged TCP passes. Without it all TCP of the pod is dropped.
    pub const ENFORCE: u32 = 1;
    /// UDP and SCTP are dropped, DNS to the cluster's servers excepted.
    pub const DENY_NON_TCP: u32 = 2;
}

/// What guard and watch know of the pod behind a host veth (map `pod_policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PodConfig {
    /// See [`pod_flags`].
    pub flags: u32,
    /// Row of the counters.
    pub slot: u32,
    /// MAC address of the pod's interface.
    pub mac: [u8; 6],
    /// Used entries of `addresses`.
    pub address_count: u8,
    /// Used entries of `probe_ports`.
    pub probe_port_count: u8,
    /// The pod's addresses, IPv4 as v4-mapped.
    pub addresses: [Address; MAX_POD_ADDRESSES],
    /// Ports of httpGet, tcpSocket and gRPC probes and lifecycle hooks, host byte order.
    pub probe_ports: [u16; MAX_PROBE_PORTS],
}

/// What `pod_steer` and `probe_mark` know of their pod: read-only data, frozen at load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SteerConfig {
    /// Ifindex of the host veth.
    pub pod: u32,
    /// Row of the counters.
    pub slot: u32,
    /// Used entries of `addresses`.
    pub address_count: u32,
    /// The pod's addresses, IPv4 as v4-mapped.
    pub addresses: [Address; MAX_POD_ADDRESSES],
}

/// What holds for all pods of the node (map `node_config`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NodeConfig {
    /// Id of kubelet's cgroup in the cgroup2 tree; 0: no probe is exempt.
    pub kubelet_cgroup: u64,
    /// Used entries of `dns`.
    pub dns_count: u32,
    /// Always 0.
    pub reserved: u32,
    /// The cluster's DNS servers, IPv4 as v4-mapped.
    pub dns: [Address; MAX_DNS],
}

const _: () = assert!(size_of::<PodConfig>() == 176 && align_of::<PodConfig>() == 4);
const _: () = assert!(size_of::<SteerConfig>() == 140 && align_of::<SteerConfig>() == 4);
const _: () = assert!(size_of::<NodeConfig>() == 144 && align_of::<NodeConfig>() == 8);
