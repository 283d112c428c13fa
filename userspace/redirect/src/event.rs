//! What the programs report: one event per drop, rate-limited per pod.

use std::net::SocketAddr;
use std::time::Duration;

use culvert_abi::Counter;

/// Who dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// `veth_guard`: sent by the pod.
    Guard,
    /// `veth_watch`: sent to the pod.
    Watch,
    /// `pod_steer`: a new connection from either side.
    Steer,
}

/// A packet or connection that the kernel side dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropEvent {
    /// Who dropped it.
    pub by: Drop,
    /// Why; [`Counter::name`] is the stable reason.
    pub reason: Counter,
    /// UID of the pod, if it is still enrolled.
    pub uid: Option<String>,
    /// Source; port 0 where there is none.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
    /// IP protocol number; 0 if the packet is not IP.
    pub protocol: u8,
    /// EtherType.
    pub ethertype: u16,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Bytes of the packet.
    pub length: u32,
    /// Time since boot.
    pub at: Duration,
}

/// The stream of events of this node. There is one reader at a time.
#[derive(Debug)]
pub struct Events {}

impl Events {
    /// Waits for the next event. Needs a tokio runtime with I/O. Cancel safe.
    pub async fn next(&mut self) -> std::io::Result<DropEvent> {
        Err(std::io::Error::other("unfinished"))
    }
}
