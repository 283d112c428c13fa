//! `cargo xtask test`: every test, counted.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::tally::Tally;
use crate::tools::{self, Consent, Need};
use crate::{bench, check, cluster, demo, docs, ebpf, fuzz, mutants, preflight, shell};

/// The crates whose tests need root and namespaces.
const PRIVILEGED: &[&str] = &["culvert-lab", "culvert-netns-tests", "culvert-e2e"];

/// The crate whose tests need a program of somebody else's.
const INTEROP: &str = "culvert-interop";

/// Sandboxes at a time: each holds two nodes, agents and a control plane.
const SANDBOXES: &str = "2";

/// What to run.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Only what needs neither root nor the release programs: leaves out the lab, kernel, end-to-end, fuzz and
    /// cluster tests.
    #[arg(long)]
    fast: bool,
    /// Also the tests that take minutes each (soaks, 1 GiB transfers), and fuzz longer.
    #[arg(long)]
    long: bool,
    /// Instead: apply each patch of tests/mutants to a copy and demand that its test fails.
    #[arg(long)]
    mutants: bool,
    /// Also the tests with Istio's ztunnel at the other end, with this program (any build of it).
    #[arg(long, value_name = "PATH", conflicts_with_all = ["fast", "mutants"])]
    ztunnel: Option<PathBuf>,
    /// Only tests whose name contains one of these words.
    filters: Vec<String>,
}

impl Arguments {
    /// Kubernetes is for whole runs: words name tests that need none (`cargo xtask cluster test` takes words as well).
    fn has_a_cluster(&self) -> bool {
        !(self.fast || self.mutants) && self.filters.is_empty()
    }
}

/// Runs what was asked for, prints `N passed, N failed` as its last line and fails when something failed.
pub(crate) fn run(wanted: &Arguments, consent: Consent) -> Result<()> {
    let mut tally = Tally::default();
    if wanted.mutants {
        privileged_ready(consent)?;
        mutants::run(&wanted.filters, &mut tally)?;
    } else {
        if !wanted.fast {
            privileged_ready(consent)?;
        }
        if wanted.has_a_cluster() {
            // Whoever waits for an answer does so now, and not in half an hour.
            cluster::life::agree(consent)?;
        }
        suites(wanted, consent, &mut tally)?;
    }
    close(wanted, &tally)
}

fn privileged_ready(consent: Consent) -> Result<()> {
    preflight::kernel_work()?;
    tools::ensure(&[Need::Ebpf, Need::Lab], consent)
}

fn suites(wanted: &Arguments, consent: Consent, tally: &mut Tally) -> Result<()> {
    if wanted.filters.is_empty() {
        tally.note("check arrows", check::arrows::run());
        tally.note("check versions", check::versions::run());
    }
    if wanted.fast {
        return tally.run("crates", &mut crates(wanted));
    }
    let mut programs = PathBuf::new();
    tally.timed("programs", |_| {
        ebpf::build(consent)?;
        programs = demo::build_programs()?;
        Ok(())
    })?;
    tally.run("crates", &mut crates(wanted))?;
    let mut privileged = cargo_test();
    for package in PRIVILEGED {
        privileged.args(["--package", package]);
    }
    privileged.args(["--", "--test-threads", SANDBOXES]).args(after_dashes(wanted));
    privileged.env("CULVERT_BIN_DIR", &programs);
    tally.run("lab, kernel, end to end", &mut privileged)?;
    if let Some(ztunnel) = &wanted.ztunnel {
        tally
            .run("with a ztunnel at the other end", &mut interop(wanted, &std::path::absolute(ztunnel)?, &programs)?)?;
    }
    if wanted.filters.is_empty() {
        beside_tests(wanted, &programs, consent, tally)?;
    }
    if wanted.has_a_cluster()
        && let Err(error) = on_a_cluster(wanted, consent, tally)
    {
        tally.note("cluster", Err(error));
    }
    Ok(())
}

/// What a whole run has besides test programs.
fn beside_tests(wanted: &Arguments, programs: &Path, consent: Consent, tally: &mut Tally) -> Result<()> {
    tally.timed("benchmarks' report and instruction counts", |tally| {
        tally.note("the report in a browser", bench::look(consent));
        tally.note("instruction counts", bench::counts(programs, false, consent));
        Ok(())
    })?;
    fuzz::run(wanted.long, tally)?;
    docs::run(docs::README, None, tally)
}

/// On a cluster of the suite's own. Kubernetes is built from source the first time, once per user.
fn on_a_cluster(wanted: &Arguments, consent: Consent, tally: &mut Tally) -> Result<()> {
    let place = cluster::place::Place::new("suite")?;
    // What a killed run has left is not what the page begins with.
    cluster::end(&place)?;
    // The page begins by making the cluster and ends by removing it; what fails in between leaves it up.
    docs::run(docs::INSTALL, Some(&place), tally)?;
    cluster::end(&place)?;
    let all = cluster::suite::Wanted { long: wanted.long, ..Default::default() };
    cluster::suite::counted(&place, &all, consent, tally)
}

fn interop(wanted: &Arguments, ztunnel: &Path, programs: &Path) -> Result<Command> {
    ensure!(ztunnel.is_file(), "no program {}: --ztunnel takes the path of a ztunnel", ztunnel.display());
    let mut command = cargo_test();
    command.args(["--package", INTEROP, "--", "--include-ignored", "--test-threads", SANDBOXES]).args(&wanted.filters);
    command.env("CULVERT_BIN_DIR", programs).env("CULVERT_ZTUNNEL", ztunnel);
    Ok(command)
}

fn crates(wanted: &Arguments) -> Command {
    let mut command = cargo_test();
    command.arg("--workspace");
    for package in PRIVILEGED.iter().chain(cluster::suite::PACKAGES).chain([&INTEROP]) {
        command.args(["--exclude", package]);
    }
    command.arg("--").args(after_dashes(wanted));
    command
}

fn cargo_test() -> Command {
    let mut command = shell::cargo();
    command.args(["test", "--no-fail-fast"]);
    command
}

fn after_dashes(wanted: &Arguments) -> Vec<&str> {
    let long = wanted.long.then_some("--include-ignored");
    long.into_iter().chain(wanted.filters.iter().map(String::as_str)).collect()
}

fn close(wanted: &Arguments, tally: &Tally) -> Result<()> {
    println!();
    for name in tally.names.iter().chain(&tally.reasons) {
        println!("failed: {name}");
    }
    if wanted.fast {
        println!("left out by --fast: the lab, kernel, end-to-end, fuzz and cluster tests");
    } else if !wanted.mutants && !wanted.filters.is_empty() {
        println!(
            "left out, for words were given: the commands of the pages, the fuzz tests and those on a Kubernetes cluster"
        );
    }
    if !wanted.fast && !wanted.mutants && wanted.ztunnel.is_none() {
        println!("left out without --ztunnel PATH: the tests with Istio's ztunnel at the other end");
    }
    for (part, seconds) in &tally.parts {
        println!("{seconds:>5} s  {part}");
    }
    if tally.left_out > 0 {
        println!("left out without --long: {} tests", tally.left_out);
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        bail!("{} tests failed", tally.failed);
    }
    if tally.passed == 0 {
        bail!("no test was run: no test's name contains {}", wanted.filters.join(" or "));
    }
    Ok(())
}
