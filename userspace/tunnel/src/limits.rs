//! The numbers of the conversation: windows, streams, patience.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// What a tunnel may use and how long it waits. Apart from the stream window, the defaults are what Istio's ztunnel puts
/// on the wire, so that either side of a tunnel may be one.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes that a peer may send on one stream before the application has taken them
    /// (`SETTINGS_INITIAL_WINDOW_SIZE`). This is the most memory that a reader that never reads can cost.
    pub stream_window: u32,
    /// What the window of a stream may grow to when its reader keeps up: after 16 MiB, or at once when the way to the peer
    /// is long. In bytes.
    pub largest_window: u32,
    /// Bytes that a peer may have in flight on a tunnel, besides those held for slow readers.
    pub connection_window: u32,
    /// What is held for slow readers, over all tunnels of the agent. Clones of the limits share it.
    pub held: Arc<Held>,
    /// Largest frame accepted (`SETTINGS_MAX_FRAME_SIZE`), in bytes.
    pub max_frame: u32,
    /// Header list accepted by the serving side, in bytes.
    pub server_header_list: u32,
    /// Header list accepted by the dialling side, in bytes.
    pub client_header_list: u32,
    /// Streams that a peer may hold open on a tunnel we serve (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub max_peer_streams: u32,
    /// Streams that we open on one tunnel at most, whatever the peer would allow.
    pub max_streams: usize,
    /// Patience for TCP and TLS set-up of a tunnel together, and for the handshake of one that we serve.
    pub connect_timeout: Duration,
    /// Patience for the answer to a CONNECT. The peer connects to its application first, for up to 10 s.
    pub answer_timeout: Duration,
    /// Time between two keepalive PINGs.
    pub ping_interval: Duration,
    /// Patience for the answer to a PING; after that the tunnel is dead.
    pub ping_timeout: Duration,
    /// How long a dialled tunnel without streams is kept.
    pub idle_timeout: Duration,
    /// How long a served tunnel without streams is kept: a peer that wants it longer has to dial again.
    pub served_idle_timeout: Duration,
    /// Longest life of a connection, off unless set. Streams older than this end as `max_connection_age`, and a
    /// tunnel older than this takes no new one.
    pub max_connection_age: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_window: 256 * KIB,
            largest_window: 4 * MIB,
            connection_window: 16 * MIB,
            held: Arc::default(),
            max_frame: MIB,
            server_header_list: 64 * KIB,
            client_header_list: 16 * KIB,
            max_peer_streams: 200,
            max_streams: 100,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(15),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(300),
            served_idle_timeout: Duration::from_secs(600),
            max_connection_age: None,
        }
    }
}

/// Bytes that were received and that applications have not taken, over all tunnels and threads.
#[derive(Debug)]
pub struct Held {
    bytes: AtomicUsize,
    most: usize,
}

/// What an agent holds for slow readers at most, apart from what each stream may hold in any case, in bytes.
const MOST_HELD: usize = 128 << 20;

impl Default for Held {
    fn default() -> Self {
        Self::up_to(MOST_HELD)
    }
}

impl Held {
    /// A budget of so many bytes. Beyond half of it no window grows; beyond all of it, streams that hold more than
    /// 64 KiB end as `memory_pressure`.
    pub fn up_to(most: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), most }
    }

    /// What is held, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_much(&self) -> bool {
        self.bytes() > self.most / 2
    }

    pub(crate) fn is_too_much(&self) -> bool {
        self.bytes() > self.most
    }
}
