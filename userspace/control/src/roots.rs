//! One root follows another, in a state folder of our own: the new one is announced, then signs, then the old one goes.
//!
//! ```text
//! announced   root.pem: old, new    signed by the old one    until `hold` has passed and agents have taken the new one
//! in use      root.pem: new, old    signed by the new one    until `retire` has passed: leaves under the old one end
//! done        root.pem: new
//! ```
//!
//! `root-rotation.json` says how far it is; each step can be done again, so that a restart goes on where it was.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_identity::TrustDomain;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time,
};

use crate::{
    ca::{Authority, CaError, MAX_LEAF_LIFE, Roots, new_root},
    index::{Change, Published},
    server::NodeBook,
    state_dir::{StateDir, StateError},
};

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long the old root stays once the new one signs: every leaf under it has ended by then.
pub const RETIRE: Duration = Duration::from_secs(MAX_LEAF_LIFE.as_secs() + 3600);

const PLAN: &str = "root-rotation.json";
const NEXT_KEY: &str = "next-root.key";
const NEXT_PEM: &str = "next-root.pem";
const ROOT_KEY: &str = "root.key";
const ROOT_PEM: &str = "root.pem";

/// How far a rotation is. Times in seconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    announced: u64,
    hold: u64,
    retire: u64,
    in_use: Option<u64>,
}

/// Why a root cannot follow another.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// There is one already.
    #[error("a rotation is under way: the next one can begin when the old root has gone")]
    UnderWay,
    /// The folder has no root yet.
    #[error("the state folder has no root yet: start the control plane once")]
    NoRoot,
    /// The plan cannot be read.
    #[error("root-rotation.json cannot be read: {0}")]
    Plan(String),
    /// The folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The keys.
    #[error(transparent)]
    Ca(#[from] CaError),
}

impl RotationError {
    /// The stable word for logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnderWay => "rotation_under_way",
            Self::NoRoot => "no_root",
            Self::Plan(_) => "rotation_plan_unreadable",
            Self::State(error) => error.reason(),
            Self::Ca(error) => error.reason(),
        }
    }
}

/// Makes the next root. Whoever serves this folder announces it, uses it after `hold`, and lets the old one go after
/// `retire` more.
pub fn begin(state: &StateDir, hold: Duration, retire: Duration, now: SystemTime) -> Result<(), RotationError> {
    if read(state)?.is_some() {
        return Err(RotationError::UnderWay);
    }
    let domain: TrustDomain = Authority::trust_domain_of(state)?.ok_or(RotationError::NoRoot)?;
    let (key, pem) = new_root(&domain, now)?;
    state.write(NEXT_KEY, key.as_bytes())?;
    state.write(NEXT_PEM, pem.as_bytes())?;
    let plan = Plan { announced: seconds(now), hold: hold.as_secs(), retire: retire.as_secs(), in_use: None };
    write(state, &plan)
}

/// Takes each step of a rotation when it is time.
#[derive(Debug)]
pub struct RootKeeper {
    /// The folder.
    pub state: StateDir,
    /// What signs.
    pub authority: Arc<Authority>,
    /// Tells agents of roots.
    pub changes: mpsc::Sender<Change>,
    /// What agents have been told.
    pub published: watch::Receiver<Published>,
    /// What agents have taken.
    pub nodes: Arc<NodeBook>,
}

impl RootKeeper {
    /// Looks for ever.
    pub async fn run(mut self) {
        let mut told = None;
        loop {
            if let Err(error) = self.look(&mut told, SystemTime::now()).await {
                tracing::error!(reason = error.reason(), %error, "the rotation of the root does not go on");
            }
            time::sleep(LOOK).await;
        }
    }

    /// `told` is the generation that has the next root.
    async fn look(&mut self, told: &mut Option<u64>, now: SystemTime) -> Result<(), RotationError> {
        let Some(plan) = read(&self.state)? else {
            return Ok(());
        };
        match plan.in_use {
            None => {
                let next = Roots::of_pem(&text(&self.state, NEXT_PEM)?)?;
                let roots = self.authority.roots().with(&next);
                if self.show(&roots).await? {
                    tracing::info!("the next root is announced");
                }
                let told = *told.get_or_insert_with(|| self.published.borrow().snapshot.generation);
                if seconds(now) >= plan.announced + plan.hold && self.taken(told) {
                    self.use_next(&next, plan, now).await?;
                }
            }
            Some(since) if seconds(now) >= since + plan.retire => {
                let roots = Roots::of_ders(self.authority.roots().ders.into_iter().take(1).collect());
                self.show(&roots).await?;
                self.state.remove(PLAN)?;
                *told = None;
                tracing::info!("the old root has gone");
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// The next root signs from now on; the old ones stay known.
    async fn use_next(&mut self, next: &Roots, plan: Plan, now: SystemTime) -> Result<(), RotationError> {
        let roots = next.with(&self.authority.roots());
        self.state.write(ROOT_KEY, text(&self.state, NEXT_KEY)?.as_bytes())?;
        self.show(&roots).await?;
        self.authority.renew_issuing(now)?;
        write(&self.state, &Plan { in_use: Some(seconds(now)), ..plan })?;
        self.state.remove(NEXT_KEY)?;
        self.state.remove(NEXT_PEM)?;
        tracing::info!("the next root signs from now on");
        Ok(())
    }

    /// Writes the roots down and tells agents of them, where they are others than before.
    async fn show(&mut self, roots: &Roots) -> Result<bool, RotationError> {
        if *roots == self.authority.roots() {
            return Ok(false);
        }
        self.state.write(ROOT_PEM, roots.pem.as_bytes())?;
        self.authority.set_roots(roots);
        self.published.mark_unchanged();
        if self.changes.send(Change::Roots(roots.ders.clone())).await.is_ok() {
            // Published at once; a little patience for a busy index.
            let _ = time::timeout(Duration::from_secs(2), self.published.changed()).await;
        }
        Ok(true)
    }

    /// Have all agents with a stream taken this generation.
    fn taken(&self, generation: u64) -> bool {
        self.nodes.all().values().all(|node| node.streams == 0 || node.answered_generation >= generation)
    }
}

fn read(state: &StateDir) -> Result<Option<Plan>, RotationError> {
    match state.read(PLAN) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| RotationError::Plan(error.to_string())),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn write(state: &StateDir, plan: &Plan) -> Result<(), RotationError> {
    let bytes = serde_json::to_vec(plan).map_err(|error| RotationError::Plan(error.to_string()))?;
    Ok(state.write(PLAN, &bytes)?)
}

fn text(state: &StateDir, name: &'static str) -> Result<zeroize::Zeroizing<String>, RotationError> {
    let text = String::from_utf8(state.read(name)?);
    let text = text.map_err(|_| CaError::Broken { file: name, why: "not text".to_owned() })?;
    Ok(zeroize::Zeroizing::new(text))
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
