//! What the programs report, one entry of the ring buffer each.

use crate::Address;

/// Values of [`Event::kind`].
pub mod event_kind {
    /// `veth_guard` dropped a packet that the pod sent.
    pub const GUARD_DROP: u32 = 1;
    /// `veth_watch` dropped a packet that was sent to the pod.
    pub const WATCH_DROP: u32 = 2;
    /// `pod_steer` dropped a new connection.
    pub const STEER_DROP: u32 = 3;
}

/// One drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub at_ns: u64,
    /// See [`event_kind`].
    pub kind: u32,
    /// The counter that went up with it: the reason.
    pub counter: u32,
    /// Ifindex of the pod's host veth.
    pub pod: u32,
    /// Length of the packet in bytes; 0 for `STEER_DROP`.
    pub length: u32,
    /// Source address, IPv4 as v4-mapped; zero if the packet has none.
    pub source_ip: Address,
    /// Destination address.
    pub destination_ip: Address,
    /// Source port, host byte order; 0 if there is none.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// EtherType, host byte order.
    pub ethertype: u16,
    /// IP protocol.
    pub protocol: u8,
    /// TCP flags (FIN 1, SYN 2, RST 4, PSH 8, ACK 16).
    pub tcp_flags: u8,
}

const _: () = assert!(size_of::<Event>() == 64 && align_of::<Event>() == 8);
