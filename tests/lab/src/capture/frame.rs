//! Ethernet, IPv4 and IPv6, TCP: just enough to find the payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One direction of one TCP connection, on the interface where it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The interface.
    pub interface: String,
    /// Who sent.
    pub from: SocketAddr,
    /// Who received.
    pub to: SocketAddr,
}

const ETHERNET: usize = 14;
const TCP: u8 = 6;

/// The payload of a TCP segment, or `None` for anything else.
pub(super) fn tcp_payload<'a>(interface: &str, frame: &'a [u8]) -> Option<(Flow, &'a [u8])> {
    let packet = frame.get(ETHERNET..)?;
    let (from, to, segment) = match (frame[12], frame[13]) {
        (0x08, 0x00) => ip4(packet)?,
        (0x86, 0xdd) => ip6(packet)?,
        _ => return None,
    };
    let header = usize::from(segment.get(12)? >> 4) * 4;
    let payload = segment.get(header..)?;
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let flow = Flow {
        interface: interface.to_owned(),
        from: SocketAddr::new(from, port(0)),
        to: SocketAddr::new(to, port(2)),
    };
    Some((flow, payload))
}

fn ip4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let fragment_offset = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
    if *packet.get(9)? != TCP || fragment_offset != 0 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(bytes)))
    };
    // A coalesced segment larger than 64 KiB says zero.
    let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
    Some((address(12)?, address(16)?, packet.get(header..end)?))
}

fn ip6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    if *packet.get(6)? != TCP {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(bytes)))
    };
    let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
    let end = if length == 0 { packet.len() } else { (40 + length).min(packet.len()) };
    Some((address(8)?, address(24)?, packet.get(40..end)?))
}
