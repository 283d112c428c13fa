//! Puts the agent together, in the order in which its parts may be trusted: hardened process, kernel side, node
//! identity, workers, pods, doors. And takes it apart again.

mod tasks;

use std::{
    fs::File,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use culvert_mtls::{Trust, TrustBundles};
use culvert_redirect::{Config, HostHooks, Redirect};
use culvert_svid::{Clock, ControlPort, Keeper, KeeperSettings, NodeIdentity, Signer, SystemClock};
use culvert_tunnel::{Limits, Proofs};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tokio::net::TcpListener;

use crate::{
    admin,
    cni::{self, Installation, Place},
    control::{self, Feed},
    enrol::{self, Book, Discovery, Enroller, Keeping},
    harden,
    kubelet::Kubelet,
    log::{self, Log},
    metrics::{Metrics, Observed},
    outcome::Sink,
    places::Places,
    settings::{LogFormat, NodeSettings, Settings},
    snapshot::Current,
    worker::{Shared, Workers},
};

/// Longest wait for connections that were reset at the end.
const LAST: Duration = Duration::from_secs(1);
/// Longest wait for the agent before this one: longer than it is given to end.
const BEFORE: Duration = Duration::from_secs(20);
/// Longest time for which an agent that is to end goes on, for the next one to come.
const SUCCESSION: Duration = Duration::from_secs(1);
/// How often is looked whether an agent has ended, or another one has come.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the agent until it is told to stop. Must be called before any thread is made.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    let log = log::start(settings);
    let done = run_logged(settings, &log);
    log.flush();
    done
}

fn run_logged(settings: &Settings, log: &Arc<Log>) -> anyhow::Result<()> {
    harden::forbid_dumps()?;
    harden::raise_descriptor_limit();
    harden::open_sysctls();
    harden::drop_capabilities()?;
    log.write_all_day().context("the thread that writes the log cannot be made")?;
    enrol::prepare_run_dir(&settings.run_dir).context("--run-dir")?;
    let _alone = alone(settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("main")
        .enable_all()
        .build()
        .context("the main runtime cannot be made")?;
    runtime.block_on(agent(settings, log))
}

/// One agent per run directory. The one before may be just ending: in an update it has been told to before this one was
/// started, and the sooner this one goes on, the shorter new connections wait.
fn alone(settings: &Settings) -> anyhow::Result<Flock<File>> {
    let path = settings.run_dir.join("agent.lock");
    let mut file = File::create(&path).with_context(|| format!("{}", path.display()))?;
    let (begun, next) = (Instant::now(), next(settings));
    let lock = loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => break lock,
            Err((file, Errno::EWOULDBLOCK)) if begun.elapsed() < BEFORE => file,
            Err((_, error)) => {
                anyhow::bail!("another agent uses --run-dir {} ({error})", settings.run_dir.display())
            }
        };
        File::create(&next).with_context(|| format!("{}", next.display()))?;
        std::thread::sleep(LOOK);
    };
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}", next.display()))
        }
        _ => Ok(lock),
    }
}

/// There while another agent waits for this one to end.
fn next(settings: &Settings) -> PathBuf {
    settings.run_dir.join("agent.next")
}

/// The metrics port. Of the agent before this one, the lock may be gone a moment before its sockets are.
async fn door(settings: &Settings) -> anyhow::Result<TcpListener> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(settings.metrics).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < LAST => {}
            bound => return bound.with_context(|| format!("--metrics {}", settings.metrics)),
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn agent(settings: &Settings, log: &Arc<Log>) -> anyhow::Result<()> {
    let redirect = Arc::new(open_redirect(settings)?);
    let metrics = Arc::new(Metrics::new(settings.metrics_series));
    let current = Arc::new(Current::default());
    // Metrics and readiness answer from the beginning: an agent that waits for its control plane says so.
    let door = door(settings).await?;
    let serving = tokio::spawn(admin::serve_metrics(door, metrics.clone(), current.clone()));

    let (port, identity) = join(settings, &metrics).await?;
    let node = Node { settings, log: log.clone(), redirect, metrics, current, port, identity };
    let running = node.start()?;
    tracing::info!(node = %settings.node, "the agent runs");
    tasks::until_stopped().await?;
    running.stop(settings).await;
    serving.abort();
    Ok(())
}

fn open_redirect(settings: &Settings) -> anyhow::Result<Redirect> {
    let config = Config {
        bpffs: settings.bpffs.clone(),
        node: settings.node.to_string(),
        ebpf_log: settings.ebpf_log,
        // Looked for, and told, once the agent runs: a kubelet that is not there yet is no reason to end.
        kubelet_cgroup: None,
        dns: Vec::new(),
        hooks: HostHooks::Auto,
        proc: settings.on_node.host_proc.clone(),
    };
    Redirect::open(config).map_err(|error| {
        let reason = error.reason();
        anyhow::Error::from(error).context(format!("the kernel side cannot be used ({reason})"))
    })
}

async fn join(settings: &Settings, metrics: &Arc<Metrics>) -> anyhow::Result<(ControlPort, Arc<NodeIdentity>)> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let port = control::port(settings)?;
    let (root, domain) = (settings.control_root.clone(), settings.trust_domain.clone());
    tokio::spawn(control::follow_root(root, domain, port.trust().bundles().clone()));
    let node = tokio::select! {
        node = control::join_or_load(settings, &port, &*clock) => node,
        stopped = tasks::until_stopped() => {
            stopped?;
            anyhow::bail!("stopped before the node could join");
        }
    };
    let node = node.map_err(|error| {
        let reason = error.reason();
        anyhow::Error::from(error).context(format!("this node has no identity ({reason})"))
    })?;
    let keep_in = Some(settings.run_dir.clone());
    let identity = NodeIdentity::start(node, port.clone(), keep_in, clock, Observed::observer(metrics.clone()))?;
    Ok((port, Arc::new(identity)))
}

/// What the parts are made from.
struct Node<'a> {
    settings: &'a Settings,
    log: Arc<Log>,
    redirect: Arc<Redirect>,
    metrics: Arc<Metrics>,
    current: Arc<Current>,
    port: ControlPort,
    identity: Arc<NodeIdentity>,
}

/// The parts, running.
struct Running {
    enroller: Arc<Enroller>,
    workers: Arc<Workers>,
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Node<'_> {
    fn start(self) -> anyhow::Result<Running> {
        let bundles = TrustBundles::new();
        let shared = self.shared();
        let workers = Workers::start(self.settings.workers, &shared).context("the worker threads cannot be made")?;
        let workers = Arc::new(workers);
        let cni = self.cni();
        let enroller = self.enroller(&shared, &workers, Trust::new(bundles.clone()), cni.clone())?;
        let feed = self.feed(&bundles);
        let node = self.settings.node.clone();
        let desk = admin::Desk { node, enroller: enroller.clone(), shared: shared.clone(), workers: workers.clone() };
        let mut tasks = self.doors(&enroller, desk)?;
        tasks.extend([
            tokio::spawn(control::follow(feed)),
            tokio::spawn(enroller.clone().follow()),
            tokio::spawn(enroller.clone().recover()),
            tokio::spawn(enroller.clone().reconcile(self.kubelet())),
            tokio::spawn(enroller.clone().attend(self.discovery())),
            tokio::spawn(enroller.clone().write_known(self.settings.known_list())),
            tokio::spawn(tasks::rotations(enroller.clone(), workers.clone(), bundles, self.metrics.clone())),
            tokio::spawn(tasks::kernel_events(self.redirect.clone())),
            tokio::spawn(control::report(self.port, self.identity, enroller.clone(), self.current)),
        ]);
        // Last: from now on pods are held back until the door behind them answers.
        tasks.extend(cni.map(|cni| tokio::spawn(cni::keep(cni))));
        Ok(Running { enroller, workers, shared, tasks })
    }

    fn shared(&self) -> Arc<Shared> {
        Arc::new(Shared {
            current: self.current.clone(),
            sink: Arc::new(match self.settings.log_format {
                LogFormat::Text => Sink::new(self.metrics.clone()).with_text(self.log.clone()),
                LogFormat::Json => Sink::new(self.metrics.clone()),
            }),
            metrics: self.metrics.clone(),
            proofs: Proofs::new(),
            limits: Limits { max_connection_age: self.settings.max_connection_age, ..Limits::default() },
            places: Places::new(self.settings.max_connections),
        })
    }

    fn cni(&self) -> Option<Arc<Installation>> {
        let place = Place { socket: self.settings.enrol_socket(), known: self.settings.known_list() };
        let settings = self.settings.on_node.cni.clone()?;
        Some(Arc::new(Installation::new(settings, place)))
    }

    fn kubelet(&self) -> Kubelet {
        let NodeSettings { kubelet_cgroup, host_proc, host_cgroup, .. } = self.settings.on_node.clone();
        Kubelet::new(kubelet_cgroup, host_proc, host_cgroup)
    }

    fn discovery(&self) -> Option<Discovery> {
        let on_node = &self.settings.on_node;
        on_node.discover_pods.then(|| Discovery { proc: on_node.host_proc.clone() })
    }

    fn enroller(
        &self,
        shared: &Arc<Shared>,
        workers: &Arc<Workers>,
        trust: Trust,
        cni: Option<Arc<Installation>>,
    ) -> anyhow::Result<Arc<Enroller>> {
        let signer = Signer::new(self.port.clone(), self.identity.identity().clone());
        let settings = KeeperSettings { validity: self.settings.svid_life, ..KeeperSettings::default() };
        let observer = Observed::observer(self.metrics.clone());
        Ok(Enroller::new(enrol::Parts {
            node: self.settings.node.clone(),
            redirect: self.redirect.clone(),
            keeper: Keeper::new(signer, trust, settings, Arc::new(SystemClock::new()), observer),
            shared: shared.clone(),
            workers: workers.clone(),
            book: Book::open(&self.settings.run_dir).context("the book of pods cannot be opened")?,
            keeping: self.settings.on_node.keeper.clone().map(|socket| Keeping { socket }),
            cni,
            proc: self.settings.on_node.host_proc.clone(),
        }))
    }

    fn feed(&self, bundles: &TrustBundles) -> Feed {
        Feed {
            node: self.settings.node.clone(),
            port: self.port.clone(),
            identity: self.identity.clone(),
            current: self.current.clone(),
            bundles: bundles.clone(),
            metrics: self.metrics.clone(),
        }
    }

    fn doors(&self, enroller: &Arc<Enroller>, desk: admin::Desk) -> io::Result<Vec<tokio::task::JoinHandle<()>>> {
        let enrolling = enrol::listen(&self.settings.enrol_socket())?;
        let admin = enrol::listen(&self.settings.admin_socket())?;
        Ok(vec![tokio::spawn(enrol::serve(enrolling, enroller.clone())), tokio::spawn(admin::serve(admin, desk))])
    }
}

impl Running {
    /// Takes no new connections, lets open ones end for a while, then leaves. The pins stay: until another agent comes
    /// nothing of the pods leaves or enters, unless they are to be withdrawn.
    async fn stop(self, settings: &Settings) {
        tracing::info!(patience = ?settings.drain, "stopping");
        // With a keeper, connections that come when nobody accepts wait for the next agent: it had better be there.
        if settings.on_node.keeper.is_some() {
            let waits = next(settings);
            let there = async {
                while !waits.exists() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            let _ = tokio::time::timeout(SUCCESSION, there).await;
        }
        // What was accepted may still open its tunnel: the client has its connection, and knows of nobody else to ask.
        let quiet = async {
            self.enroller.stop_accepting().await;
            tracing::info!("nothing more is accepted");
            tokio::join!(self.workers.drain(), tasks::until_quiet(&self.shared.places));
        };
        if tokio::time::timeout(settings.drain, quiet).await.is_err() {
            tracing::info!("connections that are still open are reset");
            for pod in self.enroller.pods() {
                pod.live.revoke_where(|_| Some("draining"));
            }
        }
        // Nothing is dialled any more from here on. What has been told to end gets the time to do so; who only holds a place,
        // like one that never shakes hands, is not waited for again.
        let ended = async {
            self.workers.hang_up().await;
            tasks::until_ended(&self.enroller).await;
        };
        let _ = tokio::time::timeout(LAST, ended).await;
        if settings.withdraw_on_exit {
            for pod in self.enroller.pods() {
                if let Err(error) = self.enroller.withdraw(pod.uid.as_str(), None).await {
                    tracing::error!(pod = %pod.uid, reason = error.reason(), %error, "the pod could not be withdrawn");
                }
            }
        }
        self.enroller.release_all();
        for task in self.tasks {
            task.abort();
        }
        tracing::info!("stopped");
    }
}
