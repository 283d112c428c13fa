//! Headers of a packet, as far as the guard needs them.

use aya_ebpf::{helpers::bpf_skb_load_bytes, programs::TcContext};
use culvert_abi::{Address, Event, FlowKey, mapped};

pub const ETH_LEN: u32 = 14;
/// What short frames are padded to, in bytes without the checksum (IEEE 802.3).
const ETH_MIN: u32 = 60;
pub const ETH_IPV4: u16 = 0x0800;
pub const ETH_ARP: u16 = 0x0806;
pub const ETH_IPV6: u16 = 0x86dd;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;

pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Reads `T` at an offset of the packet, wherever its bytes are.
#[inline(always)]
pub fn load<T: Copy>(ctx: &TcContext, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly `size_of::<T>()` bytes or fails; every `T` used in this crate
    // is made of integers, for which all bit patterns are valid.
    unsafe {
        let ret = bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32);
        if ret == 0 { Some(value.assume_init()) } else { None }
    }
}

/// Ethernet header.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ethernet {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub ethertype: u16,
}

/// What an IP header says.
#[derive(Clone, Copy)]
pub struct Ip {
    pub source: Address,
    pub destination: Address,
    /// Transport protocol, behind the headers that were followed.
    pub protocol: u8,
    /// Offset of the transport header.
    pub offset: u32,
    /// Bytes from the transport header to the end that the IP header names; 0 if it names none
    /// (jumbo, BIG TCP).
    pub length: u32,
    /// A fragment, the first one included.
    pub fragment: bool,
    /// The transport could not be found behind extension headers.
    pub odd: bool,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv4Header {
    version_ihl: u8,
    tos: u8,
    total_length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv6Header {
    version_class_label: u32,
    payload_length: u16,
    next: u8,
    hops: u8,
    source: Address,
    destination: Address,
}

/// Reads the IPv4 header.
#[inline(always)]
pub fn ipv4(ctx: &TcContext) -> Option<Ip> {
    let header: Ipv4Header = load(ctx, ETH_LEN)?;
    let header_length = u32::from(header.version_ihl & 0xf) * 4;
    let total = u32::from(u16::from_be(header.total_length));
    Some(Ip {
        source: mapped(header.source),
        destination: mapped(header.destination),
        protocol: header.protocol,
        offset: ETH_LEN + header_length,
        length: total.saturating_sub(header_length),
        fragment: u16::from_be(header.fragment) & 0x3fff != 0,
        odd: header_length < 20 || header.version_ihl >> 4 != 4,
    })
}

/// Reads the IPv6 header and follows one hop-by-hop header (as MLD has it) or one fragment header.
#[inline(always)]
pub fn ipv6(ctx: &TcContext) -> Option<Ip> {
    let header: Ipv6Header = load(ctx, ETH_LEN)?;
    let mut ip = Ip {
        source: header.source,
        destination: header.destination,
        protocol: header.next,
        offset: ETH_LEN + 40,
        length: u32::from(u16::from_be(header.payload_length)),
        fragment: false,
        odd: header.version_class_label.to_ne_bytes()[0] >> 4 != 6,
    };
    if header.next == HOP_BY_HOP || header.next == FRAGMENT {
        let extension: [u8; 2] = load(ctx, ip.offset)?;
        let length = if header.next == FRAGMENT { 8 } else { (u32::from(extension[1]) + 1) * 8 };
        ip.fragment = header.next == FRAGMENT;
        ip.protocol = extension[0];
        ip.offset += length;
        ip.length = ip.length.saturating_sub(length);
    }
    ip.odd |= is_extension(ip.protocol);
    Some(ip)
}

/// Extension headers that are not followed: a TCP header may hide behind each of them. ESP (50) is
/// not among them: it is a protocol of its own and is dropped as such.
#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | 43 | FRAGMENT | 51 | 60 | 135 | 139 | 140 | 253 | 254)
}

/// What a TCP header says.
#[derive(Clone, Copy)]
pub struct Tcp {
    pub source_port: u16,
    pub destination_port: u16,
    pub flags: u8,
    /// Bytes of the TCP header.
    header_length: u32,
}

/// Stands for a segment whose header cannot be read.
pub const NO_TCP: Tcp = Tcp { source_port: 0, destination_port: 0, flags: 0, header_length: 0 };

#[derive(Clone, Copy)]
#[repr(C)]
struct TcpHeader {
    source: u16,
    destination: u16,
    sequence: u32,
    acknowledgement: u32,
    offset_reserved: u8,
    flags: u8,
}

/// Reads the TCP header; `None` for a fragment or where it cannot be found.
#[inline(always)]
pub fn tcp(ctx: &TcContext, ip: &Ip) -> Option<Tcp> {
    if ip.fragment || ip.odd {
        return None;
    }
    let header: TcpHeader = load(ctx, ip.offset)?;
    let header_length = u32::from(header.offset_reserved >> 4) * 4;
    if header_length < 20 {
        return None;
    }
    Some(Tcp {
        source_port: u16::from_be(header.source),
        destination_port: u16::from_be(header.destination),
        flags: header.flags,
        header_length,
    })
}

impl Tcp {
    /// Opens a connection: SYN without ACK.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & SYN != 0 && self.flags & ACK == 0
    }

    /// Carries data, by the length that the IP header names; not known counts as yes. So does what has
    /// more than the header says: segmentation names the length anew, and a trailer is data as well.
    #[inline(always)]
    pub fn has_payload(&self, ctx: &TcContext, ip: &Ip) -> bool {
        // SAFETY: the context is valid while the program runs.
        let segments = unsafe { (*ctx.skb.skb).gso_size } != 0;
        let named = (ip.offset + ip.length).max(ETH_MIN);
        ip.length == 0 || ip.length > self.header_length || segments || ctx.len() > named
    }
}

/// The two ports of a UDP header, source first.
#[inline(always)]
pub fn udp_ports(ctx: &TcContext, ip: &Ip) -> Option<(u16, u16)> {
    if ip.fragment || ip.odd {
        return None;
    }
    let ports: [u16; 2] = load(ctx, ip.offset)?;
    Some((u16::from_be(ports[0]), u16::from_be(ports[1])))
}

/// Tuple of a segment that pod `pod` sends.
#[inline(always)]
pub fn sent_by(pod: u32, ip: &Ip, tcp: &Tcp) -> FlowKey {
    FlowKey {
        local_ip: ip.source,
        remote_ip: ip.destination,
        local_port: tcp.source_port,
        remote_port: tcp.destination_port,
        pod,
    }
}

/// Tuple of a segment that goes to pod `pod`.
#[inline(always)]
pub fn sent_to(pod: u32, ip: &Ip, tcp: &Tcp) -> FlowKey {
    FlowKey {
        local_ip: ip.destination,
        remote_ip: ip.source,
        local_port: tcp.destination_port,
        remote_port: tcp.source_port,
        pod,
    }
}

/// The part of an event that the link layer gives.
#[inline(always)]
pub fn event(ctx: &TcContext, kind: u32, pod: u32, ethertype: u16) -> Event {
    Event { kind, pod, length: ctx.len(), ethertype, ..EMPTY }
}

/// Adds addresses.
#[inline(always)]
pub fn with_ip(mut event: Event, ip: &Ip) -> Event {
    event.source_ip = ip.source;
    event.destination_ip = ip.destination;
    event.protocol = ip.protocol;
    event
}

/// Adds ports and flags.
#[inline(always)]
pub fn with_tcp(mut event: Event, tcp: &Tcp) -> Event {
    event.source_port = tcp.source_port;
    event.destination_port = tcp.destination_port;
    event.tcp_flags = tcp.flags;
    event
}

pub const EMPTY: Event = Event {
    at_ns: 0,
    kind: 0,
    counter: 0,
    pod: 0,
    length: 0,
    source_ip: [0; 4],
    destination_ip: [0; 4],
    source_port: 0,
    destination_port: 0,
    ethertype: 0,
    protocol: 0,
    tcp_flags: 0,
};
