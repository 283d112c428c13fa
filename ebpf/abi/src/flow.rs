//! The tuple of a connection, seen from the pod.

/// One TCP connection of one pod. IPv4 addresses are stored v4-mapped (`::ffff:a.b.c.d`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The pod's end.
    pub local_ip: [u8; 16],
    /// The other end.
    pub remote_ip: [u8; 16],
    /// Port of the pod's end, host byte order.
    pub local_port: u16,
    /// Port of the other end, host byte order.
    pub remote_port: u16,
    /// Ifindex of the pod's host veth: tells apart pods with equal (link-local) addresses.
    pub pod: u32,
}

/// The v4-mapped form of an IPv4 address.
#[must_use]
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

const _: () = assert!(size_of::<FlowKey>() == 40 && align_of::<FlowKey>() == 4);
