//! Worker threads: each carries connections on one current-thread runtime, with tunnels of its own.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use culvert_tunnel::{Limits, Pool, Proofs, Server};
use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
};

use crate::{
    acceptor::Acceptor,
    inbound,
    metrics::Metrics,
    outbound,
    outcome::{Direction, Sink},
    places::{Place, Places},
    pod::Pod,
    snapshot::Current,
    telemetry,
};

/// How long an endpoint that did not answer is tried last.
const SHUN: Duration = Duration::from_secs(10);
/// Most endpoints that are remembered as failing.
const SHUNNED: usize = 4096;

/// What all threads of the agent share.
#[derive(Debug)]
pub struct Shared {
    /// The state that decisions are made by.
    pub current: Arc<Current>,
    /// Where outcomes go.
    pub sink: Arc<Sink>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Until when peers have proven who they are.
    pub proofs: Arc<Proofs>,
    /// Numbers of the tunnels.
    pub limits: Limits,
    /// Places for connections.
    pub places: Places,
}

/// A socket that an acceptor has taken, on its way to a worker.
#[derive(Debug)]
pub struct Handover {
    /// The socket, non-blocking.
    pub socket: TcpStream,
    /// The other end, as `accept` gave it.
    pub peer: SocketAddr,
    /// The listener's own address: who calls that has called nobody.
    pub listener: SocketAddr,
    /// From which of the pod's listeners.
    pub direction: Direction,
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its place.
    pub slot: Place,
}

/// What a worker is told.
#[derive(Debug)]
enum Job {
    /// Accept connections from this listener, until it is stopped.
    Listen(Box<(Acceptor, TcpListener)>),
    Carry(Box<Handover>),
    /// Tunnels of this pod made with other credentials than today's take no new stream, and are proven again.
    Rotated(Arc<Pod>),
    /// The pod is gone: its tunnels end.
    Withdrawn(Arc<Pod>),
    Count(oneshot::Sender<Tunnels>),
    /// Served tunnels take no new stream; the answer comes when the last one is over.
    Drain(oneshot::Sender<()>),
    /// Nothing is dialled any more, and dialled tunnels end with their last stream.
    HangUp(oneshot::Sender<()>),
}

/// Tunnels of one worker, or of all.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Tunnels {
    /// Dialled tunnels.
    pub dialled: usize,
    /// Streams in them.
    pub dialled_streams: usize,
    /// Served tunnels.
    pub served: usize,
    /// Streams in them.
    pub served_streams: usize,
}

/// One worker, as its own thread sees it.
#[derive(Debug)]
pub struct Worker {
    /// What all share.
    pub shared: Arc<Shared>,
    /// Dialled tunnels.
    pub pool: Pool,
    /// Served tunnels.
    pub server: Server,
    index: usize,
    shunned: RefCell<HashMap<SocketAddr, Instant>>,
}

/// All workers, as acceptors see them.
#[derive(Debug)]
pub struct Workers {
    senders: Vec<mpsc::UnboundedSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    next: AtomicUsize,
    next_home: AtomicUsize,
}

impl Workers {
    /// Starts `count` threads.
    pub fn start(count: usize, shared: &Arc<Shared>) -> io::Result<Self> {
        let mut workers = Self {
            senders: Vec::new(),
            threads: Vec::new(),
            next: AtomicUsize::new(0),
            next_home: AtomicUsize::new(0),
        };
        for index in 0..count {
            let (sender, receiver) = mpsc::unbounded_channel();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let shared = shared.clone();
            let body = move || LocalSet::new().block_on(&runtime, Rc::new(Worker::new(index, shared)).run(receiver));
            workers.threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(body)?);
            workers.senders.push(sender);
        }
        Ok(workers)
    }

    /// Gives a socket to one of the workers, in turn. Bounded by the slots that sockets come with.
    pub fn carry(&self, handover: Handover) {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.senders.len();
        // A worker that is gone drops the socket, which resets it.
        let _ = self.senders[index].send(Job::Carry(Box::new(handover)));
    }

    /// Gives a listener a home.
    pub(crate) fn listen(&self, acceptor: Acceptor, listener: TcpListener) {
        let index = self.next_home.fetch_add(1, Ordering::Relaxed) % self.senders.len();
        let _ = self.senders[index].send(Job::Listen(Box::new((acceptor, listener))));
    }

    /// Whether the next connection is this worker's; if not, the next call of [`Workers::carry`] finds its worker.
    pub(crate) fn is_turn_of(&self, worker: &Worker) -> bool {
        let mine = self.next.load(Ordering::Relaxed) % self.senders.len() == worker.index;
        if mine {
            self.next.fetch_add(1, Ordering::Relaxed);
        }
        mine
    }

    /// The pod has newer credentials.
    pub fn rotated(&self, pod: &Arc<Pod>) {
        self.tell(|| Job::Rotated(pod.clone()));
    }

    /// The pod is gone.
    pub fn withdrawn(&self, pod: &Arc<Pod>) {
        self.tell(|| Job::Withdrawn(pod.clone()));
    }

    /// Tunnels of all workers together.
    pub async fn count(&self) -> Tunnels {
        let mut total = Tunnels::default();
        for answer in self.ask(Job::Count) {
            let Ok(one) = answer.await else { continue };
            total.dialled += one.dialled;
            total.dialled_streams += one.dialled_streams;
            total.served += one.served;
            total.served_streams += one.served_streams;
        }
        total
    }

    /// Peers open their streams elsewhere; resolves when the last one that is served is done. Dialled tunnels go on, for
    /// those who were accepted before.
    pub async fn drain(&self) {
        for answer in self.ask(Job::Drain) {
            let _ = answer.await;
        }
    }

    /// Takes leave of the peers of the dialled tunnels, and opens nothing any more.
    pub async fn hang_up(&self) {
        for answer in self.ask(Job::HangUp) {
            let _ = answer.await;
        }
    }

    /// Ends the threads; connections that are still open are reset.
    pub fn stop(mut self) {
        self.senders.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn tell(&self, job: impl Fn() -> Job) {
        for sender in &self.senders {
            let _ = sender.send(job());
        }
    }

    fn ask<T>(&self, job: impl Fn(oneshot::Sender<T>) -> Job) -> Vec<oneshot::Receiver<T>> {
        let ask = |sender: &mpsc::UnboundedSender<Job>| {
            let (answer, receiver) = oneshot::channel();
            let _ = sender.send(job(answer));
            receiver
        };
        self.senders.iter().map(ask).collect()
    }
}

impl Worker {
    fn new(index: usize, shared: Arc<Shared>) -> Self {
        let pool = Pool::with_watch(
            shared.limits.clone(),
            shared.proofs.clone(),
            Rc::new(telemetry::Dials(shared.metrics.clone())),
        );
        let server = Server::new(shared.limits.clone(), shared.proofs.clone());
        Self { shared, pool, server, index, shunned: RefCell::default() }
    }

    async fn run(self: Rc<Self>, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = jobs.recv().await {
            let worker = self.clone();
            match job {
                Job::Listen(listening) => {
                    let (acceptor, listener) = *listening;
                    drop(tokio::task::spawn_local(acceptor.run(worker, listener)));
                }
                Job::Carry(handover) => worker.begin(*handover),
                Job::Rotated(pod) => drop(tokio::task::spawn_local(outbound::rotate(worker, pod))),
                Job::Withdrawn(pod) => {
                    self.pool.end(
                        |key| key.source == *pod.identity() && pod.addresses.contains(&key.from),
                        crate::pod::POD_WITHDRAWN,
                    );
                    self.server.end(|_, peer| pod.addresses.contains(&peer.local.ip()), crate::pod::POD_WITHDRAWN);
                }
                Job::Count(answer) => drop(answer.send(self.count())),
                Job::Drain(done) => drop(tokio::task::spawn_local(async move {
                    worker.server.drain().await;
                    let _ = done.send(());
                })),
                Job::HangUp(done) => drop(tokio::task::spawn_local(async move {
                    worker.pool.drain();
                    // The tunnels' own tasks say it.
                    tokio::task::yield_now().await;
                    let _ = done.send(());
                })),
            }
        }
    }

    /// Begins to carry a connection.
    pub(crate) fn begin(self: &Rc<Self>, handover: Handover) {
        let worker = self.clone();
        match handover.direction {
            Direction::Outbound => drop(tokio::task::spawn_local(outbound::carry(worker, handover))),
            Direction::Inbound => drop(tokio::task::spawn_local(inbound::carry(worker, handover))),
        }
    }

    fn count(&self) -> Tunnels {
        let pool = self.pool.count();
        let (served, served_streams) = self.server.count();
        Tunnels { dialled: pool.tunnels, dialled_streams: pool.streams, served, served_streams }
    }

    /// Remembers that an endpoint did not answer.
    pub fn shun(&self, endpoint: SocketAddr) {
        let now = Instant::now();
        let mut shunned = self.shunned.borrow_mut();
        if shunned.len() >= SHUNNED {
            shunned.retain(|_, since| now.duration_since(*since) < SHUN);
        }
        if shunned.len() < SHUNNED {
            shunned.insert(endpoint, now);
        }
    }

    /// Did the endpoint fail a moment ago.
    pub fn is_shunned(&self, endpoint: SocketAddr) -> bool {
        self.shunned.borrow().get(&endpoint).is_some_and(|since| since.elapsed() < SHUN)
    }
}
