//! The TLS handshake of a tunnel: who the peer has proven to be, or why there is no tunnel.

use std::{
    error::Error,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_identity::SpiffeId;
use culvert_mtls::{Expected, Refusal, failure_reason, peer_of, refusal_of, server_name};
use rustls::CommonState;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::spawn_local,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{
    error::Blame,
    key::{Generation, Local, Peer, Route},
};

/// Why a TLS handshake gave no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// We refused the peer's certificate, or could not present our own.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The peer refused us, or TLS or the network failed; the word is `culvert_mtls::failure_reason`'s.
    #[error("TLS: {detail}")]
    Failed {
        /// The stable word, such as `refused_by_peer`, `no_common_protocol`, `closed`.
        reason: &'static str,
        /// What the TLS library or the system said.
        detail: String,
    },
    /// The handshake took longer than the limit.
    #[error("the handshake timed out")]
    Timeout,
}

impl HandshakeError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Failed { reason, .. } => reason,
            Self::Timeout => "handshake_timeout",
        }
    }

    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Refused(Refusal::NoSvid(_) | Refusal::SvidExpired(_)) => Blame::Us,
            Self::Failed { reason: "refused_by_peer", .. } => Blame::Us,
            Self::Failed { reason: "closed" | "reset" | "timeout", .. } | Self::Timeout => Blame::Network,
            Self::Refused(_) | Self::Failed { .. } => Blame::Peer,
        }
    }

    fn of(error: &(dyn Error + 'static)) -> Self {
        match refusal_of(error) {
            Some(refusal) => Self::Refused(refusal),
            None => Self::Failed { reason: failure_reason(error), detail: error.to_string() },
        }
    }
}

/// How long, and for how many bytes, a client that was refused is listened to.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: usize = 64 * 1024;

pub(crate) type ClientTls = client::TlsStream<TcpStream>;
pub(crate) type ServerTls = server::TlsStream<TcpStream>;

/// Shakes hands as the dialling side. The peer must be the one that the route names, whatever the verifier in its
/// configuration let pass.
pub(crate) async fn dial(tcp: TcpStream, route: &Route) -> Result<(ClientTls, Peer), HandshakeError> {
    let connector = TlsConnector::from(Arc::clone(&route.tls));
    let tls = connector.connect(server_name(), tcp).await.map_err(|e| HandshakeError::of(&e))?;
    let (socket, connection) = tls.get_ref();
    let peer = proven(socket, connection, route.generation, route.until)?;
    if peer.identity != route.key.destination {
        let expected = Expected::one(route.key.destination.clone());
        return Err(Refusal::UnexpectedIdentity { got: peer.identity, expected }.into());
    }
    Ok((tls, peer))
}

/// Shakes hands as the serving side.
pub(crate) async fn accept(tcp: TcpStream, local: &Local) -> Result<(ServerTls, Peer), HandshakeError> {
    let acceptor = TlsAcceptor::from(Arc::clone(&local.tls));
    let tls = match acceptor.accept(tcp).into_fallible().await {
        Ok(tls) => tls,
        Err((error, tcp)) => {
            spawn_local(timeout(FAREWELL, say_why(tcp)));
            return Err(HandshakeError::of(&error));
        }
    };
    let (socket, connection) = tls.get_ref();
    let peer = proven(socket, connection, local.generation, local.until)?;
    Ok((tls, peer))
}

/// Lets the alert arrive. The client believes that the handshake is done and has sent more; a socket closed with
/// unread bytes sends RST, and RST overtakes the alert.
async fn say_why(mut tcp: TcpStream) {
    let mut unread = FAREWELL_BYTES;
    let mut scratch = [0; 2048];
    if tcp.shutdown().await.is_err() {
        return;
    }
    while unread > 0 {
        match tcp.read(&mut scratch).await {
            Ok(n) if n > 0 => unread = unread.saturating_sub(n),
            _ => return,
        }
    }
}

fn proven(
    socket: &TcpStream,
    connection: &CommonState,
    generation: Generation,
    own_until: SystemTime,
) -> Result<Peer, HandshakeError> {
    let verified = peer_of(connection)?;
    let broken = |e: io::Error| HandshakeError::of(&e);
    Ok(Peer {
        identity: SpiffeId::clone(verified.id()),
        until: own_until.min(verified.svid().not_after),
        address: socket.peer_addr().map_err(broken)?,
        local: socket.local_addr().map_err(broken)?,
        key_exchange: verified.group(),
        suite: connection.negotiated_cipher_suite().map(|suite| suite.suite()),
        generation,
    })
}
