//! Tunnels that we dial: who shares one, who waits for one, when it goes.

mod dial;
mod group;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    future::Future,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_identity::SpiffeId;
use foldhash::fast::RandomState;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    connect::ConnectRequest,
    early::Early,
    error::{OpenError, StreamError},
    http2::code,
    key::{Generation, Peer, Route, TunnelKey},
    limits::Limits,
    proofs::Proofs,
    stream::{TunnelStream, Unanswered},
    tunnel::Seated,
};
use group::{Group, Seat, Turn};

/// How often a stream is tried again on another tunnel, when its tunnel turned out to take no more streams.
const TRIES: usize = 3;

/// The dialled tunnels of one worker thread. A clone is the same pool.
///
/// Must be used inside a `LocalSet` (or a local runtime): each tunnel is driven by a task of its own.
#[derive(Clone)]
pub struct Pool {
    inner: Rc<Inner>,
}

/// Is told of each dial; for metrics. Calls come from the worker's own thread.
pub trait DialWatch: 'static {
    /// A dial has ended: who the peer has proven to be, or why there is no tunnel. `took` covers TCP and TLS.
    fn dialled(&self, route: &Route, result: Result<&Peer, &OpenError>, took: Duration);
}

struct Inner {
    limits: Limits,
    proofs: Arc<Proofs>,
    watch: Option<Rc<dyn DialWatch>>,
    groups: RefCell<HashMap<TunnelKey, Group, RandomState>>,
    draining: Cell<bool>,
}

/// How many tunnels and streams a pool has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCount {
    /// Tunnels, dying ones included.
    pub tunnels: usize,
    /// Tunnels that take no new stream.
    pub retired: usize,
    /// Open streams.
    pub streams: usize,
    /// Dials in progress.
    pub dials: usize,
}

impl Pool {
    /// An empty pool. `proofs` is shared by all workers of the agent.
    pub fn new(limits: Limits, proofs: Arc<Proofs>) -> Self {
        Self::build(limits, proofs, None)
    }

    /// The same, with somebody who is told of each dial.
    pub fn with_watch(limits: Limits, proofs: Arc<Proofs>, watch: Rc<dyn DialWatch>) -> Self {
        Self::build(limits, proofs, Some(watch))
    }

    fn build(limits: Limits, proofs: Arc<Proofs>, watch: Option<Rc<dyn DialWatch>>) -> Self {
        let inner = Inner { limits, proofs, watch, groups: RefCell::default(), draining: Cell::new(false) };
        Self { inner: Rc::new(inner) }
    }

    /// Opens a stream: over a tunnel that has room and is not older than `route.generation`, else over a new one.
    ///
    /// `dial` makes the TCP connection and runs only if this call is the one that dials, at most three times (again when
    /// the peer took leave at once): at most one dial per [`TunnelKey`] is in flight, others wait for it and share its
    /// failure. The dial goes on when its caller is
    /// dropped. Tunnels of older generations take no new stream from here on.
    pub async fn open<D, F>(&self, route: &Route, request: &ConnectRequest, dial: D) -> Result<TunnelStream, OpenError>
    where
        D: FnMut() -> F,
        F: Future<Output = io::Result<TcpStream>> + 'static,
    {
        self.open_saying(None, &mut Early::default(), route, request, dial).await
    }

    /// The same with what the application on this socket says at once. Bytes that may have reached an application
    /// are not said again: after such a failure [`Early::is_out`] is true.
    pub async fn open_saying<D, F>(
        &self,
        app: Option<&TcpStream>,
        early: &mut Early,
        route: &Route,
        request: &ConnectRequest,
        mut dial: D,
    ) -> Result<TunnelStream, OpenError>
    where
        D: FnMut() -> F,
        F: Future<Output = io::Result<TcpStream>> + 'static,
    {
        let (mut tries, mut dials) = (0, 0);
        loop {
            let mut dial = || {
                dials += 1;
                (dials <= TRIES).then(&mut dial).ok_or(OpenError::GoAway)
            };
            let (seated, fresh) = self.seat(route, &mut dial).await?;
            tries += 1;
            // Where the peer turns out to be gone the request can be sent again, and what was said cannot.
            let saying = (seated.is_lively() || fresh).then_some(&mut *early);
            let asked = self.ask(seated, request, app, saying).await;
            match &asked {
                Ok(_) => early.arrives(),
                Err(error) if was_not_taken(error) => early.comes_back(),
                Err(_) => {}
            }
            match asked {
                Err(error) if tries < TRIES && (may_retry(&error) || (lost(&error) && !fresh)) && !early.is_out() => {}
                done => return done,
            }
        }
    }

    /// A place in a tunnel, and whether the tunnel was dialled for this call.
    async fn seat<D, F>(&self, route: &Route, dial: &mut D) -> Result<(Seated, bool), OpenError>
    where
        D: FnMut() -> Result<F, OpenError>,
        F: Future<Output = io::Result<TcpStream>> + 'static,
    {
        loop {
            let turn = match self.inner.find_seat(route)? {
                Seat::Taken(seated) => return Ok((seated, false)),
                Seat::Wait(turn) => turn,
                Seat::Dial(turn) => match dial() {
                    Ok(socket) => {
                        self.inner.spawn_dial(route.clone(), socket);
                        turn
                    }
                    // Those who have lined up behind this call meanwhile must not wait for ever.
                    Err(error) => {
                        self.inner.dialled(&route.key, &Err(error.clone()));
                        return Err(error);
                    }
                },
            };
            match turn.await {
                // A dial that had begun before our credentials or the bundles changed proves what held then.
                Ok(Turn::Seated(seated)) if seated.tunnel.peer.generation.is_older_than(route.generation) => {
                    seated.tunnel.retire();
                }
                Ok(Turn::Seated(seated)) => return Ok((seated, true)),
                Ok(Turn::Again) => {}
                Ok(Turn::Failed(error)) => return Err(error),
                Err(_) => return Err(OpenError::Draining),
            }
        }
    }

    /// Sends the CONNECT, and what the application says at once, and waits for the answer.
    async fn ask(
        &self,
        seated: Seated,
        request: &ConnectRequest,
        app: Option<&TcpStream>,
        early: Option<&mut Early>,
    ) -> Result<TunnelStream, OpenError> {
        let tunnel = Rc::clone(&seated.tunnel);
        if tunnel.is_retired() {
            return Err(OpenError::GoAway);
        }
        let opened = tunnel.session.borrow_mut().open(request);
        let mut stream = match opened {
            Ok(id) => TunnelStream::new(seated, id),
            Err(error) => {
                tunnel.retire();
                return Err(unopened(error));
            }
        };
        if let Some(early) = early
            && early.say(&mut tunnel.session.borrow_mut(), stream.id(), app)
        {
            stream.has_spoken();
        }
        let answered = timeout(self.inner.limits.answer_timeout, stream.answered()).await;
        match answered {
            Err(_) => Err(OpenError::AnswerTimeout),
            Ok(Err(Unanswered::Ended(why))) => Err(OpenError::TunnelLost(why)),
            Ok(Err(Unanswered::Broken(error))) => {
                if !matches!(error, StreamError::Reset(_)) {
                    tunnel.retire();
                }
                Err(unanswered(error))
            }
            Ok(Ok(200)) => Ok(stream),
            Ok(Ok(status)) => Err(OpenError::Refused(status)),
        }
    }

    /// Makes a fresh handshake with the peer of `route`, so that the streams of older tunnels to it may go on; gives
    /// the end of the new proof. To be called for each key of [`Pool::unproven`] after a rotation, and of
    /// [`Pool::expiring`] in time before the end. A dial that is in flight already counts.
    pub async fn prove<D, F>(&self, route: &Route, dial: D) -> Result<SystemTime, OpenError>
    where
        D: FnOnce() -> F,
        F: Future<Output = io::Result<TcpStream>> + 'static,
    {
        let turn = match self.inner.line_up(route)? {
            Seat::Dial(turn) => {
                self.inner.spawn_dial(route.clone(), dial());
                turn
            }
            Seat::Wait(turn) => turn,
            Seat::Taken(seated) => return Ok(seated.tunnel.until()),
        };
        match turn.await {
            Ok(Turn::Seated(seated)) => Ok(seated.tunnel.until()),
            Ok(Turn::Again) => self.inner.proven_until(&route.key).ok_or(OpenError::GoAway),
            Ok(Turn::Failed(error)) => Err(error),
            Err(_) => Err(OpenError::Draining),
        }
    }

    /// The keys of `source` that carry streams on tunnels of an older generation than this one, and whose peers have
    /// not proven themselves since.
    pub fn unproven(&self, source: &SpiffeId, generation: Generation) -> Vec<TunnelKey> {
        let groups = self.inner.groups.borrow();
        let of_source = groups.iter().filter(|(key, _)| key.source == *source);
        of_source.filter(|(_, group)| group.is_unproven(generation)).map(|(key, _)| key.clone()).collect()
    }

    /// The keys that carry streams whose proof ends before `deadline`, because of our SVID or of the peer's.
    pub fn expiring(&self, deadline: SystemTime) -> Vec<TunnelKey> {
        let groups = self.inner.groups.borrow();
        groups.iter().filter(|(_, group)| group.ends_before(deadline)).map(|(key, _)| key.clone()).collect()
    }

    /// Takes the tunnels whose key fits out of use: no new streams, open ones go on.
    pub fn retire(&self, which: impl Fn(&TunnelKey) -> bool) {
        self.inner.each_tunnel(which, |tunnel| tunnel.retire());
    }

    /// Ends the tunnels whose key fits, streams included, with a stable snake_case reason.
    pub fn end(&self, which: impl Fn(&TunnelKey) -> bool, reason: &'static str) {
        self.inner.each_tunnel(which, |tunnel| tunnel.end(StreamError::Ended(reason)));
    }

    /// Opens nothing any more, and closes each tunnel when its last stream is done.
    pub fn drain(&self) {
        self.inner.draining.set(true);
        self.retire(|_| true);
    }

    /// What the pool holds.
    pub fn count(&self) -> PoolCount {
        let groups = self.inner.groups.borrow();
        groups.values().map(Group::count).fold(PoolCount::default(), |a, b| PoolCount {
            tunnels: a.tunnels + b.tunnels,
            retired: a.retired + b.retired,
            streams: a.streams + b.streams,
            dials: a.dials + b.dials,
        })
    }
}

/// The stream has certainly not reached the peer's application, so that asking elsewhere is safe.
fn may_retry(error: &OpenError) -> bool {
    matches!(error, OpenError::GoAway | OpenError::Reset(code::REFUSED_STREAM))
}

/// Whether the peer has said that it does not take the stream. Every 2xx says that it does (RFC 9110 section 9.3.6), though
/// we go on with 200 only. Whoever refuses our certificate has not looked at what came behind it.
fn was_not_taken(error: &OpenError) -> bool {
    may_retry(error) || matches!(error, OpenError::Refused(300..) | OpenError::TunnelLost(StreamError::RefusedByPeer))
}

/// The tunnel broke under the question. On a tunnel that had been standing around this is how one learns that the
/// peer's agent was restarted. Where no payload was sent yet the application sees an empty connection at worst.
fn lost(error: &OpenError) -> bool {
    matches!(error, OpenError::TunnelLost(StreamError::Lost(_)))
}

fn unopened(error: StreamError) -> OpenError {
    match error {
        StreamError::RefusedByPeer | StreamError::Ended(_) | StreamError::KeepaliveTimeout => {
            OpenError::TunnelLost(error)
        }
        _ => OpenError::GoAway,
    }
}

fn unanswered(error: StreamError) -> OpenError {
    match error {
        StreamError::Reset(code) => OpenError::Reset(code),
        StreamError::GoAway(code::NO_ERROR) => OpenError::GoAway,
        error => OpenError::TunnelLost(error),
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.count()).finish()
    }
}
