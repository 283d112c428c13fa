//! Building and reading frames.

use std::net::{IpAddr, SocketAddr};

/// An Ethernet frame in parts.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Destination MAC.
    pub to: [u8; 6],
    /// Source MAC.
    pub from: [u8; 6],
    /// EtherType.
    pub ethertype: u16,
    /// What follows.
    pub payload: Vec<u8>,
}

impl Frame {
    /// As it goes out.
    pub fn bytes(&self) -> Vec<u8> {
        [&self.to[..], &self.from[..], &self.ethertype.to_be_bytes(), &self.payload].concat()
    }
}

/// TCP flags.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Opens.
    pub const SYN: u8 = 2;
    /// Refuses.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// Acknowledges.
    pub const ACK: u8 = 16;
}

/// A TCP segment in parts.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Source.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// See [`flag`].
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Data.
    pub data: Vec<u8>,
}

impl Segment {
    /// Without data.
    pub fn new(source: SocketAddr, destination: SocketAddr, flags: u8) -> Segment {
        Segment { source, destination, flags, sequence: 1000, acknowledgement: 0, data: Vec::new() }
    }

    /// With data.
    pub fn with_data(mut self, data: &[u8]) -> Segment {
        self.data = data.to_vec();
        self
    }

    /// The IP packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend(self.destination.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        tcp.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(&self.data);
        let sum = checksum(self.source.ip(), self.destination.ip(), 6, &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        ip_packet(self.source.ip(), self.destination.ip(), 6, &tcp)
    }
}

/// A UDP datagram as an IP packet.
pub fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
    let mut udp = Vec::new();
    udp.extend(source.port().to_be_bytes());
    udp.extend(destination.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(data);
    let sum = checksum(source.ip(), destination.ip(), 17, &udp);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    ip_packet(source.ip(), destination.ip(), 17, &udp)
}

/// An ICMP or ICMPv6 message as an IP packet.
pub fn icmp(source: IpAddr, destination: IpAddr, message: &[u8]) -> Vec<u8> {
    let mut icmp = message.to_vec();
    icmp[2..4].fill(0);
    let protocol = if source.is_ipv4() { 1 } else { 58 };
    let sum = if source.is_ipv4() { fold(words(&icmp)) } else { checksum(source, destination, 58, &icmp) };
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    ip_packet(source, destination, protocol, &icmp)
}

/// An IP packet around a payload.
pub fn ip_packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX);
            packet.extend([0x45, 0]);
            packet.extend(total.to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = fold(words(&packet));
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([protocol, if protocol == 58 { 255 } else { 64 }]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        _ => panic!("source and destination are of different families"),
    }
    packet.extend(payload);
    packet
}

/// Makes an IPv4 packet the first fragment of a longer one.
pub fn first_fragment(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6..8].copy_from_slice(&0x2000u16.to_be_bytes());
    packet[10..12].fill(0);
    let sum = fold(words(&packet[..20]));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn checksum(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let octets = |ip| match ip {
        IpAddr::V4(v4) => std::net::Ipv4Addr::octets(&v4).to_vec(),
        IpAddr::V6(v6) => std::net::Ipv6Addr::octets(&v6).to_vec(),
    };
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    fold(words(&octets(source)) + words(&octets(destination)) + u32::from(protocol) + length + words(payload))
}

/// A TCP segment that was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Source.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// See [`flag`].
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Bytes of data.
    pub length: usize,
}

/// Reads a frame with a TCP segment.
pub fn read_tcp(frame: &[u8]) -> Option<Seen> {
    let ethertype = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let ip = frame.get(14..)?;
    let (source, destination, tcp): (IpAddr, IpAddr, &[u8]) = match ethertype {
        0x0800 if *ip.get(9)? == 6 => {
            let header = usize::from(ip[0] & 0xf) * 4;
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            let source: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
            let destination: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
            (source.into(), destination.into(), ip.get(header..total)?)
        }
        0x86dd if *ip.get(6)? == 6 => {
            let source: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = ip.get(24..40)?.try_into().ok()?;
            (source.into(), destination.into(), ip.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    Some(Seen {
        source: SocketAddr::new(source, port(0)?),
        destination: SocketAddr::new(destination, port(2)?),
        flags: *tcp.get(13)?,
        sequence: word(4)?,
        acknowledgement: word(8)?,
        length: tcp.len().checked_sub(usize::from(tcp[12] >> 4) * 4)?,
    })
}
