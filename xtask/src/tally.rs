//! Counting what the test programs say of themselves.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::shell;

/// How the name of what failed without a failed test ends.
pub(crate) const UNFINISHED: &str = "(it did not run to its end)";

/// Sums over all test programs that were run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Left out by `#[ignore]`, which is for the tests of `--long` only.
    pub(crate) left_out: u64,
    /// What failed, by name.
    pub(crate) names: Vec<String>,
    /// Why tests in sandboxes failed, in their own words: those stand far above the end of a long output.
    pub(crate) reasons: Vec<String>,
    /// The parts of the run, and the whole seconds that each took.
    pub(crate) parts: Vec<(String, u64)>,
}

impl Tally {
    /// Takes note of one line of a test program's output.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.names.push(name.to_owned());
        }
        if let Some(reason) = line.strip_prefix("| culvert-lab: ").filter(|said| said.contains(" fails: ")) {
            self.reasons.push(reason.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let counts = result.split_once(". ").map_or("", |(_, counts)| counts);
        for count in counts.split("; ") {
            let mut words = count.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.left_out += number,
                _ => {}
            }
        }
    }

    /// Runs a `cargo test` command, passes its output on and counts. A failure without a failed test (it does not
    /// compile, a test program was killed) counts as one.
    pub(crate) fn run(&mut self, title: &str, command: &mut Command) -> Result<()> {
        self.timed(title, |tally| tally.follow(title, command, |_| false))
    }

    /// The same, but a failed test ends it: what comes after that changes nothing any more, and may hang.
    pub(crate) fn run_until_failure(&mut self, title: &str, command: &mut Command) -> Result<()> {
        self.timed(title, |tally| tally.follow(title, command, |tally| !tally.names.is_empty()))
    }

    /// Does one part of a run, says how long it took and keeps that for the end.
    pub(crate) fn timed(&mut self, title: &str, part: impl FnOnce(&mut Tally) -> Result<()>) -> Result<()> {
        println!("\n=== {title}");
        let began = Instant::now();
        let outcome = part(self);
        let took = began.elapsed().as_secs();
        println!("=== {title}: {took} s");
        self.parts.push((title.to_owned(), took));
        outcome
    }

    fn follow(&mut self, title: &str, command: &mut Command, enough: impl Fn(&Tally) -> bool) -> Result<()> {
        println!("{}", shell::words(command));
        let failed_before = self.failed;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", shell::words(command)))?;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line?;
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                self.read(&line);
                if enough(self) {
                    let _ = kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM);
                }
            }
        }
        if !child.wait()?.success() && self.failed == failed_before {
            self.failed += 1;
            self.names.push(format!("{title} {UNFINISHED}"));
        }
        Ok(())
    }

    /// Counts one thing that is not a test program.
    pub(crate) fn note(&mut self, title: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                println!("{title} FAILED: {error:#}");
                self.failed += 1;
                self.names.push(title.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_test_programs_and_failures_are_named() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test one ... ok",
            "test two::three ... FAILED",
            "| test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.00s",
            "| culvert-lab: two::three fails: nobody answers",
            "| culvert-lab: body of four ran to its end",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s",
            "test result: ok. 8 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.58s",
        ] {
            tally.read(line);
        }
        let (names, reasons) = (vec!["two::three".to_owned()], vec!["two::three fails: nobody answers".to_owned()]);
        assert_eq!(tally, Tally { passed: 9, failed: 1, left_out: 1, names, reasons, parts: Vec::new() });
    }

    #[test]
    fn what_hangs_behind_a_failed_test_is_not_waited_for() {
        let mut tally = Tally::default();
        let hangs = "echo 'test one ... FAILED'; exec sleep 600";
        let began = std::time::Instant::now();
        tally.run_until_failure("hangs", Command::new("timeout").args(["700", "sh", "-c", hangs])).unwrap();
        assert!(began.elapsed().as_secs() < 300);
        assert_eq!(tally.names[0], "one");
    }

    #[test]
    fn a_run_that_breaks_off_is_a_failure() {
        let mut tally = Tally::default();
        tally
            .run("broken", Command::new("sh").args(["-c", "echo 'test result: ok. 1 passed; 0 failed'; exit 7"]))
            .unwrap();
        assert_eq!((tally.passed, tally.failed), (1, 1));
        assert!(tally.names[0].contains("broken"));
    }
}
