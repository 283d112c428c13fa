//! What the programs report: one event per drop, rate-limited per pod.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use culvert_abi::{Counter, Event, event_kind, ip, map as name};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::EventsError;
use crate::node::Node;

/// Who dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DroppedBy {
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
    pub by: DroppedBy,
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
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    node: Arc<Node>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.node.events_taken.store(false, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Events {
    pub(crate) fn open(node: Arc<Node>) -> Result<Self, EventsError> {
        let data = MapData::from_pin(node.pins.map(name::EVENTS)).map_err(io::Error::other)?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(io::Error::other)?;
        // SAFETY: the ring owns its descriptor, returns the same one for its whole life, and is owned
        // by the `AsyncFd`, which deregisters it first.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Self { ring, node })
    }

    /// Waits for the next event. Needs a tokio runtime with I/O. Cancel safe.
    pub async fn next(&mut self) -> io::Result<DropEvent> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let next = ready.get_inner_mut().next().map(|item| decode(&item));
            match next {
                Some(Some(event)) => return Ok(named(event, &self.node)),
                // An entry of a kind that this version does not know.
                Some(None) => {}
                None => ready.clear_ready(),
            }
        }
    }
}

/// Reads one entry; `None` if it is not one of ours.
fn decode(bytes: &[u8]) -> Option<(DropEvent, u32)> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: long enough, and `Event` is valid for every bit pattern; the ring gives no alignment.
    let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
    let by = match event.kind {
        event_kind::GUARD_DROP => DroppedBy::Guard,
        event_kind::WATCH_DROP => DroppedBy::Watch,
        event_kind::STEER_DROP => DroppedBy::Steer,
        _ => return None,
    };
    let decoded = DropEvent {
        by,
        reason: Counter::from_index(event.counter)?,
        uid: None,
        source: SocketAddr::new(ip(event.source_ip), event.source_port),
        destination: SocketAddr::new(ip(event.destination_ip), event.destination_port),
        protocol: event.protocol,
        ethertype: event.ethertype,
        tcp_flags: event.tcp_flags,
        length: event.length,
        at: Duration::from_nanos(event.at_ns),
    };
    Some((decoded, event.pod))
}

fn named((mut event, pod): (DropEvent, u32), node: &Node) -> DropEvent {
    event.uid = node.pods().values().find(|known| known.host.ifindex == pod).map(|known| known.uid.clone());
    event
}

#[cfg(test)]
mod tests;
