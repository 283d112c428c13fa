//! What enrolment hands to the agent.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use culvert_abi::slot;

use crate::{Netns, listener};

/// An enrolled pod, ready to accept.
#[derive(Debug)]
pub struct PodRedirect {
    /// UID of the pod.
    pub uid: String,
    /// The pod's addresses, read inside its netns, link-local ones left out.
    pub addresses: Vec<IpAddr>,
    /// Ifindex of the pod's veth on the node's side.
    pub host_ifindex: u32,
    /// Name of the pod's veth on the node's side.
    pub host_veth: String,
    /// Inode number of the pod's netns.
    pub netns_inode: u64,
    /// Where the pod's new connections arrive.
    pub listeners: Listeners,
    /// Outbound connections that a process of the pod opened during enrolment's self-test, to be
    /// treated like accepted from the outbound listener. Usually empty.
    pub early: Vec<TcpStream>,
    /// Makes the agent's sockets in the pod's netns.
    pub netns: Netns,
}

/// The agent's listening sockets in a pod's netns: non-blocking, tagged, transparent.
///
/// On an accepted socket `local_addr()` is the original destination and `peer_addr()` the client.
/// A connection whose `local_addr()` equals that of its listener was dialled to the listener itself
/// and is to be closed.
#[derive(Debug)]
pub struct Listeners {
    /// From the wire, IPv4, every port.
    pub inbound_v4: TcpListener,
    /// From the pod's processes, IPv4.
    pub outbound_v4: TcpListener,
    /// From the wire, IPv6; `None` where the pod's `lo` has IPv6 switched off.
    pub inbound_v6: Option<TcpListener>,
    /// From the pod's processes, IPv6.
    pub outbound_v6: Option<TcpListener>,
}

impl Listeners {
    /// Each listener with its slot in the pod's map of listeners (`culvert_abi::slot`).
    pub fn descriptors(&self) -> Vec<(u32, BorrowedFd<'_>)> {
        listener::slots(self).into_iter().map(|(slot, listener)| (slot, listener.as_fd())).collect()
    }

    /// The same sockets once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        let optional = |listener: &Option<TcpListener>| listener.as_ref().map(TcpListener::try_clone).transpose();
        Ok(Self {
            inbound_v4: self.inbound_v4.try_clone()?,
            outbound_v4: self.outbound_v4.try_clone()?,
            inbound_v6: optional(&self.inbound_v6)?,
            outbound_v6: optional(&self.outbound_v6)?,
        })
    }

    /// The kernel's name of each socket, by slot.
    pub fn cookies(&self) -> io::Result<BTreeMap<u32, u64>> {
        let slots = listener::slots(self).into_iter();
        slots.map(|(slot, socket)| Ok((slot, listener::cookie(socket)?))).collect()
    }

    /// From sockets by slot; nothing if one that every pod has is missing.
    pub fn from_slots(sockets: impl IntoIterator<Item = (u32, OwnedFd)>) -> Option<Self> {
        let mut sockets: BTreeMap<u32, OwnedFd> = sockets.into_iter().collect();
        let mut take = |slot| sockets.remove(&slot).map(TcpListener::from);
        Some(Self {
            inbound_v4: take(slot::INBOUND_V4)?,
            outbound_v4: take(slot::OUTBOUND_V4)?,
            inbound_v6: take(slot::INBOUND_V6),
            outbound_v6: take(slot::OUTBOUND_V6),
        })
    }
}

/// A pod that an earlier agent enrolled, as the pins tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedPod {
    /// UID of the pod.
    pub uid: String,
    /// Inode number of the netns that steering is attached to; 0 if that netns is gone.
    pub netns_inode: u64,
    /// Ifindex of the host veth that the guard is attached to; 0 if that interface is gone.
    pub host_ifindex: u32,
}
