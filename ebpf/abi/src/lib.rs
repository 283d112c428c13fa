//! What kernel programs and agent share: map names, keys, values, events and counters.
//!
//! Every struct is `repr(C)` without padding (asserted below), so that no byte of kernel memory
//! is undefined and both sides agree on each offset. A change of any layout here needs a new
//! [`ABI_VERSION`]: the agent refuses pinned maps of another version.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

mod config;
mod counter;
mod event;
mod flow;
#[cfg(test)]
mod tests;
#[cfg(feature = "user")]
mod user;

pub use config::{MAX_DNS, MAX_POD_ADDRESSES, MAX_PROBE_PORTS, NodeConfig, PodConfig, SteerConfig, pod_flags};
pub use counter::{COUNTERS, Counter, PodCounters};
pub use event::{Event, event_kind};
pub use flow::{Address, FlowKey, ip, is_v4, mapped, words};

/// Version of everything in this crate; part of the pin path, so two versions never share a map.
pub const ABI_VERSION: u32 = 1;

/// Value of the `agent_tag` socket storage on each socket of the agent.
pub const AGENT_TAG: u32 = 0x6375_6c76;

/// Mark of the agent's wire sockets. It routes, it never authorises: the pod can set it too.
pub const AGENT_MARK: u32 = 0x539;

/// Mark of a kubelet probe's connection inside the pod. It routes, it never authorises.
pub const PROBE_MARK: u32 = 0x53b;

/// Lowest source port of an app leg: below the range that Linux clients use by default (32768 to 60999).
pub const APP_LEG_PORT_MIN: u16 = 10_240;
/// Highest source port of an app leg.
pub const APP_LEG_PORT_MAX: u16 = 32_767;

/// Pods that one node can have enrolled at the same time (slots of the counters).
pub const MAX_PODS: u32 = 1_024;

/// Slots of the `listeners` sockmap of a pod.
pub mod slot {
    /// Connections from the wire, IPv4.
    pub const INBOUND_V4: u32 = 0;
    /// Connections from the wire, IPv6.
    pub const INBOUND_V6: u32 = 1;
    /// Connections of the pod's processes, IPv4.
    pub const OUTBOUND_V4: u32 = 2;
    /// Connections of the pod's processes, IPv6.
    pub const OUTBOUND_V6: u32 = 3;
    /// Number of slots.
    pub const COUNT: u32 = 4;
}

/// Names of the maps; the ones under "shared" are pinned once per node.
pub mod map {
    /// Shared. Socket storage with `BPF_F_CLONE`: [`AGENT_TAG`](crate::AGENT_TAG) on the agent's sockets.
    pub const AGENT_TAG: &str = "agent_tag";
    /// Shared. [`FlowKey`](crate::FlowKey) of app legs, from before they connect until they are over: steering passes them
    /// to the app, and no wire segment may carry that tuple.
    pub const APP_LEGS: &str = "app_legs";
    /// Shared. [`FlowKey`](crate::FlowKey) of kubelet's probes.
    pub const PROBE_FLOWS: &str = "probe_flows";
    /// Shared. [`FlowKey`](crate::FlowKey) of wire connections whose client port is in the app leg range.
    pub const WIRE_FLOWS: &str = "wire_flows";
    /// Shared. [`FlowKey`](crate::FlowKey) of connections older than the enrolment; value: deadline in boot time ns.
    pub const PRE_ENROLMENT: &str = "pre_enrolment";
    /// Shared. [`PodConfig`](crate::PodConfig) by ifindex of the host veth.
    pub const POD_POLICY: &str = "pod_policy";
    /// Shared. One [`NodeConfig`](crate::NodeConfig).
    pub const NODE_CONFIG: &str = "node_config";
    /// Shared, per CPU. [`PodCounters`](crate::PodCounters) by slot.
    pub const POD_COUNTERS: &str = "pod_counters";
    /// Shared. Ring buffer of [`Event`](crate::Event).
    pub const EVENTS: &str = "events";
    /// Per pod. The four listeners of the agent, see [`slot`](crate::slot).
    pub const LISTENERS: &str = "listeners";
    /// Shared. Ring buffer of aya-log.
    pub const LOGS: &str = "AYA_LOGS";
}

/// Names of the programs and of the global that configures the ones of a pod.
pub mod program {
    /// `sk_lookup` in the pod's netns: hands a new connection to listener or app.
    pub const POD_STEER: &str = "pod_steer";
    /// tcx ingress of the host veth: only the agent's TCP leaves an enrolled pod.
    pub const VETH_GUARD: &str = "veth_guard";
    /// tcx egress of the host veth: recognises probes, protects app legs.
    pub const VETH_WATCH: &str = "veth_watch";
    /// tcx ingress of the pod's interface: marks probes, so that their replies leave by the wire.
    pub const PROBE_MARK: &str = "probe_mark";
    /// Read-only global of type [`SteerConfig`](crate::SteerConfig).
    pub const STEER_CONFIG: &str = "STEER_CONFIG";
}
