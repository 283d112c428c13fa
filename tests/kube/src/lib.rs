//! A real etcd and a real kube-apiserver in a sandbox, with the control plane in this process beside them.
//!
//! The programs are those that `cargo xtask cluster up` has built: without them a test fails and says so.

mod agent;
mod control;
mod server;

pub use agent::{Agent, Stream};
pub use control::Control;
pub use culvert_workload::Protocol;
pub use server::{ADDRESS, Server};

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Waits until `look` finds something; `what` is for the failure.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(45);
    loop {
        if let Some(found) = look().await {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within 45 s");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a test's body on a runtime of its own.
pub fn run(body: impl Future<Output = Result<()>>) -> Result<()> {
    let _ = tracing_subscriber::fmt().with_ansi(false).with_env_filter("info,kube_client=off").try_init();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(body)
}
