//! The TLS handshake of a tunnel: who the peer has proven to be, or why there is no tunnel.

use std::{
    convert::Infallible,
    error::Error,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::BufMut as _;
use culvert_identity::SpiffeId;
use culvert_mtls::{Expected, Refusal, failure_reason, peer_of, refusal_of, server_name};
use rustls::{CommonState, client::UnbufferedClientConnection, server::UnbufferedServerConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::spawn_local,
    time::timeout,
};

use crate::{
    error::Blame,
    key::{Generation, Local, Peer, Route},
    link::Shaken,
    tls::{Failure, Next, Tls, end_of_records},
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
/// Most that are listened to at a time, of one worker. A refused client has given back its place by then, so without this
/// a thousand failed handshakes a second were a thousand sockets more. Others may not learn why; the log has it anyway.
pub(crate) const FAREWELLS: usize = 128;

/// What of a peer may wait before its handshake is done, in bytes: a chain of certificates, generously. It is what anybody
/// can have kept here, and what [`crate::link`] begins with.
pub(crate) const LARGEST_FLIGHT: usize = 48 * 1024;

/// Shakes hands as the dialling side. The peer must be the one that the route names, whatever the verifier in its
/// configuration let pass.
pub(crate) async fn dial(tcp: TcpStream, route: &Route) -> Result<(Shaken, Peer), HandshakeError> {
    let client = UnbufferedClientConnection::new(Arc::clone(&route.tls), server_name());
    let tls = Tls::client(client.map_err(|e| HandshakeError::of(&e))?);
    let shaken = shake(tcp, tls).await.map_err(|(error, _)| HandshakeError::of(&error))?;
    let peer = proven(&shaken.tcp, &shaken.tls, route.generation, route.until)?;
    if peer.identity != route.key.destination {
        let expected = Expected::one(route.key.destination.clone());
        return Err(Refusal::UnexpectedIdentity { got: peer.identity, expected }.into());
    }
    Ok((shaken, peer))
}

/// Shakes hands as the serving side. Who is refused is listened to for a moment longer, if `farewells` has a place for it.
pub(crate) async fn accept(
    tcp: TcpStream,
    local: &Local,
    farewells: &Arc<Semaphore>,
) -> Result<(Shaken, Peer), HandshakeError> {
    let server = UnbufferedServerConnection::new(Arc::clone(&local.tls));
    let tls = Tls::server(server.map_err(|e| HandshakeError::of(&e))?);
    let shaken = match shake(tcp, tls).await {
        Ok(shaken) => shaken,
        Err((error, tcp)) => {
            if let Ok(place) = Arc::clone(farewells).try_acquire_owned() {
                spawn_local(async move {
                    let _ = timeout(FAREWELL, say_why(tcp)).await;
                    drop(place);
                });
            }
            return Err(HandshakeError::of(&error));
        }
    };
    let peer = proven(&shaken.tcp, &shaken.tls, local.generation, local.until)?;
    Ok((shaken, peer))
}

/// Makes the handshake. An error gives the socket back, after the peer was told why.
async fn shake(mut tcp: TcpStream, mut tls: Tls) -> Result<Shaken, (io::Error, TcpStream)> {
    let (mut rest, mut early, mut own) = (Vec::new(), Vec::new(), Vec::new());
    // Bytes of whole records in `rest`. Counted as they come: TLS moves parts of messages over the heads between them.
    let mut whole = 0;
    loop {
        let (used, next) = tls.step(&mut rest, &mut own, |payload| {
            early.extend_from_slice(payload);
            Ok::<(), Infallible>(())
        });
        rest.drain(..used);
        whole -= used;
        let step = match next {
            Ok(Next::Again) => continue,
            Ok(Next::Ready) if !tls.is_handshaking() => {
                tls.has_worked_through(whole);
                return Ok(Shaken { tcp, tls, rest, early, own });
            }
            Ok(Next::Send) => send(&mut tcp, &mut own, tls.is_handshaking()).await,
            Ok(Next::Ready | Next::Receive) => {
                let received = receive(&mut tcp, &mut rest).await;
                whole = end_of_records(&rest, whole);
                received
            }
            Ok(Next::Closed) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(Failure::Tls(error)) => {
                tls.last_words(&mut rest, &mut own);
                // The reason that counts is the one that we have, not whether the peer could be told.
                let _ = tcp.write_all(&own).await;
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
            Err(Failure::Payload(never)) => match never {},
        };
        if let Err(error) = step {
            return Err((error, tcp));
        }
    }
}

/// Sends our part. The last one waits for what follows it, so that both share a segment.
async fn send(tcp: &mut TcpStream, own: &mut Vec<u8>, more: bool) -> io::Result<()> {
    if more {
        tcp.write_all(own).await?;
        own.clear();
    }
    Ok(())
}

async fn receive(tcp: &mut TcpStream, rest: &mut Vec<u8>) -> io::Result<()> {
    let room = LARGEST_FLIGHT.saturating_sub(rest.len());
    if room == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    rest.reserve(room.min(4096));
    // Not as much as the buffer has happened to grow to.
    match tcp.read_buf(&mut rest.limit(room)).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn no_more_is_kept_than_a_flight_may_have_however_the_buffer_has_grown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut tcp, _) = listener.accept().await.unwrap();
        let flood = tokio::spawn(async move {
            let _ = peer.write_all(&vec![0x16; 1 << 20]).await;
            peer
        });
        let mut rest = Vec::with_capacity(LARGEST_FLIGHT - 1);
        let error = loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            match receive(&mut tcp, &mut rest).await {
                Ok(()) => assert!(rest.len() <= LARGEST_FLIGHT, "{}", rest.len()),
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), rest.len()), (io::ErrorKind::InvalidData, LARGEST_FLIGHT));
        drop(tcp);
        flood.await.unwrap();
    }
}
