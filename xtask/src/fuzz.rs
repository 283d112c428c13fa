//! Coverage-guided fuzzing with the pinned compiler: libFuzzer linked in, instrumentation by plain compiler flags.

use std::io::{BufRead as _, BufReader};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::tally::Tally;
use crate::{paths, shell};

/// Instrumentation of everything but build scripts.
const FLAGS: &str = "--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Seconds per target as part of the suite, and with `--long`.
const SHORT: u32 = 60;
const LONG: u32 = 600;

/// Targets with a planted bug begin with this.
const PLANTED: &str = "planted_";

/// What to fuzz, and how long.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Seconds per target.
    #[arg(long, default_value_t = SHORT)]
    seconds: u32,
    /// Only this target.
    target: Option<String>,
}

/// `cargo xtask fuzz`.
pub(crate) fn alone(wanted: &Arguments) -> Result<()> {
    let mut tally = Tally::default();
    every(wanted.seconds, wanted.target.as_deref(), &mut tally)?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 || tally.passed == 0 {
        bail!("fuzzing failed: {}", tally.names.join(", "));
    }
    Ok(())
}

/// As part of the suite.
pub(crate) fn run(long: bool, tally: &mut Tally) -> Result<()> {
    every(if long { LONG } else { SHORT }, None, tally)
}

fn every(seconds: u32, only: Option<&str>, tally: &mut Tally) -> Result<()> {
    let programs = match build() {
        Ok(programs) => programs,
        Err(error) => {
            tally.note("the fuzz targets build", Err(error));
            return Ok(());
        }
    };
    let mut wanted = targets()?;
    wanted.retain(|target| only.is_none_or(|only| only == target.as_str()));
    // libFuzzer has one thread for each target.
    let at_a_time = std::thread::available_parallelism().map_or(1, NonZero::get);
    for some in wanted.chunks(at_a_time) {
        tally.timed(&format!("fuzz {}, {seconds} s each", some.join(", ")), |tally| {
            for (target, outcome) in together(&programs, some, seconds) {
                tally.note(&format!("fuzz {target}"), outcome);
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn together<'a>(programs: &Path, targets: &'a [String], seconds: u32) -> Vec<(&'a str, Result<()>)> {
    let one = |target: &str| fuzz(&programs.join(target), target, seconds).and_then(|found| judge(target, found));
    std::thread::scope(|scope| {
        let running: Vec<_> =
            targets.iter().map(|target| (target.as_str(), scope.spawn(move || one(target)))).collect();
        let panicked = |_| Err(anyhow::anyhow!("the thread that watched it panicked"));
        running.into_iter().map(|(target, thread)| (target, thread.join().unwrap_or_else(panicked))).collect()
    })
}

fn folder() -> PathBuf {
    paths::root().join("tests/fuzz")
}

/// The names of the targets: one file each.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder().join("targets")).context("tests/fuzz/targets is missing")? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn build() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let place = paths::target().join("fuzz/build");
    let mut cargo = shell::cargo();
    cargo.current_dir(folder()).args(["build", "--release", "--quiet", "--bins", "--target", &target]);
    cargo.env("CARGO_TARGET_DIR", &place).env("RUSTFLAGS", FLAGS);
    shell::run(&mut cargo)?;
    Ok(place.join(target).join("release"))
}

/// A target whose bug was planted must be found out; every other must be clean.
fn judge(target: &str, found: Option<String>) -> Result<()> {
    match (target.starts_with(PLANTED), found) {
        (true, Some(_)) => {
            println!("{target}: found, as it must be");
            Ok(())
        }
        (true, None) => bail!("the planted bug was not found: fuzzing is blind"),
        (false, Some(report)) => bail!("{report}"),
        (false, None) => Ok(()),
    }
}

/// Runs one target and returns the report of what it found, if anything. Findings and new corpus entries go under `target/fuzz`; the seeds in the repository are only read.
fn fuzz(program: &Path, target: &str, seconds: u32) -> Result<Option<String>> {
    let found = paths::target().join("fuzz/corpus").join(target);
    if target.starts_with(PLANTED) && found.exists() {
        // Found anew each time, not remembered.
        std::fs::remove_dir_all(&found)?;
    }
    let artifacts = paths::target().join("fuzz/findings").join(target);
    std::fs::create_dir_all(&found)?;
    std::fs::create_dir_all(&artifacts)?;
    let mut command = shell::program(program);
    command.arg(&found);
    let seeds = folder().join("corpus").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.args(["-print_final_stats=1", "-timeout=10", "-rss_limit_mb=4096", "-verbosity=1"]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut last = Progress::default();
    let mut tail = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            last.read(&line);
            tail.push(line);
            if tail.len() > 60 {
                tail.remove(0);
            }
        }
    }
    if !child.wait()?.success() {
        return Ok(Some(format!("{}\nthe input is in {}", tail.join("\n"), artifacts.display())));
    }
    println!("{target}: {} executions, {} edges covered, {} features", last.executions, last.edges, last.features);
    if last.executions == 0 || last.edges == 0 {
        bail!("nothing was executed or covered: the instrumentation is missing");
    }
    Ok(None)
}

/// What libFuzzer says of itself: `#123456 pulse cov: 78 ft: 90 corp: ...`.
#[derive(Default)]
struct Progress {
    executions: u64,
    edges: u64,
    features: u64,
}

impl Progress {
    fn read(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let Some(Ok(executions)) = words.next().and_then(|word| word.strip_prefix('#')).map(str::parse::<u64>) else {
            return;
        };
        self.executions = executions;
        while let Some(word) = words.next() {
            let field = match word {
                "cov:" => &mut self.edges,
                "ft:" => &mut self.features,
                _ => continue,
            };
            *field = words.next().and_then(|number| number.parse().ok()).unwrap_or(*field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_bug_must_be_found_and_no_other_may_be() {
        assert!(judge("planted_bug", Some("crash".to_owned())).is_ok());
        assert!(judge("planted_bug", None).is_err());
        assert!(judge("spiffe_id", Some("crash".to_owned())).is_err());
        assert!(judge("spiffe_id", None).is_ok());
    }

    #[test]
    fn executions_and_coverage_are_read_from_libfuzzers_own_words() {
        let mut progress = Progress::default();
        progress.read("INFO: Seed: 1");
        progress.read("#2097152\tpulse  cov: 512 ft: 1033 corp: 220/9kb lim: 4096 exec/s: 699050 rss: 500Mb");
        progress.read("#2100000\tDONE   cov: 513 ft: 1034 corp: 220/9kb lim: 4096 exec/s: 699050 rss: 500Mb");
        assert_eq!((progress.executions, progress.edges, progress.features), (2_100_000, 513, 1034));
    }
}
