//! `sock_diag(7)`: the TCP sockets of the calling thread's netns, and how to end one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::netlink::{Netlink, absent};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` (linux/sock_diag.h).
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;

/// `struct inet_diag_sockid`.
const ID_LENGTH: usize = 48;
const LISTEN: u8 = 10;
const TIME_WAIT: u8 = 6;
const SYN_SENT: u8 = 2;

/// One TCP socket.
#[derive(Clone, Debug)]
pub(crate) struct TcpSocket {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    family: u8,
    id: [u8; ID_LENGTH],
}

/// A conversation, in the netns in which it was opened.
pub(crate) struct Diag(Netlink);

impl Diag {
    pub(crate) fn open() -> io::Result<Self> {
        Netlink::with_protocol(NETLINK_SOCK_DIAG).map(Self)
    }

    /// Every TCP connection beyond SYN_SENT and before TIME_WAIT, of both families; v4-mapped addresses
    /// as IPv4.
    pub(crate) fn connections(&self) -> io::Result<Vec<TcpSocket>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2 and 10")]
            let family = family as u8;
            let states = !((1u32 << LISTEN) | (1 << TIME_WAIT) | (1 << SYN_SENT) | 1);
            let answers = self.0.raw(BY_FAMILY, NLM_F_DUMP, &request(family, states, &[0; ID_LENGTH]))?;
            found.extend(answers.iter().filter_map(|(_, payload)| parse(payload)));
        }
        Ok(found)
    }

    /// Cookies of all listening TCP sockets.
    pub(crate) fn listening(&self) -> io::Result<Vec<u64>> {
        let mut cookies = Vec::new();
        for family in [2, 10] {
            let answers = self.0.raw(BY_FAMILY, NLM_F_DUMP, &request(family, 1 << LISTEN, &[0; ID_LENGTH]))?;
            cookies.extend(answers.iter().filter_map(|(_, payload)| {
                // The last eight bytes of the id, which starts at 4.
                payload.get(44..52)?.first_chunk().map(|cookie| u64::from_ne_bytes(*cookie))
            }));
        }
        Ok(cookies)
    }

    /// Whether a connection with exactly these ends exists, TIME_WAIT included.
    pub(crate) fn exists(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
        let family = if local.is_ipv4() { 2 } else { 10 };
        match self.0.raw(BY_FAMILY, NLM_F_ACK, &request(family, u32::MAX, &sockid(local, remote))) {
            Ok(answers) => Ok(answers.iter().any(|(_, payload)| payload.get(1).is_some_and(|state| *state != LISTEN))),
            Err(error) if absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends a connection as `SO_LINGER 0` would: the other end is told by RST. One that is gone is
    /// no error. Needs `CONFIG_INET_DIAG_DESTROY`.
    pub(crate) fn destroy(&self, socket: &TcpSocket) -> io::Result<()> {
        match self.0.raw(DESTROY, NLM_F_ACK, &request(socket.family, u32::MAX, &socket.id)) {
            Err(error) if !absent(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Diag {
    /// Whether the kernel can end connections: asked with one that cannot exist.
    pub(crate) fn can_destroy(&self, nobody: SocketAddr) -> io::Result<bool> {
        match self.0.raw(DESTROY, NLM_F_ACK, &request(2, u32::MAX, &sockid(nobody, nobody))) {
            Err(error) if absent(&error) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            other => other.map(|_| true),
        }
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, states: u32, id: &[u8; ID_LENGTH]) -> Vec<u8> {
    let mut request = vec![family, 6, 0, 0];
    request.extend_from_slice(&states.to_ne_bytes());
    request.extend_from_slice(id);
    request
}

/// Ports and addresses in network byte order, any interface, no cookie.
fn sockid(local: SocketAddr, remote: SocketAddr) -> [u8; ID_LENGTH] {
    let mut id = [0; ID_LENGTH];
    id[0..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    for (place, ip) in [(4, local.ip()), (20, remote.ip())] {
        match ip {
            IpAddr::V4(v4) => id[place..place + 4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => id[place..place + 16].copy_from_slice(&v6.octets()),
        }
    }
    id[40..48].fill(0xff);
    id
}

/// `struct inet_diag_msg`.
fn parse(payload: &[u8]) -> Option<TcpSocket> {
    let family = *payload.first()?;
    let id: [u8; ID_LENGTH] = payload.get(4..4 + ID_LENGTH)?.try_into().ok()?;
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let ip = |at: usize| {
        let bytes: [u8; 16] = id[at..at + 16].try_into().unwrap_or_default();
        if i32::from(family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
    };
    Some(TcpSocket { local: SocketAddr::new(ip(4), port(0)), remote: SocketAddr::new(ip(20), port(2)), family, id })
}
