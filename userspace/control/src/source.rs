//! The directory of manifests: read whole, watched, read again 200 ms after the last change.

mod directory;
pub mod kube;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use culvert_manifests::Catalog;
use tokio::{sync::mpsc, time};

use crate::index::{Change, Reading};

pub use directory::{DirectoryError, read_files};
use watch::Watch;

/// Changes are taken once nothing has changed for so long.
pub const QUIET: Duration = Duration::from_millis(200);
/// But no later than this after the first change, however busy the directory is.
const PATIENCE: Duration = Duration::from_secs(2);
/// Without any sign of change the directory is read this often, for file systems that give no signs.
const ANYWAY: Duration = Duration::from_secs(30);
/// How often a directory that cannot be watched is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The directory, and what was last understood of it.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    catalog: Catalog,
}

impl Source {
    /// A directory whose last good state is `catalog`.
    pub fn new(path: &Path, catalog: Catalog) -> Self {
        Self { path: path.to_owned(), catalog }
    }

    /// Reads the directory now.
    pub fn read(&mut self) -> Result<Reading, DirectoryError> {
        let files = read_files(&self.path)?;
        let (catalog, complaints) = Catalog::read(&files, &self.catalog);
        if catalog.is_empty() {
            return Err(DirectoryError::Empty(self.path.clone()));
        }
        self.catalog = catalog.clone();
        Ok(Reading::Catalog(catalog, complaints))
    }

    /// Watches the directory and sends what it reads, until nobody listens.
    pub async fn run(mut self, changes: mpsc::Sender<Change>) {
        let mut watch = None;
        loop {
            watch = match watch.take() {
                Some(watch) => wait(watch).await,
                None => Watch::new(&self.path).ok(),
            };
            if changes.send(Change::Directory(self.read_anyhow())).await.is_err() {
                return;
            }
            if watch.is_none() {
                time::sleep(RETRY).await;
            }
        }
    }

    fn read_anyhow(&mut self) -> Reading {
        self.read().unwrap_or_else(|error| {
            tracing::error!(reason = error.reason(), %error, "the directory is not taken: the last good state stays");
            Reading::Unusable(error.to_string())
        })
    }
}

/// Waits for a change and for quiet after it. `None`: the watch is of no use any more.
async fn wait(mut watch: Watch) -> Option<Watch> {
    match time::timeout(ANYWAY, watch.changed()).await {
        Ok(true) => {}
        Ok(false) => return None,
        Err(_) => return Some(watch),
    }
    let patience = time::sleep(PATIENCE);
    tokio::pin!(patience);
    loop {
        tokio::select! {
            () = &mut patience => return Some(watch),
            quiet = time::timeout(QUIET, watch.changed()) => match quiet {
                Ok(true) => {}
                Ok(false) => return None,
                Err(_) => return Some(watch),
            },
        }
    }
}

#[cfg(test)]
mod tests;
