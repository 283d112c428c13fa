//! What is wrong with objects only beside others, found out beside the queue: it takes a look at all of them, and says
//! nothing that agents wait for.

use std::{sync::Arc, time::Duration};

use culvert_manifests::{Assembly, Catalog, Complaint, MeshOverrides, assemble};
use tokio::{
    task::JoinHandle,
    time::{self, Instant},
};

use super::{Reported, in_force};

/// Pause before a review, at least: changes that come together are looked at together.
const TOGETHER: Duration = Duration::from_millis(200);
/// A review may take this part of one processor.
const PART: u32 = 20;

/// What a review looks at.
type Matter = (Arc<Catalog>, MeshOverrides, Reported);

/// Reviews, one at a time.
#[derive(Debug, Default)]
pub(super) struct Review {
    wanted: bool,
    /// How long the last one took.
    took: Duration,
    /// Not before this.
    due: Option<Instant>,
    running: Option<JoinHandle<(Vec<Complaint>, Duration)>>,
}

impl Review {
    /// Something has changed that was not looked at beside everything else.
    pub(super) fn wanted(&mut self) {
        self.wanted = true;
        self.due.get_or_insert_with(|| Instant::now() + TOGETHER.max(self.took * PART));
    }

    /// Everything has just been looked at.
    pub(super) fn done(&mut self, took: Duration) {
        *self = Self { took, ..Self::default() };
    }

    /// Begins one where it is due.
    pub(super) fn look(&mut self, matter: impl FnOnce() -> Matter) {
        if !self.wanted || self.running.is_some() || self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        (self.wanted, self.due) = (false, None);
        let (catalog, overrides, reported) = matter();
        self.running = Some(tokio::task::spawn_blocking(move || {
            let begun = std::time::Instant::now();
            let Assembly { complaints, .. } = assemble(&catalog, &overrides, &in_force(&catalog, &reported));
            (complaints, begun.elapsed())
        }));
    }

    /// Waits for the next one's complaints, or for the moment in which one is due. Can be dropped at any time.
    pub(super) async fn next(&mut self) -> Option<Vec<Complaint>> {
        match (&mut self.running, self.due) {
            (Some(running), _) => {
                let ended = running.await;
                self.running = None;
                let (complaints, took) = ended.ok()?;
                self.took = took;
                self.due = self.wanted.then(|| Instant::now() + TOGETHER.max(took * PART));
                Some(complaints)
            }
            (None, Some(due)) => {
                time::sleep_until(due).await;
                None
            }
            (None, None) => std::future::pending().await,
        }
    }
}
