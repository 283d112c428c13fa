//! `cargo xtask test --mutants`: does the suite notice when a mechanism is removed?
//!
//! Each file of `tests/mutants/*.patch` takes one mechanism out. Its first lines say which and who must notice:
//!
//! ```text
//! Removes: the guard's drop of untagged payload
//! Caught-by: -p culvert-netns-tests t7_
//! ```
//!
//! The words after `Caught-by:` go to `cargo test`. They must pass on the tree as it is and fail, with a failed test and
//! not with a compiler error, once the patch is applied to a copy.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use crate::tally::Tally;
use crate::{paths, shell};

/// Runs every patch whose file name contains one of `filters` (all without a filter).
pub(crate) fn run(filters: &[String], tally: &mut Tally) -> Result<()> {
    let patches = patches(filters)?;
    let copy = Copy::make()?;
    for patch in &patches {
        let name = patch.file_name().unwrap_or_default().to_string_lossy().into_owned();
        println!("\n=== mutant {name}");
        tally.note(&name, judge(&copy, patch));
    }
    Ok(())
}

fn patches(filters: &[String]) -> Result<Vec<PathBuf>> {
    let folder = paths::root().join("tests/mutants");
    let mut patches = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("{} is missing", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
        if name.ends_with(".patch") && wanted {
            patches.push(path);
        }
    }
    patches.sort();
    ensure!(!patches.is_empty(), "no patch in {} fits", folder.display());
    Ok(patches)
}

/// The header's value.
fn header<'a>(patch: &'a str, key: &str) -> Result<&'a str> {
    let value = patch
        .lines()
        .take_while(|line| !line.starts_with("--- ") && !line.starts_with("diff "))
        .find_map(|line| line.strip_prefix(key).and_then(|rest| rest.strip_prefix(':')))
        .with_context(|| format!("the patch has no line `{key}: ...` before its first hunk"))?;
    Ok(value.trim())
}

fn judge(copy: &Copy, patch: &Path) -> Result<()> {
    let text = std::fs::read_to_string(patch)?;
    println!("removes {}", header(&text, "Removes")?);
    let words: Vec<&str> = header(&text, "Caught-by")?.split_whitespace().collect();
    copy.restore()?;
    let before = copy.test(&words)?;
    ensure!(
        before.failed == 0 && before.passed > 0,
        "before the patch {} passed and {} failed: it proves nothing",
        before.passed,
        before.failed
    );
    copy.apply(patch)?;
    let after = copy.test(&words);
    copy.restore()?;
    let after = after?;
    let named = after.names.iter().filter(|name| !name.ends_with("(it did not run to its end)")).count();
    ensure!(named > 0, "nobody noticed: {} passed, {} failed", after.passed, after.failed);
    println!("caught by {}", after.names.join(", "));
    Ok(())
}

/// A copy of the tree's tracked and new files, built in a target folder of its own.
struct Copy {
    place: PathBuf,
}

impl Copy {
    fn make() -> Result<Copy> {
        let place = paths::target().join("mutants/tree");
        std::fs::create_dir_all(&place)?;
        // The tools are the same; nothing is installed a second time.
        let tools = place.join("target/tools");
        if !tools.exists() {
            std::fs::create_dir_all(place.join("target"))?;
            std::os::unix::fs::symlink(paths::target().join("tools"), tools)?;
        }
        let copy = Copy { place };
        copy.restore()?;
        Ok(copy)
    }

    /// Makes the copy equal to the tree again. Times are kept, so that only what differs is built again.
    fn restore(&self) -> Result<()> {
        let listed = shell::output(shell::program("git").args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "--deduplicate",
        ]))?;
        let mut wanted = std::collections::HashSet::new();
        for file in listed.lines() {
            let (from, to) = (paths::root().join(file), self.place.join(file));
            if !from.is_file() {
                continue;
            }
            let bytes = std::fs::read(&from)?;
            if std::fs::read(&to).ok().as_deref() != Some(bytes.as_slice()) {
                to.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                std::fs::write(&to, bytes)?;
            }
            wanted.insert(to);
        }
        remove_others(&self.place, &wanted)
    }

    fn apply(&self, patch: &Path) -> Result<()> {
        let mut command = shell::program("patch");
        command.current_dir(&self.place).args(["--strip=1", "--batch", "--forward", "--fuzz=0", "--input"]).arg(patch);
        shell::output(&mut command).map(drop).context("the patch does not fit the tree any more")
    }

    fn test(&self, words: &[&str]) -> Result<Tally> {
        let programs = paths::target().join("mutants/build");
        let mut xtask = shell::cargo();
        xtask.args(["run", "--quiet", "--package", "xtask", "--", "--yes", "build-ebpf"]);
        shell::output(xtask.current_dir(&self.place).env("CARGO_TARGET_DIR", &programs))
            .context("the BPF programs of the copy do not build")?;
        let mut cargo = shell::cargo();
        cargo.current_dir(&self.place).arg("test").args(words).stdin(Stdio::null());
        cargo.env("CARGO_TARGET_DIR", &programs);
        let mut tally = Tally::default();
        tally.run("copy", &mut cargo)?;
        Ok(tally)
    }
}

fn remove_others(folder: &Path, wanted: &std::collections::HashSet<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                remove_others(&path, wanted)?;
            }
        } else if !wanted.contains(&path) {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_says_what_it_removes_and_who_must_notice() {
        let patch = "Removes: a check\nCaught-by: -p culvert-policy deny_\n\n--- a/x\n+++ b/x\n Caught-by: no\n";
        assert_eq!(header(patch, "Caught-by").unwrap(), "-p culvert-policy deny_");
        assert!(header(patch, "Reason").is_err());
        assert!(header("--- a/x\nRemoves: too late\n", "Removes").is_err());
    }
}
