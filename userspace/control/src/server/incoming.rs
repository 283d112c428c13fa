//! TCP connections that became TLS connections, with what their peer has proven.

use std::{
    collections::HashMap,
    future::Future as _,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as Polling, Poll},
    time::Duration,
};

use culvert_mtls::{LocalIdentity, Refusal, VerifiedPeer, failure_reason, peer_of};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::Context;
use crate::{audit::Event, index::Snapshot, metrics::Reason};

/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once; further connections wait in the kernel's queue.
const AT_ONCE: usize = 256;
/// Of them from one address, so that none takes the places of all. Open connections without a certificate count as well.
const FROM_ONE: usize = 32;
/// Longest life of a connection without a client certificate: time enough to join.
const ANONYMOUS: Duration = Duration::from_secs(15);
/// Open connections without a client certificate at once.
const ANONYMOUS_AT_ONCE: usize = 256;
/// The same of connections that come from addresses of pods, handshakes and open ones each: agents are on their nodes'
/// networks, so that no pod can take their places.
const OF_PODS: usize = 32;

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
    /// Set where the peer has proven nothing.
    anonymous: Option<Anonymous>,
}

/// What a connection without a client certificate has: an end, and a place among its like.
struct Anonymous {
    end: Pin<Box<time::Sleep>>,
    ended: bool,
    _places: (Place, OwnedSemaphorePermit),
}

/// Places for those who have proven nothing yet.
#[derive(Clone)]
struct Places {
    handshakes: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
}

impl Places {
    fn new(handshakes: usize, anonymous: usize) -> Self {
        Self { handshakes: Arc::new(Semaphore::new(handshakes)), anonymous: Arc::new(Semaphore::new(anonymous)) }
    }
}

/// Handshakes under way, by address.
#[derive(Clone, Default)]
struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One handshake of an address, until dropped.
struct Place(Sources, IpAddr);

impl Sources {
    fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= FROM_ONE {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), address))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
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
    let (of_pods, of_others) = (Places::new(OF_PODS, OF_PODS), Places::new(AT_ONCE, ANONYMOUS_AT_ONCE));
    let sources = Sources::default();
    loop {
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
        let Some(own) = sources.enter(address.ip()) else {
            let text = format!("{FROM_ONE} handshakes from this address already");
            refused(&context, address, "too_many_handshakes", text);
            continue;
        };
        let snapshot = Arc::clone(&context.published.borrow().snapshot);
        let (places, place) = if is_of_a_pod(&snapshot, address.ip()) {
            (&of_pods, Arc::clone(&of_pods.handshakes).try_acquire_owned().ok())
        } else {
            // Who comes behind them waits in the kernel's queue.
            (&of_others, Arc::clone(&of_others.handshakes).acquire_owned().await.ok())
        };
        let Some(place) = place else {
            refused(&context, address, "too_many_of_pods", format!("{OF_PODS} handshakes of pods already"));
            continue;
        };
        let (identity, context, sender) = (identity.clone(), Arc::clone(&context), sender.clone());
        let anonymous = Arc::clone(&places.anonymous);
        tokio::spawn(async move {
            match time::timeout(HANDSHAKE, shake_hands(stream, address, &identity)).await {
                Ok(Ok((stream, peer))) => match Connection::new(stream, peer, own, anonymous) {
                    Some(connection) => drop(sender.send(Ok(connection)).await),
                    None => {
                        let text = "too many connections without a certificate already".to_owned();
                        refused(&context, address, "too_many_anonymous", text);
                    }
                },
                Ok(Err(error)) => refused(&context, address, failure_reason(&error), error.to_string()),
                Err(_) => refused(&context, address, "timeout", "no handshake within 10 s".to_owned()),
            }
            drop(place);
        });
    }
}

fn is_of_a_pod(snapshot: &Snapshot, address: IpAddr) -> bool {
    snapshot.roster().claimants(address).any(|workload| !workload.host_network)
}

type Shaken = (TlsStream<TcpStream>, Peer);

async fn shake_hands(stream: TcpStream, address: SocketAddr, identity: &LocalIdentity) -> io::Result<Shaken> {
    stream.set_nodelay(true)?;
    let config = identity.server_config_optional_client()?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let proven = match peer_of(stream.get_ref().1) {
        Ok(peer) => Some(Arc::new(peer)),
        Err(Refusal::NoClientCertificate) => None,
        Err(refusal) => return Err(refusal.into()),
    };
    Ok((stream, Peer { address, proven }))
}

impl Connection {
    /// `None`: too many have proven nothing. Who has proven something needs its address's place no longer.
    fn new(stream: TlsStream<TcpStream>, peer: Peer, own: Place, anonymous: Arc<Semaphore>) -> Option<Self> {
        let anonymous = match peer.proven {
            Some(_) => None,
            None => {
                let place = anonymous.try_acquire_owned().ok()?;
                Some(Anonymous { end: Box::pin(time::sleep(ANONYMOUS)), ended: false, _places: (own, place) })
            }
        };
        Some(Self { stream, peer, anonymous })
    }

    /// An error once a connection without a certificate has lasted as long as it may.
    fn still_may(&mut self, cx: &mut Polling<'_>) -> io::Result<()> {
        let Some(anonymous) = &mut self.anonymous else { return Ok(()) };
        if !anonymous.ended && anonymous.end.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        anonymous.ended = true;
        Err(io::Error::new(io::ErrorKind::TimedOut, "15 s without a client certificate"))
    }
}

fn refused(context: &Context, address: SocketAddr, reason: &'static str, detail: String) {
    context.metrics.handshakes_failed.get_or_create(&Reason { reason }).inc();
    let event = Event { action: "handshake", reason, peer: Some(address), detail: Some(detail), ..Event::default() };
    context.audit.write_anonymous(event);
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Polling<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.still_may(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Polling<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.still_may(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Polling<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
