//! The API server as a source: one watch per kind, one catalog.

mod gather;
mod kinds;
mod record;
mod watch;

use std::{sync::Arc, time::Duration};

use culvert_manifests::Live;
use tokio::{
    sync::{mpsc, watch as latest},
    time::{self, Instant},
};

use crate::{
    api::Api,
    index::{Change, Reading},
};

use gather::{Gather, Heard};
use kinds::{WATCHED, Watched};
pub use record::{Record, Records};

/// Changes are taken once nothing has changed for so long.
pub const QUIET: Duration = Duration::from_millis(100);
/// But no later than this after the first change: in a large cluster it is never quiet.
const PATIENCE: Duration = Duration::from_millis(250);
/// How often it is said what the start waits for.
const REMINDER: Duration = Duration::from_secs(10);

/// The watches, and what they have said.
#[derive(Debug)]
pub struct KubeSource {
    heard: mpsc::Receiver<(Watched, Heard)>,
    gather: Gather,
    records: latest::Sender<Arc<Records>>,
}

impl KubeSource {
    /// Begins to watch. Must be called inside a tokio runtime; the watches end when this is dropped.
    pub fn start(api: &Api, live: Live) -> Self {
        let (sender, heard) = mpsc::channel(1024);
        for watched in WATCHED {
            tokio::spawn(watch::watch(api.clone(), watched, sender.clone()));
        }
        Self { heard, gather: Gather::new(live), records: latest::Sender::new(Arc::default()) }
    }

    /// What is known of policy objects, for their status.
    pub fn records(&self) -> latest::Receiver<Arc<Records>> {
        self.records.subscribe()
    }

    /// Waits until every kind has been listed once: before that nobody can tell who is missing.
    pub async fn first_reading(&mut self) -> Reading {
        let mut reminder = time::interval_at(Instant::now() + REMINDER, REMINDER);
        while !self.gather.is_complete() {
            tokio::select! {
                heard = self.heard.recv() => if let Some((watched, heard)) = heard {
                    if let Heard::Failing(why) = &heard {
                        tracing::warn!(why, "the API server does not show everything yet");
                    }
                    self.gather.hear(watched, heard);
                },
                _ = reminder.tick() => {
                    tracing::warn!(waiting = self.gather.waiting_for(), "waiting for the API server");
                }
            }
        }
        self.publish_records();
        let (catalog, complaints) = self.gather.catalog();
        Reading::Catalog(catalog, complaints)
    }

    /// Sends what changes, until nobody listens.
    pub async fn run(mut self, changes: mpsc::Sender<Change>) {
        while let Some(was_failing) = self.changed().await {
            self.publish_records();
            let (objects, complaints) = self.gather.changes();
            let mut news = vec![Change::Objects { objects, complaints }];
            if let Some(why) = self.gather.failing() {
                if !was_failing {
                    tracing::error!(why, "the API server is not heard: the last state stays");
                }
                news.push(Change::Directory(Reading::Unusable(why)));
            } else if was_failing {
                tracing::info!("the API server is heard again");
            }
            for change in news {
                if changes.send(change).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Waits for a change and for quiet after it. Answers whether a watch was failing before.
    async fn changed(&mut self) -> Option<bool> {
        let was_failing = self.gather.failing().is_some();
        loop {
            let (watched, heard) = self.heard.recv().await?;
            if self.gather.hear(watched, heard) {
                break;
            }
        }
        let patience = Instant::now() + PATIENCE;
        loop {
            let quiet = (Instant::now() + QUIET).min(patience);
            match time::timeout_at(quiet, self.heard.recv()).await {
                Ok(Some((watched, heard))) => {
                    self.gather.hear(watched, heard);
                }
                Ok(None) => return None,
                Err(_) => return Some(was_failing),
            }
        }
    }

    fn publish_records(&self) {
        self.records.send_if_modified(|records| {
            let changed = **records != *self.gather.records();
            if changed {
                *records = Arc::new(self.gather.records().clone());
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests;
