//! One identity over time: ask, publish, wait for half of the life, ask again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use culvert_identity::{
    SpiffeId,
    renewal::{self, Renewal},
};
use culvert_mtls::{Credentials, CredentialsWriter, Trust};
use tokio::sync::{Semaphore, watch};

use crate::{Clock, Issue, IssueError, Key, Observer, Request, answer};

/// How often the clocks are looked at: a jump is noticed within this time.
const TICK: Duration = Duration::from_secs(1);

/// Where one identity stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Generation of the published credentials; 0 before the first.
    pub generation: u64,
    /// Last moment of the published certificate.
    pub not_after: Option<SystemTime>,
    /// Its serial number in hex.
    pub serial: Option<String>,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// Reason of the last failure, until the next success.
    pub last_failure: Option<&'static str>,
}

/// The writing end, until the identity is erased: a late answer must not bring it back.
#[derive(Clone)]
pub(crate) struct Slot(Arc<Mutex<Option<CredentialsWriter>>>);

impl Slot {
    pub(crate) fn new(writer: CredentialsWriter) -> Self {
        Self(Arc::new(Mutex::new(Some(writer))))
    }

    pub(crate) fn erase(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(crate) fn publish(&self, credentials: Credentials) -> Result<(), IssueError> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(writer) => writer.publish(credentials).map_err(IssueError::AnswerUnusable),
            None => Err(IssueError::NoPod),
        }
    }
}

/// What all rotations of a process share.
pub(crate) struct Shared<I> {
    pub(crate) issuer: I,
    pub(crate) trust: Trust,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) observer: Arc<dyn Observer>,
    /// As many requests as may be under way at once.
    pub(crate) places: Semaphore,
    pub(crate) validity: Duration,
    /// Counts publications of any identity.
    pub(crate) changes: watch::Sender<u64>,
}

/// Told of each new certificate before it is used, with its key (a node keeps its own).
pub(crate) type OnIssued = Box<dyn Fn(&Key, &Credentials) + Send + Sync>;

/// Picks a pod in whose name to ask, by the number of the attempt.
pub(crate) type PodOf = Box<dyn Fn(u32) -> Result<Option<Arc<str>>, IssueError> + Send + Sync>;

pub(crate) struct Rotation<I> {
    pub(crate) id: SpiffeId,
    pub(crate) slot: Slot,
    pub(crate) shared: Arc<Shared<I>>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) pod: PodOf,
    pub(crate) on_issued: OnIssued,
}

/// What the loop remembers between two looks at the clocks.
struct Plan {
    renewal: Option<Renewal>,
    failures: u32,
    /// On the monotonic clock.
    retry_at: Duration,
    saw_the_end: bool,
}

impl<I: Issue> Rotation<I> {
    /// Runs until it is dropped. `held` are credentials that are published already.
    pub(crate) async fn run(self, held: Option<(SystemTime, SystemTime)>) {
        let renewal = held.map(|(from, to)| self.plan(from, to));
        let mut plan = Plan { renewal, failures: 0, retry_at: Duration::ZERO, saw_the_end: false };
        loop {
            if self.due(&mut plan) {
                match self.attempt(plan.failures).await {
                    Ok(renewal) => {
                        plan =
                            Plan { renewal: Some(renewal), failures: 0, retry_at: Duration::ZERO, saw_the_end: false }
                    }
                    Err(error) => self.failed(&mut plan, &error),
                }
            }
            tokio::time::sleep(self.pause(&plan)).await;
        }
    }

    /// Is an attempt to be made now? The end of the certificate cuts a pause short.
    fn due(&self, plan: &mut Plan) -> bool {
        let (wall, monotonic) = (self.shared.clock.wall(), self.shared.clock.monotonic());
        if let Some(renewal) = &plan.renewal {
            let ended = renewal.expired(wall);
            if ended && !plan.saw_the_end {
                self.shared.observer.expired(&self.id);
                tracing::warn!(identity = %self.id, "the SVID has ended before there was a new one");
                (plan.failures, plan.retry_at) = (0, Duration::ZERO);
            }
            plan.saw_the_end = ended;
            if !renewal.due(wall, monotonic) {
                return false;
            }
        }
        monotonic >= plan.retry_at
    }

    fn pause(&self, plan: &Plan) -> Duration {
        let (wall, monotonic) = (self.shared.clock.wall(), self.shared.clock.monotonic());
        let by_plan = plan.renewal.map_or(Duration::ZERO, |renewal| renewal.wait(wall, monotonic));
        let by_retry = plan.retry_at.saturating_sub(monotonic);
        by_plan.max(by_retry).clamp(Duration::from_millis(10), TICK)
    }

    async fn attempt(&self, failures: u32) -> Result<Renewal, IssueError> {
        let shared = &self.shared;
        // Never closed, so the error cannot happen; without a place there is simply no limit.
        let _place = shared.places.acquire().await;
        let began = shared.clock.monotonic();
        shared.observer.asked(&self.id);
        let key = Key::generate()?;
        let request = Request {
            id: self.id.clone(),
            pod_uid: (self.pod)(failures)?,
            csr: key.request(Some(&self.id))?,
            validity: shared.validity,
        };
        let chain = shared.issuer.issue(request).await?;
        let credentials = answer::accept(chain, &self.id, &key, &shared.trust, shared.clock.wall())?;
        let renewal = self.plan(credentials.not_before(), credentials.not_after());
        (self.on_issued)(&key, &credentials);
        self.publish(credentials, shared.clock.monotonic().saturating_sub(began))?;
        Ok(renewal)
    }

    fn publish(&self, credentials: Credentials, took: Duration) -> Result<(), IssueError> {
        let status = status_of(&credentials);
        self.slot.publish(credentials)?;
        let renewed = self.status.borrow().generation > 0;
        self.status.send_replace(status);
        self.shared.changes.send_modify(|n| *n += 1);
        self.shared.observer.issued(&self.id, took, renewed);
        tracing::info!(identity = %self.id, renewed, "SVID published");
        Ok(())
    }

    fn failed(&self, plan: &mut Plan, error: &IssueError) {
        plan.failures = plan.failures.saturating_add(1);
        let pause = renewal::backoff(plan.failures, jitter());
        plan.retry_at = self.shared.clock.monotonic() + pause;
        self.shared.observer.failed(&self.id, error.reason());
        self.status.send_modify(|status| {
            status.failures = plan.failures;
            status.last_failure = Some(error.reason());
        });
        let (reason, again) = (error.reason(), pause.as_secs_f32());
        tracing::warn!(identity = %self.id, reason, %error, again_in_s = again, "no SVID");
    }

    fn plan(&self, from: SystemTime, to: SystemTime) -> Renewal {
        Renewal::plan(from, to, self.shared.clock.wall(), self.shared.clock.monotonic(), jitter())
    }
}

pub(crate) fn status_of(credentials: &Credentials) -> Status {
    Status {
        generation: credentials.generation(),
        not_after: Some(credentials.not_after()),
        serial: Some(credentials.svid().serial.clone()),
        failures: 0,
        last_failure: None,
    }
}

fn jitter() -> f64 {
    rand::random_range(-1.0..=1.0)
}
