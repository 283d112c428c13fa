//! The project's tasks: `cargo xtask help`.

mod bench;
mod check;
mod cluster;
mod conformance;
mod demo;
mod docs;
mod ebpf;
mod fuzz;
mod kind;
mod mutants;
mod paths;
mod pins;
mod preflight;
mod scale;
mod shell;
mod tally;
mod test;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, tests and shows culvert.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    /// Install what is missing without asking (also with CI=true in the environment).
    #[arg(long, global = true)]
    yes: bool,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds the BPF programs into target/ebpf/culvert-programs.
    BuildEbpf,
    /// Lists the tools that culvert is built and tested with: what is installed, what would be.
    Tools {
        /// Install what is missing, after asking.
        #[arg(long)]
        install: bool,
    },
    /// Runs the tests: every crate's, then the kernel, lab and end-to-end tests, which need root.
    Test(test::Arguments),
    /// Runs the main job on two nodes and five pods and prints who called whom, over what, and why.
    Demo {
        /// Run these Kubernetes manifests instead of deploy/examples.
        #[arg(long, value_name = "DIR")]
        manifests: Option<PathBuf>,
    },
    /// A real Kubernetes with two nodes on this machine, in namespaces of its own.
    Cluster(cluster::Arguments),
    /// Compares culvert with no mesh and with other proxies: table, raw figures and report under target/bench.
    Bench(bench::Arguments),
    /// Simulates a large cluster around the real control plane and the agents' own client; prints what it measures.
    Scale(scale::Arguments),
    /// Builds static programs and writes container images of them into target/images.
    Image,
    /// The same on kind, for people who have Docker and kind.
    Kind {
        /// What to do.
        #[command(subcommand)]
        task: kind::Task,
    },
    /// Writes deploy/kubernetes/culvert.yaml from the chart.
    Manifests,
    /// Runs a directory of third-party case files through the real parser, validator and decision code.
    Conformance {
        /// The directory.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Types the commands of a page of the documentation, block after block in one shell.
    Docs {
        /// The page, from the root of the repository.
        #[arg(default_value = docs::README)]
        page: PathBuf,
    },
    /// Fuzzes every parser of foreign bytes and prints executions and coverage.
    Fuzz(fuzz::Arguments),
    /// Runs one of the checks, or all of them.
    Check {
        /// Which one; all when left out.
        which: Option<check::Which>,
        /// With `abi`: record the present layout under its new version.
        #[arg(long)]
        update: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let consent = tools::Consent::new(arguments.yes);
    let outcome = match arguments.task {
        Task::BuildEbpf => ebpf::build(consent).map(|object| println!("{}", object.display())),
        Task::Tools { install } => tools::show(install, consent),
        Task::Test(wanted) => test::run(&wanted, consent),
        Task::Demo { manifests } => demo::run(manifests.as_deref(), consent),
        Task::Cluster(wanted) => cluster::run(&wanted, consent),
        Task::Bench(wanted) => bench::run(&wanted, consent),
        Task::Scale(wanted) => scale::run(&wanted),
        Task::Image => cluster::fixed::write(consent),
        Task::Kind { task } => kind::run(task, consent),
        Task::Manifests => cluster::manifests::write(),
        Task::Conformance { dir } => conformance::run(&dir),
        Task::Docs { page } => docs::page(&page),
        Task::Fuzz(wanted) => fuzz::alone(&wanted),
        Task::Check { which, update } => check::run(which, update, consent),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
