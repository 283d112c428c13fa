//! Addresses and the tuple of a connection, seen from the pod.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address in network byte order, IPv4 as v4-mapped (`::ffff:a.b.c.d`). Words, so that the
/// programs compare four of them instead of sixteen bytes.
pub type Address = [u32; 4];

/// Third word of a v4-mapped address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// The v4-mapped address of four bytes as they lie in memory.
#[must_use]
#[inline(always)]
pub const fn mapped(v4: u32) -> Address {
    [0, 0, MAPPED, v4]
}

/// Whether an address is a v4-mapped one.
#[must_use]
#[inline(always)]
pub const fn is_v4(address: &Address) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED
}

/// The words of an address.
#[must_use]
pub const fn words(ip: IpAddr) -> Address {
    let bytes = match ip {
        IpAddr::V4(v4) => return mapped(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut words = [0; 4];
    let mut i = 0;
    while i < 4 {
        words[i] = u32::from_ne_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
        i += 1;
    }
    words
}

/// The address of four words.
#[must_use]
pub fn ip(words: Address) -> IpAddr {
    if is_v4(&words) {
        return IpAddr::V4(Ipv4Addr::from(words[3].to_ne_bytes()));
    }
    let mut bytes = [0; 16];
    for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(bytes))
}

/// One TCP connection of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The pod's end.
    pub local_ip: Address,
    /// The other end.
    pub remote_ip: Address,
    /// Port of the pod's end, host byte order.
    pub local_port: u16,
    /// Port of the other end, host byte order.
    pub remote_port: u16,
    /// Ifindex of the pod's host veth: tells apart pods with equal (link-local) addresses.
    pub pod: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 40 && align_of::<FlowKey>() == 4);
