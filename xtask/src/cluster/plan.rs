//! What a supervisor runs: written by `up`, read inside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// A program that is kept running.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Component {
    pub(crate) name: String,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) log: PathBuf,
}

/// All that one supervisor runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Folders of this machine that are the same inside.
    pub(crate) shared: Vec<PathBuf>,
    /// Files that are written before anything starts.
    pub(crate) files: BTreeMap<PathBuf, String>,
    /// Programs that are copied before anything starts: from, to.
    pub(crate) copies: Vec<(PathBuf, PathBuf)>,
    /// In the order in which they are started; none waits for another, each is started again when it ends.
    pub(crate) components: Vec<Component>,
}

impl Plan {
    pub(crate) fn read(path: &Path) -> Result<Plan> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no plan", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Puts files and programs where the components look for them.
    pub(crate) fn lay_out(&self) -> Result<()> {
        for (path, content) in &self.files {
            std::fs::create_dir_all(path.parent().context("a parent")?)?;
            std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
        }
        for (from, to) in &self.copies {
            std::fs::create_dir_all(to.parent().context("a parent")?)?;
            std::fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        Ok(())
    }
}
