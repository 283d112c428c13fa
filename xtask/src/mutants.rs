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
//! not with a compiler error, once the patch is applied to a copy. Each distinct command is tried once on the copy as it
//! is, all of them before the first patch; after that each mutant costs one build of what it changes.
//!
//! A whole run takes hours. What was caught is kept with a digest of the tree, and a run on the same tree goes on where the
//! one before was ended.

use std::cell::Cell;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::tally::{Tally, UNFINISHED};
use crate::{demo, paths, shell};

/// Longest run of one command. A mutant that makes a test hang was not noticed by that test.
const PATIENCE: Duration = Duration::from_secs(600);

/// Nobody steps through a mutant: line tables would only cost time at each link.
const NO_LINES: (&str, &str) = ("CARGO_PROFILE_DEV_DEBUG", "0");

/// Runs every patch whose file name contains one of `filters` (all without a filter).
pub(crate) fn run(filters: &[String], tally: &mut Tally) -> Result<()> {
    let patches = patches(filters)?;
    let copy = Copy::make()?;
    let mut caught = Caught::of(&copy)?;
    let (before, left): (Vec<_>, Vec<_>) = patches.into_iter().partition(|patch| caught.has(patch));
    for patch in &before {
        println!("=== mutant {}: caught before, on this same tree", patch.name);
        tally.note(&patch.name, Ok(()));
    }
    let commands: BTreeSet<_> = left.iter().map(|patch| patch.command.as_str()).collect();
    let mut unchanged = HashMap::new();
    for command in commands {
        unchanged.insert(command.to_owned(), copy.test(command, Tally::run)?);
    }
    for (number, patch) in left.iter().enumerate() {
        println!("\n=== mutant {} of {}: {}", number + 1, left.len(), patch.name);
        let outcome = judge(&copy, patch, &unchanged).and_then(|()| caught.keep(patch));
        tally.note(&patch.name, outcome);
    }
    Ok(())
}

/// One file of `tests/mutants`.
struct Patch {
    path: PathBuf,
    name: String,
    text: String,
    /// What it takes out.
    removes: String,
    /// The words for `cargo test`.
    command: String,
}

impl Patch {
    fn read(path: PathBuf) -> Result<Patch> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path)?;
        let header = |key| header(&text, key).with_context(|| name.clone()).map(str::to_owned);
        let (removes, command) = (header("Removes")?, header("Caught-by")?);
        Ok(Patch { path, name, text, removes, command })
    }
}

fn patches(filters: &[String]) -> Result<Vec<Patch>> {
    let folder = paths::root().join("tests/mutants");
    let mut patches = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("{} is missing", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
        if name.ends_with(".patch") && wanted {
            patches.push(Patch::read(path)?);
        }
    }
    patches.sort_by(|one, other| one.name.cmp(&other.name));
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

/// `unchanged` holds, by command, what the copy says without any patch.
fn judge(copy: &Copy, patch: &Patch, unchanged: &HashMap<String, Tally>) -> Result<()> {
    println!("removes {}", patch.removes);
    let before = unchanged.get(&patch.command).context("its command was not tried without the patch")?;
    ensure!(
        before.failed == 0 && before.passed > 0,
        "before the patch {} passed and {} failed: it proves nothing",
        before.passed,
        before.failed
    );
    let saved = copy.save(&patch.text)?;
    let after = copy.apply(patch).and_then(|()| copy.test(&patch.command, Tally::run_until_failure));
    copy.put_back(&saved)?;
    let after = after?;
    let named: Vec<_> = after.names.iter().filter(|name| !name.ends_with(UNFINISHED)).map(String::as_str).collect();
    ensure!(
        !named.is_empty(),
        "nobody noticed: {} passed{}",
        after.passed,
        if after.failed > 0 { ", and it does not build, or not come to its end" } else { "" }
    );
    println!("caught by {}", named.join(", "));
    Ok(())
}

/// What was caught already on the tree as it is.
struct Caught {
    file: PathBuf,
    tree: u64,
    known: HashSet<(String, u64)>,
}

impl Caught {
    fn of(copy: &Copy) -> Result<Caught> {
        let (file, tree) = (paths::target().join("mutants/caught"), copy.digest()?);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let of = u64::from_str_radix(words.next()?, 16).ok()?;
            let patch = u64::from_str_radix(words.next()?, 16).ok()?;
            (of == tree).then_some((words.next()?.to_owned(), patch))
        };
        let known = text.lines().filter_map(line).collect();
        Ok(Caught { file, tree, known })
    }

    fn has(&self, patch: &Patch) -> bool {
        self.known.contains(&(patch.name.clone(), digest(patch.text.as_bytes())))
    }

    fn keep(&mut self, patch: &Patch) -> Result<()> {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&self.file)?;
        writeln!(file, "{:016x} {:016x} {}", self.tree, digest(patch.text.as_bytes()), patch.name)?;
        Ok(())
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// The files that a patch changes.
fn changed(patch: &str) -> impl Iterator<Item = &str> {
    patch.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(|file| file.split('\t').next().unwrap_or(file))
}

/// A copy of the tree's tracked and new files, built in a target folder of its own.
struct Copy {
    place: PathBuf,
    /// What belongs to it, by name.
    files: BTreeSet<PathBuf>,
    /// Sources of the BPF programs have changed since these were built.
    stale: Cell<bool>,
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
        let mut copy = Copy { place, files: BTreeSet::new(), stale: Cell::new(true) };
        copy.take()?;
        Ok(copy)
    }

    /// Tells this tree from every other. The patches themselves and what is written for people does not count.
    fn digest(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        for file in &self.files {
            let name = file.strip_prefix(&self.place)?;
            if name.starts_with("tests/mutants") || name.extension().is_some_and(|extension| extension == "md") {
                continue;
            }
            (name, std::fs::read(file)?).hash(&mut hasher);
        }
        Ok(hasher.finish())
    }

    /// Makes the copy equal to the tree. What is equal already is left alone, so that only what differs is built again.
    fn take(&mut self) -> Result<()> {
        let listed = shell::output(shell::program("git").args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "--deduplicate",
        ]))?;
        self.files.clear();
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
            self.files.insert(to);
        }
        remove_others(&self.place, &self.files)
    }

    /// What a patch is going to change, as it is now.
    fn save(&self, patch: &str) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let read = |file| {
            let path = self.place.join(file);
            let bytes = std::fs::read(&path).with_context(|| format!("the tree has no {file} any more"))?;
            Ok((path, bytes))
        };
        changed(patch).map(read).collect()
    }

    fn put_back(&self, saved: &[(PathBuf, Vec<u8>)]) -> Result<()> {
        for (path, bytes) in saved {
            // Only what differs: a new time would mean another build.
            if std::fs::read(path)? != *bytes {
                std::fs::write(path, bytes)?;
                self.stale.set(self.stale.get() || self.is_of_programs(path));
            }
        }
        Ok(())
    }

    fn apply(&self, patch: &Patch) -> Result<()> {
        let mut command = shell::program("patch");
        command.current_dir(&self.place).args(["--strip=1", "--batch", "--forward", "--fuzz=0"]);
        command.args(["--no-backup-if-mismatch", "--reject-file=-", "--input"]).arg(&patch.path);
        shell::output(&mut command).context("the patch does not fit the tree any more")?;
        let touched = changed(&patch.text).any(|file| self.is_of_programs(&self.place.join(file)));
        self.stale.set(self.stale.get() || touched);
        Ok(())
    }

    fn is_of_programs(&self, path: &Path) -> bool {
        path.starts_with(self.place.join("ebpf"))
    }

    /// Builds the BPF programs, which other crates embed, if that is needed.
    fn build_programs(&self) -> Result<()> {
        if self.stale.get() {
            let mut xtask = shell::cargo();
            xtask.args(["run", "--quiet", "--package", "xtask", "--", "--yes", "build-ebpf"]);
            xtask.current_dir(&self.place).env("CARGO_TARGET_DIR", build_folder());
            shell::output(&mut xtask).context("the BPF programs of the copy do not build")?;
            self.stale.set(false);
        }
        Ok(())
    }

    fn test(&self, words: &str, run: fn(&mut Tally, &str, &mut Command) -> Result<()>) -> Result<Tally> {
        self.build_programs()?;
        if words.contains("culvert-e2e") {
            // End-to-end tests run programs: the mutant's own, or they would try something else.
            let mut build = demo::build(false);
            shell::run(
                build.current_dir(&self.place).env("CARGO_TARGET_DIR", build_folder()).env(NO_LINES.0, NO_LINES.1),
            )?;
        }
        let mut cargo = shell::program("timeout");
        cargo.args(["--kill-after=10", &PATIENCE.as_secs().to_string(), "cargo", "test"]);
        cargo.args(words.split_whitespace()).current_dir(&self.place).env("CARGO_TARGET_DIR", build_folder());
        cargo.env("CULVERT_BIN_DIR", build_folder().join("debug")).env(NO_LINES.0, NO_LINES.1);
        let mut tally = Tally::default();
        run(&mut tally, "copy", &mut cargo)?;
        Ok(tally)
    }
}

fn build_folder() -> PathBuf {
    paths::target().join("mutants/build")
}

fn remove_others(folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                remove_others(&path, wanted)?;
                // Only an empty one goes: cargo takes a folder without a manifest for a broken crate.
                let _ = std::fs::remove_dir(&path);
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
        assert_eq!(changed(patch).collect::<Vec<_>>(), ["x"]);
    }
}
