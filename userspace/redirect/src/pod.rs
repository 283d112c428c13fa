//! What enrolment hands to the agent.

use std::net::{IpAddr, TcpListener, TcpStream};

use crate::Netns;

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
