//! Agents as far as the control plane sees them: identity, control client, roster, and a compiled rule set per local pod.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use culvert_agent::{
    control::{Feed, follow},
    judge::Judge,
    metrics::Metrics,
    snapshot::{Current, Snapshot},
};
use culvert_identity::{TrustDomain, bundle::X509Bundle};
use culvert_mtls::{Trust, TrustBundles};
use culvert_svid::{Clock, ControlPort, NoObserver, NodeIdentity, SystemClock, node};
use culvert_workload::WorkloadUid;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    api::token,
    cluster::{Cluster, TURN, node_name},
};

/// All agents.
pub(crate) struct Agents {
    pub(crate) all: Vec<Arc<Agent>>,
    cluster: Arc<Cluster>,
    /// The agents that call each service.
    callers: HashMap<usize, Vec<usize>>,
    _tasks: JoinSet<()>,
}

/// One agent.
pub(crate) struct Agent {
    pub(crate) current: Arc<Current>,
    /// Changes that concern it and that it has not seen yet.
    awaited: Mutex<Vec<Awaited>>,
    /// Rule sets compiled so far.
    compiled: AtomicU64,
}

/// A change that an agent is to see.
pub(crate) struct Awaited {
    /// The pod as it has to be known; with no turn it has to be unknown.
    pub(crate) uid: WorkloadUid,
    pub(crate) turn: Option<u64>,
    pub(crate) event: Arc<Event>,
}

/// A change, and until when it was seen.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) at: Instant,
    /// Microseconds until the last agent so far has seen it.
    pub(crate) last: AtomicU64,
    pub(crate) missing: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agents {
    /// Joins all of them and lets them follow.
    pub(crate) async fn start(cluster: &Arc<Cluster>, folder: &Path, control: SocketAddr, roots: &str) -> Result<Self> {
        let domain = TrustDomain::parse("cluster.local")?;
        let trust = TrustBundles::new();
        trust.set(X509Bundle::parse_pem(domain.clone(), roots)?)?;
        let port = ControlPort::new(&control.to_string(), Trust::new(trust), &domain);
        let metrics = Arc::new(Metrics::new(0));
        let places = Arc::new(Semaphore::new(32));
        let mut joins = JoinSet::new();
        for number in 0..cluster.size.agents {
            let file = folder.join(format!("token-{number}"));
            std::fs::write(&file, token(number))?;
            let (port, metrics, places) = (port.clone().with_token_file(file), metrics.clone(), places.clone());
            joins.spawn(async move {
                let _place = places.acquire().await;
                join(number, port, metrics).await
            });
        }
        let (mut all, mut tasks) = (Vec::new(), JoinSet::new());
        while let Some(joined) = joins.join_next().await {
            let (number, feed) = joined??;
            let current = Arc::clone(&feed.current);
            let agent = Arc::new(Agent { current, awaited: Mutex::default(), compiled: AtomicU64::new(0) });
            all.push((number, Arc::clone(&agent)));
            tasks.spawn(follow(feed));
            tasks.spawn(agent.enforce(node_name(number)));
        }
        all.sort_by_key(|(number, _)| *number);
        let all = all.into_iter().map(|(_, agent)| agent).collect();
        let mut callers: HashMap<usize, Vec<usize>> = HashMap::new();
        for number in 0..cluster.size.agents {
            cluster.called_by(number).into_iter().for_each(|service| callers.entry(service).or_default().push(number));
        }
        Ok(Self { all, cluster: Arc::clone(cluster), callers, _tasks: tasks })
    }

    /// Waits until every agent has a state.
    pub(crate) async fn synced(&self, patience: Duration) -> Result<()> {
        for agent in &self.all {
            let first = agent.current.wait_for(patience, |snapshot| Some(snapshot.generation)).await;
            first.context("an agent has no state")?;
        }
        Ok(())
    }

    /// Lets each agent's pods call their services; waits until all are answered.
    pub(crate) async fn call(&self, patience: Duration) -> Result<()> {
        let wanted = |number: usize| -> Vec<IpAddr> {
            self.cluster.called_by(number).into_iter().map(|service| self.cluster.vip_of(service)).collect()
        };
        for (number, agent) in self.all.iter().enumerate() {
            let snapshot = agent.current.get().context("a state")?;
            wanted(number).into_iter().for_each(|vip| agent.current.need(&snapshot, vip));
        }
        for (number, agent) in self.all.iter().enumerate() {
            let wanted = wanted(number);
            let told = |snapshot: &Arc<Snapshot>| wanted.iter().all(|vip| snapshot.tells(*vip)).then_some(());
            agent.current.wait_for(patience, told).await.context("an agent's calls are not answered")?;
        }
        Ok(())
    }

    /// Which agents a change of this pod concerns: its node's, and those that call its service.
    pub(crate) fn concerned(&self, pod: usize) -> Vec<&Arc<Agent>> {
        let callers = self.callers.get(&self.cluster.service_of(pod)).into_iter().flatten().copied();
        let numbers: std::collections::BTreeSet<usize> = callers.chain([self.cluster.node_of(pod)]).collect();
        numbers.into_iter().map(|number| &self.all[number]).collect()
    }

    /// The generations that all stand at.
    pub(crate) fn generations(&self) -> Vec<u64> {
        self.all.iter().map(|agent| agent.current.get().map_or(0, |snapshot| snapshot.generation)).collect()
    }

    /// Workloads and services that all of them hold together, and rule sets that were compiled.
    pub(crate) fn held(&self) -> (usize, usize, u64) {
        let snapshots = self.all.iter().filter_map(|agent| agent.current.get());
        let (workloads, services) = snapshots
            .map(|snapshot| (snapshot.roster.workload_count(), snapshot.roster.services().count()))
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        (workloads, services, self.all.iter().map(|agent| agent.compiled.load(Ordering::Relaxed)).sum())
    }
}

async fn join(number: usize, port: ControlPort, metrics: Arc<Metrics>) -> Result<(usize, Feed)> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut attempt = 0;
    let joined = loop {
        match node::join(&port, "", &*clock).await {
            Ok(joined) => break joined,
            Err(_) if attempt < 20 => {
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            Err(error) => return Err(error).context("joining"),
        }
    };
    let identity = Arc::new(NodeIdentity::start(joined, port.clone(), None, clock, Arc::new(NoObserver))?);
    let current = Arc::new(Current::default());
    let bundles = TrustBundles::new();
    let node = node_name(number).into();
    Ok((number, Feed { node, port, identity, current, bundles, metrics }))
}

impl Agent {
    /// The change is to be seen from now on.
    pub(crate) fn expect(&self, awaited: Awaited) {
        lock(&self.awaited).push(awaited);
    }

    /// Takes in each snapshot as the agent does: rule sets of local pods where something about them has changed.
    async fn enforce(self: Arc<Self>, node: String) {
        let mut changes = self.current.changes();
        let mut judges: HashMap<WorkloadUid, Judge> = HashMap::new();
        loop {
            changes.borrow_and_update();
            if let Some(snapshot) = self.current.get() {
                let local: Vec<_> = snapshot.roster.workloads().filter(|one| *one.node == *node).collect();
                judges.retain(|uid, _| snapshot.roster.workload(uid).is_some());
                for workload in local {
                    let judge = judges.entry(workload.uid.clone()).or_insert_with(Judge::closed);
                    if let Some(renewed) = Judge::renew(judge, &snapshot, workload) {
                        *judge = renewed;
                        self.compiled.fetch_add(1, Ordering::Relaxed);
                    }
                }
                self.note(&snapshot);
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn note(&self, snapshot: &Snapshot) {
        let now = Instant::now();
        lock(&self.awaited).retain(|awaited| {
            let seen = match (snapshot.roster.workload(&awaited.uid), awaited.turn) {
                (None, None) => true,
                (Some(known), Some(turn)) => {
                    known.labels.get(TURN).and_then(|text| text.parse::<u64>().ok()).is_some_and(|known| known >= turn)
                }
                // A pod that has been replaced meanwhile is not seen any more.
                (None, Some(_)) | (Some(_), None) => false,
            };
            if seen {
                let micros = u64::try_from(now.duration_since(awaited.event.at).as_micros()).unwrap_or(u64::MAX);
                awaited.event.last.fetch_max(micros, Ordering::Relaxed);
                awaited.event.missing.fetch_sub(1, Ordering::Relaxed);
            }
            !seen
        });
    }
}
