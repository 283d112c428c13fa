//! How each step can fail, with a stable reason and whose fault it is.

use std::io;

use crate::handshake::HandshakeError;

/// Who has to act when a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The agent or workload at the other end.
    Peer,
    /// What lies between the two ends.
    Network,
    /// This agent: its credentials, its settings, its own decision to stop.
    Us,
}

impl Blame {
    /// The stable word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Network => "network",
            Self::Us => "us",
        }
    }
}

/// Why [`crate::Pool::open`] has no stream to give. It can be cloned, for all who waited for one dial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No TCP connection to the peer's agent.
    #[error("no TCP connection to the peer's agent: {0}")]
    ConnectFailed(io::ErrorKind),
    /// TCP set-up took longer than the limit.
    #[error("TCP connection to the peer's agent timed out (is port 15008 blocked by a network policy?)")]
    ConnectTimeout,
    /// The TLS handshake failed; the reason is the verifier's where a certificate was refused.
    #[error("TLS handshake with the peer failed")]
    Handshake(#[source] HandshakeError),
    /// The peer's agent refused the stream with this status (400, 401, 503 or an unexpected one).
    #[error("the peer's agent answered {0}")]
    Refused(u16),
    /// The peer's agent did not answer the CONNECT in time.
    #[error("the peer's agent did not answer the CONNECT in time")]
    AnswerTimeout,
    /// The peer's agent closes its tunnels faster than a stream can be opened.
    #[error("the peer's agent is going away")]
    GoAway,
    /// The peer reset the stream before it answered; the number is the HTTP/2 error code.
    #[error("the peer's agent reset the stream (HTTP/2 error {0:#x})")]
    Reset(u32),
    /// The tunnel broke while the stream waited for its answer.
    #[error("the tunnel broke: {0}")]
    TunnelLost(StreamError),
    /// The peer's or our SVID ended before the stream began.
    #[error("the tunnel's SVID has expired")]
    SvidExpired,
    /// The tunnel was ended from outside, with this reason.
    #[error("ended: {0}")]
    Ended(&'static str),
    /// This pool drains and opens nothing any more.
    #[error("this agent is draining")]
    Draining,
}

impl OpenError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ConnectFailed(_) => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::Handshake(error) => error.reason(),
            Self::Refused(400) => "peer_refused_request",
            Self::Refused(401) => "peer_denied",
            Self::Refused(503) => "peer_unavailable",
            Self::Refused(_) => "peer_refused",
            Self::AnswerTimeout => "answer_timeout",
            Self::GoAway => "goaway",
            Self::Reset(_) => "reset",
            Self::TunnelLost(error) => error.reason(),
            Self::SvidExpired => "svid_expired",
            Self::Ended(reason) => reason,
            Self::Draining => "draining",
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::ConnectFailed(io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset) => Blame::Peer,
            Self::ConnectFailed(_) | Self::ConnectTimeout => Blame::Network,
            Self::Handshake(error) => error.blame(),
            Self::Refused(_) | Self::AnswerTimeout | Self::GoAway | Self::Reset(_) => Blame::Peer,
            Self::TunnelLost(error) => error.blame(),
            Self::SvidExpired | Self::Ended(_) | Self::Draining => Blame::Us,
        }
    }
}

/// Why an open stream, or the tunnel under it, stopped working.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset the stream; the number is the HTTP/2 error code.
    #[error("the peer reset the stream (HTTP/2 error {0:#x})")]
    Reset(u32),
    /// The peer closed the tunnel with an error; the number is the HTTP/2 error code.
    #[error("the peer closed the tunnel (HTTP/2 error {0:#x})")]
    GoAway(u32),
    /// The peer broke the rules of HTTP/2; the number is the HTTP/2 error code that we answered.
    #[error("the peer broke the rules of HTTP/2 (error {0:#x})")]
    Protocol(u32),
    /// The TCP connection or its TLS layer broke.
    #[error("the tunnel's connection broke: {0}")]
    Lost(io::ErrorKind),
    /// The peer refused our certificate, which in TLS 1.3 we learn only after our side of the handshake.
    #[error("the peer refused our certificate")]
    RefusedByPeer,
    /// A PING stayed unanswered for too long.
    #[error("the peer did not answer a PING in time")]
    KeepaliveTimeout,
    /// The tunnel or the stream was ended by this agent, with this reason.
    #[error("ended: {0}")]
    Ended(&'static str),
}

impl StreamError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Reset(_) => "reset",
            Self::GoAway(_) => "goaway",
            Self::Protocol(_) => "protocol_error",
            Self::Lost(_) => "tunnel_lost",
            Self::RefusedByPeer => "refused_by_peer",
            Self::KeepaliveTimeout => "keepalive_timeout",
            Self::Ended(reason) => reason,
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Reset(_) | Self::GoAway(_) | Self::Protocol(_) => Blame::Peer,
            Self::Lost(_) | Self::KeepaliveTimeout => Blame::Network,
            Self::Ended(_) | Self::RefusedByPeer => Blame::Us,
        }
    }
}

/// Why a served tunnel ended other than by both sides' leave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// The TLS handshake failed; nothing was served.
    #[error("TLS handshake with the peer failed")]
    Handshake(#[source] HandshakeError),
    /// The tunnel broke after its handshake.
    #[error("the tunnel broke: {0}")]
    Tunnel(StreamError),
}

impl ServeError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Handshake(error) => error.reason(),
            Self::Tunnel(error) => error.reason(),
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Handshake(error) => error.blame(),
            Self::Tunnel(error) => error.blame(),
        }
    }
}
