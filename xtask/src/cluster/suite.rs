//! `cargo xtask cluster test`: the tests that need a real Kubernetes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::cluster::place::Place;
use crate::cluster::{helm, kubernetes, life};
use crate::tally::Tally;
use crate::tools::{self, Consent, Need};
use crate::{paths, preflight, shell};

/// The tests on the cluster, and those of the control plane on an API server alone.
pub(crate) const PACKAGES: &[&str] = &[PACKAGE, API_PACKAGE];
pub(crate) const PACKAGE: &str = "culvert-cluster";
const API_PACKAGE: &str = "culvert-kube-tests";

/// What to run, and on what.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Leave the cluster up afterwards.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Take culvert's programs from here instead of building them.
    #[arg(long, value_name = "DIR")]
    pub(crate) programs: Option<PathBuf>,
    /// Only tests whose name contains one of these words.
    pub(crate) filters: Vec<String>,
}

/// Makes the cluster when it is not up, and runs the tests on it.
pub(crate) fn run(place: &Place, wanted: &Wanted, consent: Consent) -> Result<()> {
    let mut tally = Tally::default();
    counted(place, wanted, false, consent, &mut tally)?;
    for name in &tally.names {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    anyhow::ensure!(tally.failed == 0, "{} tests failed", tally.failed);
    Ok(())
}

/// As a part of `cargo xtask test`.
pub(crate) fn counted(place: &Place, wanted: &Wanted, long: bool, consent: Consent, tally: &mut Tally) -> Result<()> {
    preflight::kernel_work()?;
    tools::ensure(&[Need::Ebpf, Need::Lab], consent)?;
    let helm = helm::program()?;
    life::up(place, None, consent)?;
    let outcome =
        life::images(place, wanted.programs.clone(), consent).and_then(|()| tests(place, wanted, long, &helm, tally));
    if !wanted.keep {
        life::down(place)?;
    }
    outcome
}

fn tests(place: &Place, wanted: &Wanted, long: bool, helm: &Path, tally: &mut Tally) -> Result<()> {
    let description = place.folder().join("cluster.json");
    let content = json!({
        "name": place.name(),
        "kubeconfig": place.kubeconfig(),
        "kubectl": kubernetes::programs()?.join("kubectl"),
        "helm": helm,
        "xtask": place.program(),
        "repository": paths::root(),
    });
    std::fs::write(&description, content.to_string())?;
    let mut cargo: Command = shell::cargo();
    cargo.args(["test", "--no-fail-fast"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    cargo.args(["--", "--test-threads=1"]).args(long.then_some("--include-ignored")).args(&wanted.filters);
    tally.run("cluster", cargo.env("CULVERT_CLUSTER", &description))
}
