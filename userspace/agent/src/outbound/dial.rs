//! Takes the ways that were authorized, one after the other, until one leads somewhere.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use culvert_identity::SpiffeId;
use culvert_mtls::{Expected, Refusal};
use culvert_redirect::{DialError as SocketError, Netns};
use culvert_tunnel::{
    AppSocket, Authority, ConnectRequest, Early, Forwarded, Host, OpenError, Revocation, Route, Traceparent, TunnelKey,
    revocation,
};
use culvert_workload::Workload;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use super::authorize::{Authorized, Way};
use crate::{
    accepted::Accepted,
    carried::{self, Carried, Legs},
    live::{Ground, Listed, Live},
    outcome::{Blame, Ending, Step, Transport},
    places::Place,
    pod::{self, Pod},
    snapshot::Snapshot,
    worker::Worker,
};

/// Where enrolled workloads take tunnels.
pub(crate) const HBONE_PORT: u16 = 15008;
/// Patience for a plain TCP connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Most ways that are tried for one connection.
const ATTEMPTS: usize = 4;

/// Why a way leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The pod cannot prove who it is.
    #[error("the pod cannot present itself")]
    NoCredentials(#[source] Refusal),
    /// The tunnel or its stream could not be opened.
    #[error("no stream to {1}")]
    Tunnel(#[source] OpenError, SocketAddr),
    /// The plain connection could not be made.
    #[error("no connection to {1}")]
    Plain(#[source] SocketError, SocketAddr),
    /// Nobody answered in time.
    #[error("no connection to {0} within 10 s")]
    Timeout(SocketAddr),
    /// Meanwhile the connection is not allowed any more.
    #[error("ended while it was dialled: {0}")]
    Revoked(&'static str),
}

impl DialError {
    /// Stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials(refusal) => refusal.reason(),
            Self::Tunnel(error, _) => error.reason(),
            Self::Plain(error, _) => error.reason(),
            Self::Timeout(_) => "connect_timeout",
            Self::Revoked(reason) => reason,
        }
    }

    fn blame(&self) -> Blame {
        match self {
            Self::NoCredentials(_) | Self::Revoked(_) => Blame::Us,
            Self::Tunnel(error, _) => carried::blame(error.blame()),
            Self::Plain(SocketError::Connect(error), _) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Blame::Peer
            }
            Self::Plain(SocketError::Connect(_), _) | Self::Timeout(_) => Blame::Network,
            Self::Plain(..) => Blame::Us,
        }
    }

    fn step(&self) -> Step {
        match self {
            Self::Tunnel(OpenError::Refused(_) | OpenError::AnswerTimeout | OpenError::Reset(_), _) => Step::Connect,
            _ => Step::Dial,
        }
    }

    /// Could another endpoint do better? A refusal by policy is an answer, and our own faults follow us.
    fn is_of_this_endpoint(&self) -> bool {
        match self {
            Self::NoCredentials(_) | Self::Revoked(_) => false,
            Self::Tunnel(error, _) => !matches!(
                error,
                OpenError::Refused(400 | 401) | OpenError::SvidExpired | OpenError::Ended(_) | OpenError::Draining
            ),
            Self::Plain(error, _) => matches!(error, SocketError::Connect(_)),
            Self::Timeout(_) => true,
        }
    }
}

/// Tries the ways in their order; the last failure is the outcome.
pub(super) async fn dial(worker: &Worker, authorized: Authorized) -> Option<Carried<Place>> {
    let (mut accepted, ways) = authorized.into_parts();
    let last = ways.len().min(ATTEMPTS) - 1;
    let mut early = Early::default();
    for (attempt, way) in ways.into_iter().take(ATTEMPTS).enumerate() {
        describe(&mut accepted, &way);
        let (revoker, revocation) = revocation();
        let live = Live::new(ground(&way), accepted.outcome.record().clone(), accepted.outcome.flow(), revoker);
        let listed = accepted.pod.live.list(live);
        let went = match obsolete(worker, &accepted.pod, &listed) {
            None => follow(worker, &mut accepted, &way, &revocation, &mut early).await,
            Some(pod::POLICY_CHANGE) if attempt < last => continue,
            Some(reason) => Err(DialError::Revoked(reason)),
        };
        match went {
            Ok(far) => {
                let Accepted { io, outcome, slot: kept, .. } = accepted;
                let pod = AppSocket::ready(io).after(early, &outcome.meter());
                return Some(Carried { pod, far, outcome, revocation, listed, kept });
            }
            Err(error) => {
                if error.is_of_this_endpoint() {
                    worker.shun(way.address());
                    if attempt < last && !early.is_out() && !early.is_broken() {
                        tracing::debug!(endpoint = %way.address(), reason = error.reason(), "trying the next endpoint");
                        continue;
                    }
                }
                end(accepted, &error, &listed, &early);
                return None;
            }
        }
    }
    None
}

/// The ways were found some time ago, perhaps before the patience of others was used up: what holds now.
fn obsolete(worker: &Worker, pod: &Pod, listed: &Listed) -> Option<&'static str> {
    if pod.gone.is_cancelled() {
        return Some(pod::POD_WITHDRAWN);
    }
    let leads = |snapshot: Arc<Snapshot>| pod::still_leads(&snapshot, &listed.live().ground);
    (!worker.shared.current.get().is_some_and(leads)).then_some(pod::POLICY_CHANGE)
}

fn end(accepted: Accepted, error: &DialError, listed: &Listed, early: &Early) {
    // An application may have got them: whoever looks at the record wants to know.
    early.count(&accepted.outcome.meter());
    match error {
        DialError::Revoked(reason) => {
            let decided = carried::decided(reason, listed.live());
            accepted.outcome.end(Ending::Revoked(decided));
        }
        error => accepted.fail(error.step(), error.blame(), error.reason(), error),
    }
}

/// Goes one way, unless the connection is revoked meanwhile.
async fn follow(
    worker: &Worker,
    accepted: &mut Accepted,
    way: &Way,
    revocation: &Revocation,
    early: &mut Early,
) -> Result<Legs, DialError> {
    let far = async {
        match way {
            Way::Itself(address) => plain(accepted.pod.netns.connect_plain(*address), *address, early).await,
            Way::Plain { address, .. } => {
                worker.shared.metrics.own.passthrough.inc();
                plain(accepted.pod.netns.connect_wire(*address), *address, early).await
            }
            Way::Tunnel { workload, address, identity } => {
                tunnel(worker, accepted, workload, *address, identity, early).await
            }
        }
    };
    tokio::select! {
        biased;
        reason = revocation.revoked() => Err(DialError::Revoked(reason)),
        far = far => far,
    }
}

async fn plain(
    connect: impl Future<Output = Result<TcpStream, SocketError>>,
    address: SocketAddr,
    early: &mut Early,
) -> Result<Legs, DialError> {
    // What was said to an endpoint that did not take it is said first to this one.
    let connect = async {
        let mut socket = connect.await?;
        early.goes_out();
        socket.write_all(early.bytes()).await.map_err(SocketError::Connect)?;
        early.arrives();
        Ok(socket)
    };
    match timeout(CONNECT, connect).await {
        Ok(Ok(socket)) => Ok(Legs::Plain(socket)),
        Ok(Err(error)) => Err(DialError::Plain(error, address)),
        Err(_) => Err(DialError::Timeout(address)),
    }
}

async fn tunnel(
    worker: &Worker,
    accepted: &mut Accepted,
    workload: &Workload,
    address: SocketAddr,
    identity: &SpiffeId,
    early: &mut Early,
) -> Result<Legs, DialError> {
    let gate = SocketAddr::new(address.ip(), HBONE_PORT);
    let route = route(&accepted.pod, accepted.peer, workload, gate, identity).map_err(DialError::NoCredentials)?;
    let request = request(accepted, address);
    let begun = tokio::time::Instant::now();
    let dial = || dialler(accepted.pod.netns.clone(), gate);
    let opened = worker.pool.open_saying(Some(&accepted.io), early, &route, &request, dial).await;
    if opened.is_ok() {
        worker.shared.metrics.own.connect_seconds.observe(begun.elapsed());
    }
    // An answer comes over a tunnel, and there is none without the identity that was asked for; nor are words out.
    let answered =
        matches!(opened, Ok(_) | Err(OpenError::Refused(_) | OpenError::AnswerTimeout | OpenError::Reset(_)));
    if answered || early.is_out() {
        let record = accepted.outcome.note();
        record.src.identity = Some(accepted.pod.identity().shared());
        record.dst.identity = Some(identity.shared());
        record.identity_from = "handshake".into();
    }
    opened.map(Legs::Tunnel).map_err(|error| DialError::Tunnel(error, gate))
}

/// Makes the wire leg of a tunnel in the pod's netns.
pub(super) async fn dialler(netns: Netns, gate: SocketAddr) -> io::Result<TcpStream> {
    netns.connect_wire(gate).await.map_err(|error| match error {
        SocketError::Connect(error) => error,
        other => io::Error::other(other),
    })
}

/// As whom, to whom, with which credentials. The peer's verifier accepts nobody but `identity`.
pub(super) fn route(
    pod: &Pod,
    from: SocketAddr,
    workload: &Workload,
    gate: SocketAddr,
    identity: &SpiffeId,
) -> Result<Route, Refusal> {
    let credentials = pod.local.credentials()?;
    Ok(Route {
        key: TunnelKey {
            source: pod.identity().clone(),
            destination: identity.clone(),
            address: gate,
            from: from.ip(),
            peer: workload.uid.0.clone(),
        },
        generation: pod.dialling_generation(identity),
        tls: pod.local.client_config(&Expected::one(identity.clone()))?,
        until: credentials.not_after(),
    })
}

fn request(accepted: &mut Accepted, address: SocketAddr) -> ConnectRequest {
    let service = accepted.outcome.record().service.as_deref().and_then(|service| service.split_once('/'));
    let host = service.map(|(namespace, name)| format!("{name}.{namespace}.svc.cluster.local").into());
    let trace = Traceparent::random();
    accepted.outcome.note().trace = Some(trace);
    ConnectRequest {
        authority: Authority { host: Host::Ip(address.ip()), port: address.port() },
        forwarded: Forwarded { client: Some(accepted.peer), host },
        baggage: accepted.pod.about(),
        traceparent: Some(trace),
        network: None,
    }
}

fn ground(way: &Way) -> Ground {
    match way {
        Way::Itself(_) => Ground::Itself,
        Way::Plain { address, .. } => Ground::NotEnrolled(*address),
        Way::Tunnel { workload, address, identity } => {
            Ground::Destination { address: *address, workload: workload.uid.clone(), identity: identity.clone() }
        }
    }
}

fn describe(accepted: &mut Accepted, way: &Way) {
    let original = accepted.original;
    let record = accepted.outcome.note();
    record.original_dst = (way.address() != original).then_some(original);
    match way {
        Way::Itself(address) => {
            record.transport = Transport::Hairpin;
            record.dst.addr = *address;
            record.identity_from = "none: the pod calls itself".into();
        }
        Way::Plain { workload, address, why } => {
            record.transport = Transport::Passthrough;
            record.dst.addr = *address;
            record.identity_from = (*why).into();
            if let Some(workload) = workload {
                record.dst.known(workload);
            }
        }
        Way::Tunnel { workload, address, .. } => {
            record.transport = Transport::Hbone;
            record.dst.addr = SocketAddr::new(address.ip(), HBONE_PORT);
            record.hbone_addr = Some(*address);
            record.dst.known(workload);
        }
    }
}
