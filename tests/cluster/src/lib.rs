//! A handle on the cluster that `cargo xtask cluster test` made: its API by kubectl, its machines, pods to play with, and
//! what agents say of connections.
//!
//! All tests share one cluster and one installation of culvert; each makes namespaces of its own and puts back what it stopped.

mod agents;
mod cluster;
mod pods;

pub use agents::{Agent, Record};
pub use cluster::Cluster;
pub use pods::{App, Greeting, Namespace};

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Tries again until `attempt` gives something, for at most `limit`; the last error otherwise.
pub fn within<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() > limit => {
                return Err(error).with_context(|| format!("{what}: not within {limit:?}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
