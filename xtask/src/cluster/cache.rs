//! Where built and downloaded parts are kept: per user, keyed by version, so that a second run takes no time.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Written last into a finished part: what it was made from.
const RECIPE: &str = "recipe.txt";

/// `$XDG_CACHE_HOME/culvert/cluster`, else `~/.cache/culvert/cluster`.
pub(crate) fn folder() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    match base {
        Some(base) if base.is_absolute() => Ok(base.join("culvert/cluster")),
        _ => bail!("neither XDG_CACHE_HOME nor HOME names an absolute folder: set one, built parts are kept there"),
    }
}

/// A part in the cache.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    /// Its folder's name: what it is, its version and the machine's architecture.
    pub(crate) name: &'a str,
    /// What it is made from. Another recipe is another part.
    pub(crate) recipe: &'a str,
}

impl Part<'_> {
    /// Its folder, when it is there and finished.
    pub(crate) fn ready(&self) -> Result<Option<PathBuf>> {
        let folder = folder()?.join(self.name);
        let made_from = std::fs::read_to_string(folder.join(RECIPE)).unwrap_or_default();
        Ok((made_from == self.recipe).then_some(folder))
    }

    /// Makes it in a folder beside and puts it in place when it is whole: a run that breaks off leaves no half part.
    pub(crate) fn make(&self, work: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let all = folder()?;
        let unfinished = all.join(format!("{}.unfinished", self.name));
        remove(&unfinished)?;
        std::fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
        work(&unfinished)?;
        std::fs::write(unfinished.join(RECIPE), self.recipe)?;
        let place = all.join(self.name);
        remove(&place)?;
        std::fs::rename(&unfinished, &place)?;
        Ok(place)
    }
}

/// Removes a folder that may not be there.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
