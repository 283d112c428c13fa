//! `cargo xtask bench`: the comparison with no mesh and with the proxies that people would pick instead.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::tools::{self, Consent, Need};
use crate::{demo, ebpf, paths, preflight, shell};

/// What to compare.
#[derive(Args)]
pub(crate) struct Arguments {
    /// No mesh, culvert and Envoy; three workloads, three rounds: under three minutes.
    #[arg(long)]
    quick: bool,
    /// Fifteen rounds and every workload.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Only these contenders and workloads, by name; a wrong name lists them.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Interleaved rounds.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Seconds that count, of each run.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Release programs of culvert that are built already.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Other release programs of culvert, as one more contender: `before`.
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,
    /// Fail when a ratio is worse than the one in docs/performance.md, past the noise.
    #[arg(long)]
    check: bool,
    /// One more contender, `crowded`: culvert in a mesh of N more pods and N more policies.
    #[arg(long, value_name = "N")]
    crowd: Option<usize>,
    /// One more contender, `churning`: a policy of the server's changes four times a second (also with `--full`).
    #[arg(long)]
    churn: bool,
    /// One more contender, `rotating`: certificates live ten seconds (also with `--full`).
    #[arg(long)]
    rotate: bool,
    /// A ztunnel built with its feature `testing`.
    #[arg(long, value_name = "FILE")]
    ztunnel: Option<PathBuf>,
    /// On a virtual machine whose host moves its cores: time only while they are there.
    #[arg(long, value_name = "near|far")]
    cores: Option<String>,
    /// Instead: count the instructions of culvert's agents under callgrind and compare them with the committed figures.
    #[arg(long)]
    counts: bool,
    /// With `--counts`: commit to what is counted now.
    #[arg(long, requires = "counts")]
    update: bool,
    /// Instead: first connections, with their handshakes, against the handshakes that this machine can do.
    #[arg(long, conflicts_with = "counts")]
    cold: bool,
    /// Instead: what 10, 50 and 110 pods on a node cost with one agent, and with an Envoy in each.
    #[arg(long, conflicts_with_all = ["counts", "cold"])]
    sidecars: bool,
    /// More arguments of culvert's agents, in one word.
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    agent_args: Option<String>,
}

/// Builds what it needs, then runs the comparison in a sandbox of its own.
pub(crate) fn run(wanted: &Arguments, consent: Consent) -> Result<()> {
    preflight::kernel_work()?;
    if wanted.counts {
        tools::ensure(&[Need::Lab], consent)?;
        let programs = match &wanted.bin_dir {
            Some(folder) => folder.clone(),
            None => released(consent)?,
        };
        return counts(&programs, wanted.update, consent);
    }
    tools::ensure(&[Need::Lab, Need::Bench, Need::Browser], consent)?;
    let programs = match &wanted.bin_dir {
        Some(folder) => folder.clone(),
        None => build(consent)?,
    };
    if wanted.cold {
        return shell::run(shell::program(rig(&programs)?).arg("cold").arg("--bin-dir").arg(folder(&programs)?));
    }
    if wanted.sidecars {
        let mut bench = shell::program(rig(&programs)?);
        bench.arg("sidecars").arg("--bin-dir").arg(folder(&programs)?).arg("--envoy").arg(tools::envoy_program());
        return shell::run(&mut bench);
    }
    let mut bench = shell::program(rig(&programs)?);
    bench.arg("run").arg("--bin-dir").arg(folder(&programs)?).arg("--envoy").arg(tools::envoy_program());
    bench.arg("--out").arg(paths::target().join("bench"));
    if let Some(programs) = &wanted.before {
        bench.arg("--before").arg(folder(programs)?);
    }
    if let Some(program) = &wanted.ztunnel {
        ensure!(program.exists(), "{} does not exist", program.display());
        bench.arg("--ztunnel").arg(std::path::absolute(program)?);
    }
    if let Some(root) = tools::distribution_proxies() {
        bench.arg("--debian").arg(root);
    }
    if wanted.check {
        bench.arg("--check").arg(paths::root().join("docs/performance.md"));
    }
    bench.args(words(wanted));
    shell::run(&mut bench)?;
    // Somebody has to have seen it before it is handed on.
    let report = paths::target().join("bench/report.html");
    shell::run(shell::program(rig(&programs)?).arg("look").arg("--page").arg(report))
}

/// Counts the instructions of the agents in that folder.
pub(crate) fn counts(programs: &Path, update: bool, consent: Consent) -> Result<()> {
    tools::ensure(&[Need::Counts], consent)?;
    let mut rig = unhurried_rig()?;
    rig.arg("counts").arg("--bin-dir").arg(folder(programs)?);
    rig.arg("--figures").arg(paths::root().join("tests/bench/instructions.json")).args(update.then_some("--update"));
    shell::run(&mut rig)
}

/// Draws a report of made-up figures and looks at it in a browser.
pub(crate) fn look(consent: Consent) -> Result<()> {
    tools::ensure(&[Need::Browser], consent)?;
    shell::run(unhurried_rig()?.arg("look"))
}

/// For what is not timed: the debug build, which the tests have made already.
fn unhurried_rig() -> Result<Command> {
    shell::run(shell::cargo().args(["build", "--quiet", "--package", "culvert-bench", "--bin", "culvert-bench"]))?;
    Ok(shell::program(paths::cargo_target().join("debug/culvert-bench")))
}

fn released(consent: Consent) -> Result<PathBuf> {
    ebpf::build(consent)?;
    demo::build_programs()
}

fn build(consent: Consent) -> Result<PathBuf> {
    let programs = released(consent)?;
    shell::run(shell::cargo().args(["build", "--quiet", "--release", "--package", "culvert-bench"]))?;
    Ok(programs)
}

/// The rig that lies beside the programs; nothing is compiled for programs that were given with theirs.
fn rig(programs: &Path) -> Result<PathBuf> {
    let beside = programs.join("culvert-bench");
    if beside.exists() {
        return Ok(std::path::absolute(beside)?);
    }
    shell::run(shell::cargo().args(["build", "--quiet", "--release", "--package", "culvert-bench"]))?;
    Ok(paths::cargo_target().join("release/culvert-bench"))
}

fn folder(programs: &Path) -> Result<PathBuf> {
    for name in ["culvert-agent", "culvert-control", "culvert"] {
        ensure!(programs.join(name).exists(), "{} is not there", programs.join(name).display());
    }
    std::path::absolute(programs).context("no such folder")
}

/// The arguments that differ between a quick, a usual and a full run.
fn words(wanted: &Arguments) -> Vec<String> {
    let rounds = wanted.rounds.unwrap_or(if wanted.full {
        15
    } else if wanted.quick {
        3
    } else {
        5
    });
    let seconds = wanted.seconds.unwrap_or(if wanted.quick { 1.5 } else { 2.0 });
    let mut words = vec!["--rounds".to_owned(), rounds.to_string(), "--seconds".to_owned(), seconds.to_string()];
    words.extend(["--warmup", "0.7", "--other-workers", "1"].map(str::to_owned));
    if wanted.full {
        words.push("--every-workload".to_owned());
    }
    let quick = ["no-mesh", "culvert", "envoy", "bulk4", "c16", "connects"].map(str::to_owned);
    let only = if wanted.quick && wanted.only.is_empty() { quick.to_vec() } else { wanted.only.clone() };
    if !only.is_empty() {
        words.extend(["--only".to_owned(), only.join(",")]);
    }
    let more = [(wanted.churn || wanted.full, "--churn"), (wanted.rotate || wanted.full, "--rotate")];
    words.extend(more.iter().filter(|(wanted, _)| *wanted).map(|(_, word)| (*word).to_owned()));
    if let Some(crowd) = wanted.crowd {
        words.extend(["--crowd".to_owned(), crowd.to_string()]);
    }
    if let Some(cores) = &wanted.cores {
        words.extend(["--cores".to_owned(), cores.clone()]);
    }
    if let Some(more) = &wanted.agent_args {
        words.extend(["--agent-args".to_owned(), more.clone()]);
    }
    words
}
