//! The agent's listening sockets, made inside the pod's netns.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use culvert_abi::{AGENT_MARK, AGENT_TAG, slot};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::deviation::{Direction, Family};
use crate::pod::Listeners;
use crate::sys::Map;

/// Connections that wait for `accept`. The pod's `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4_096;

/// Opens all four in the calling thread's netns; the IPv6 ones only where the pod has `::1`.
pub(crate) fn open(v6: bool) -> io::Result<Listeners> {
    let optional = |direction| if v6 { listener(Family::V6, direction).map(Some) } else { Ok(None) };
    Ok(Listeners {
        inbound_v4: listener(Family::V4, Direction::Inbound)?,
        outbound_v4: listener(Family::V4, Direction::Outbound)?,
        inbound_v6: optional(Direction::Inbound)?,
        outbound_v6: optional(Direction::Outbound)?,
    })
}

/// Bound to loopback and a port of the kernel's choice: steering does not look at it, and the app
/// may use any port. Never SO_REUSEPORT, whose group a process of the pod could join.
fn listener(family: Family, direction: Direction) -> io::Result<TcpListener> {
    let (domain, address): (_, SocketAddr) = match family {
        Family::V4 => (Domain::IPV4, (Ipv4Addr::LOCALHOST, 0).into()),
        Family::V6 => (Domain::IPV6, (Ipv6Addr::LOCALHOST, 0).into()),
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    transparent(&socket, family)?;
    if direction == Direction::Inbound {
        // Accepted sockets inherit it: their replies take the wire.
        socket.set_mark(AGENT_MARK)?;
    }
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    // Accepted sockets have these from their first moment, also those that wait before anybody accepts: closing one resets
    // the connection, so that nothing ends it cleanly that has not carried it, and small messages do not wait for more.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Lets a socket have addresses that the pod does not have.
pub(crate) fn transparent(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => socket.set_ip_transparent_v4(true),
        Family::V6 => socket.set_ip_transparent_v6(true),
    }
}

/// Each listener with its slot.
pub(crate) fn slots(listeners: &Listeners) -> Vec<(u32, &TcpListener)> {
    let mut slots = vec![(slot::INBOUND_V4, &listeners.inbound_v4), (slot::OUTBOUND_V4, &listeners.outbound_v4)];
    slots.extend(listeners.inbound_v6.as_ref().map(|listener| (slot::INBOUND_V6, listener)));
    slots.extend(listeners.outbound_v6.as_ref().map(|listener| (slot::OUTBOUND_V6, listener)));
    slots
}

/// Whether these sockets are those of the map, all that the pod needs, and listening.
pub(crate) fn are_current(sockmap: &Map, kept: &Listeners, v6: bool, listening: &[u64]) -> io::Result<bool> {
    if kept.inbound_v6.is_some() != v6 || kept.outbound_v6.is_some() != v6 {
        return Ok(false);
    }
    for (slot, listener) in slots(kept) {
        let own = cookie(listener)?;
        if sockmap.get::<u32, u64>(&slot)? != Some(own) || !listening.contains(&own) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Marks a socket as the agent's; what is accepted from it inherits that.
pub(crate) fn tag(agent_tag: &Map, socket: &impl AsFd) -> io::Result<()> {
    agent_tag.set(&socket.as_fd().as_raw_fd(), &AGENT_TAG)
}

/// The kernel's name for a socket: never used twice.
pub(crate) fn cookie(socket: &impl AsFd) -> io::Result<u64> {
    SockRef::from(socket).cookie()
}

/// Tags the listeners and hands them to steering. Returns their cookies by slot.
pub(crate) fn install(agent_tag: &Map, sockmap: &Map, listeners: &Listeners) -> io::Result<[Option<u64>; 4]> {
    let mut cookies = [None; 4];
    for (slot, listener) in slots(listeners) {
        tag(agent_tag, listener)?;
        let own = cookie(listener)?;
        cookies[slot as usize] = Some(own);
        // Putting a socket where it is already would take its only link to the map away.
        if sockmap.get::<u32, u64>(&slot)? == Some(own) {
            continue;
        }
        #[expect(clippy::cast_sign_loss, reason = "a descriptor that is open is not negative")]
        let fd = listener.as_raw_fd() as u64;
        sockmap.set(&slot, &fd)?;
    }
    Ok(cookies)
}
