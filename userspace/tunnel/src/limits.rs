//! The numbers of the conversation: windows, streams, patience.

use std::time::Duration;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// What a tunnel may use and how long it waits. The defaults are what Istio's ztunnel puts on the wire, so that
/// either side of a tunnel may be one.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes that a peer may send on one stream before the application has taken them
    /// (`SETTINGS_INITIAL_WINDOW_SIZE`). This is the most memory that a stalled reader can cost.
    pub stream_window: u32,
    /// Bytes that a peer may have in flight on a tunnel, besides those held for slow readers.
    pub connection_window: u32,
    /// Bytes held for slow readers of one tunnel from which on its streams get [`Limits::small_window`] only. At four
    /// times as many, streams that hold more than that end as `memory_pressure`: the peer ignores the smaller window.
    pub squeeze: usize,
    /// The stream window of a tunnel that holds too much, in bytes.
    pub small_window: u32,
    /// Largest frame accepted (`SETTINGS_MAX_FRAME_SIZE`), in bytes.
    pub max_frame: u32,
    /// Bytes of one stream that may wait in the tunnel to be sent.
    pub send_buffer: usize,
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
            stream_window: 4 * MIB,
            connection_window: 16 * MIB,
            squeeze: 32 * MIB as usize,
            small_window: 256 * KIB,
            max_frame: MIB,
            send_buffer: 256 * KIB as usize,
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
