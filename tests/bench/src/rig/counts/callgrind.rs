//! A program under callgrind, from outside.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// Where its files go.
const FOLDER: &str = "/run/lab";

/// Longest wait for a program that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// One program that runs under callgrind.
#[derive(Debug)]
pub(crate) struct Callgrind {
    pid: i32,
}

impl Callgrind {
    /// What stands before a program so that its instructions can be counted. Until that begins it costs little.
    pub(crate) fn prefix() -> Vec<String> {
        let words = format!(
            "valgrind --tool=callgrind --quiet --instr-atstart=no --cache-sim=no --separate-threads=yes --vgdb-poll=200 \
             --vgdb-prefix={FOLDER}/vgdb --callgrind-out-file={FOLDER}/callgrind.%p"
        );
        words.split_whitespace().map(str::to_owned).collect()
    }

    /// That process, which was started with [`Callgrind::prefix`].
    pub(crate) fn of(pid: i32) -> Callgrind {
        Callgrind { pid }
    }

    /// Counts from here.
    pub(crate) fn begin(&self) -> Result<()> {
        self.tell("instrumentation on")?;
        self.tell("zero")
    }

    /// Stops counting.
    pub(crate) fn end(&self) -> Result<()> {
        self.tell("instrumentation off")
    }

    /// Gives the instructions since [`Callgrind::begin`] or the last call, of the busiest thread, which is the one that
    /// carries connections. What the others do goes by the clock, and a slow machine's would count for more.
    pub(crate) fn dump(&self) -> Result<u64> {
        let before = self.dumps()?;
        self.tell("dump")?;
        let new: Vec<PathBuf> = self.dumps()?.into_iter().filter(|file| !before.contains(file)).collect();
        ensure!(!new.is_empty(), "callgrind has written nothing");
        let mut threads = Vec::new();
        for file in new {
            threads.push(totals(&std::fs::read_to_string(file)?)?);
        }
        Ok(threads.into_iter().max().unwrap_or_default())
    }

    /// Moves the dumps so far to a folder.
    pub(crate) fn keep(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for file in self.dumps()? {
            std::fs::copy(&file, folder.join(file.file_name().unwrap_or_default()))?;
            std::fs::remove_file(file)?;
        }
        Ok(())
    }

    fn dumps(&self) -> Result<Vec<PathBuf>> {
        let start = format!("callgrind.{}.", self.pid);
        let files = std::fs::read_dir(FOLDER)?.flatten().map(|entry| entry.path());
        let ours = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start));
        Ok(files.filter(ours).collect())
    }

    fn tell(&self, words: &str) -> Result<()> {
        let mut vgdb = Command::new("timeout");
        vgdb.arg(PATIENCE.as_secs().to_string()).arg("vgdb");
        vgdb.arg(format!("--vgdb-prefix={FOLDER}/vgdb")).arg(format!("--pid={}", self.pid)).arg(words);
        let done = vgdb.output().context("vgdb, which comes with valgrind")?;
        let says = String::from_utf8_lossy(&done.stdout);
        if !done.status.success() || says.contains("command not recognised") {
            bail!("callgrind does not answer to `{words}`: {says}{}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }
}

/// The sum at the end of a dump.
fn totals(text: &str) -> Result<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
    line.context("a dump without totals")?.trim().parse().context("a dump's totals")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_ends_with_its_sum() {
        assert_eq!(totals("part: 1\nevents: Ir\nfn=(1)\n3 17\n\ntotals: 850498\n").unwrap(), 850_498);
        assert!(totals("part: 1\nevents: Ir\n").is_err(), "a dump that was cut off");
    }
}
