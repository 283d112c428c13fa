//! TCP connections that became TLS connections, with what their peer has proven.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context as Polling, Poll},
    time::Duration,
};

use culvert_mtls::{LocalIdentity, Refusal, VerifiedPeer, failure_reason, peer_of};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::Context;
use crate::{audit::Event, metrics::Reason};

/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once; further connections wait in the kernel's queue.
const AT_ONCE: usize = 256;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// `None`: the client presented no certificate.
    pub(super) proven: Option<Arc<VerifiedPeer>>,
}

/// A connection with its peer, as tonic takes it.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

/// Accepts for ever.
pub(super) fn accept(
    listener: TcpListener,
    identity: LocalIdentity,
    context: Arc<Context>,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(accept_all(listener, identity, context, sender));
    ReceiverStream::new(receiver)
}

async fn accept_all(
    listener: TcpListener,
    identity: LocalIdentity,
    context: Arc<Context>,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, address) = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others have to end first.
                    tracing::warn!(%error, "accept failed");
                    time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (identity, context, sender) = (identity.clone(), Arc::clone(&context), sender.clone());
        tokio::spawn(async move {
            match time::timeout(HANDSHAKE, shake_hands(stream, address, &identity)).await {
                Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
                Ok(Err(error)) => refused(&context, address, failure_reason(&error), error.to_string()),
                Err(_) => refused(&context, address, "timeout", "no handshake within 10 s".to_owned()),
            }
            drop(place);
        });
    }
}

async fn shake_hands(stream: TcpStream, address: SocketAddr, identity: &LocalIdentity) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let config = identity.server_config_optional_client()?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let proven = match peer_of(stream.get_ref().1) {
        Ok(peer) => Some(Arc::new(peer)),
        Err(Refusal::NoClientCertificate) => None,
        Err(refusal) => return Err(refusal.into()),
    };
    Ok(Connection { stream, peer: Peer { address, proven } })
}

fn refused(context: &Context, address: SocketAddr, reason: &'static str, detail: String) {
    context.metrics.handshakes_failed.get_or_create(&Reason { reason }).inc();
    let event = Event { action: "handshake", reason, peer: Some(address), detail: Some(detail), ..Event::default() };
    context.audit.write_handshake(event);
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Polling<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Polling<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
