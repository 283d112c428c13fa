//! The control plane in a cluster: everything that `--source kube` adds, put together.

use std::future::Future;

use crate::{cli::Run, index::Kept, state_dir::StateDir};

/// Serves until `stop` is done.
pub async fn serve(_args: Run, _state: StateDir, _kept: Kept, _stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
