//! `cargo xtask test`: every test, counted.

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::tally::Tally;
use crate::tools::{self, Consent, Need};
use crate::{bench, check, cluster, demo, docs, ebpf, fuzz, mutants, preflight, shell};

/// The crates whose tests need root and namespaces.
const PRIVILEGED: &[&str] = &["culvert-lab", "culvert-netns-tests", "culvert-e2e"];

/// Sandboxes at a time: each holds two nodes, agents and a control plane.
const SANDBOXES: &str = "2";

/// What to run.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Only what needs neither root nor the release programs: leaves out the lab, kernel, end-to-end, fuzz and
    /// cluster tests.
    #[arg(long)]
    fast: bool,
    /// Also the tests that take minutes each (soaks, 1 GiB transfers), fuzz longer, and test on a real Kubernetes.
    #[arg(long)]
    long: bool,
    /// Instead: apply each patch of tests/mutants to a copy and demand that its test fails.
    #[arg(long)]
    mutants: bool,
    /// Only tests whose name contains one of these words.
    filters: Vec<String>,
}

impl Arguments {
    /// Kubernetes is for the longest of whole runs.
    fn has_a_cluster(&self) -> bool {
        self.long && !(self.fast || self.mutants) && self.filters.is_empty()
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
    ebpf::build(consent)?;
    let programs = demo::build_programs()?;
    tally.run("crates", &mut crates(wanted))?;
    let mut privileged = cargo_test();
    for package in PRIVILEGED {
        privileged.args(["--package", package]);
    }
    privileged.args(["--", "--test-threads", SANDBOXES]).args(after_dashes(wanted));
    privileged.env("CULVERT_BIN_DIR", &programs);
    tally.run("lab, kernel, end to end", &mut privileged)?;
    if wanted.filters.is_empty() {
        tally.note("the report in a browser", bench::look(consent));
        tally.note("instruction counts", bench::counts(&programs, false, consent));
        fuzz::run(wanted.long, tally)?;
    }
    if wanted.filters.is_empty() {
        docs::run(docs::README, None, tally)?;
    }
    if wanted.has_a_cluster()
        && let Err(error) = on_a_cluster(consent, tally)
    {
        tally.note("cluster", Err(error));
    }
    Ok(())
}

/// On a cluster of the suite's own. Kubernetes is built from source the first time, once per user.
fn on_a_cluster(consent: Consent, tally: &mut Tally) -> Result<()> {
    let place = cluster::place::Place::new("suite")?;
    // What a killed run has left is not what the page begins with.
    cluster::end(&place)?;
    // The page begins by making the cluster and ends by removing it; what fails in between leaves it up.
    docs::run(docs::INSTALL, Some(&place), tally)?;
    cluster::end(&place)?;
    cluster::suite::counted(&place, &cluster::suite::Wanted::default(), true, consent, tally)
}

fn crates(wanted: &Arguments) -> Command {
    let mut command = cargo_test();
    command.arg("--workspace");
    for package in PRIVILEGED.iter().chain(cluster::suite::PACKAGES) {
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
        println!("left out, for words were given: the commands of the pages and the fuzz tests");
    }
    if !(wanted.mutants || wanted.has_a_cluster()) {
        println!("left out without --long: the tests on a Kubernetes cluster (`cargo xtask cluster test`)");
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
