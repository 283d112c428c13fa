//! `cargo xtask cluster test`: the tests that need a real Kubernetes.

use std::path::PathBuf;
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

/// Names the file that tells tests where everything is.
const DESCRIPTION: &str = "CULVERT_CLUSTER";

/// What to run, and on what.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Also the tests that take minutes each.
    #[arg(long)]
    pub(crate) long: bool,
    /// Leave the cluster up afterwards.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Take culvert's programs from here instead of building them.
    #[arg(long, value_name = "DIR")]
    pub(crate) programs: Option<PathBuf>,
    /// Manifests of others, applied as they are by the tests `given::seeds`. Without it: `../shared/seeds`, where it exists.
    #[arg(long, value_name = "DIR")]
    pub(crate) seeds: Option<PathBuf>,
    /// Third-party cases, applied one by one by the tests `given::cases`. Without it: `../shared/conformance`, where it exists.
    #[arg(long, value_name = "DIR")]
    pub(crate) cases: Option<PathBuf>,
    /// Only tests whose name contains one of these words.
    pub(crate) filters: Vec<String>,
}

/// Makes the cluster when it is not up, and runs the tests on it.
pub(crate) fn run(place: &Place, wanted: &Wanted, consent: Consent) -> Result<()> {
    let mut tally = Tally::default();
    counted(place, wanted, consent, &mut tally)?;
    for name in &tally.names {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    anyhow::ensure!(tally.failed == 0, "{} tests failed", tally.failed);
    Ok(())
}

/// As a part of `cargo xtask test`.
pub(crate) fn counted(place: &Place, wanted: &Wanted, consent: Consent, tally: &mut Tally) -> Result<()> {
    preflight::kernel_work()?;
    tools::ensure(&[Need::Ebpf, Need::Lab], consent)?;
    let helm = helm::program()?;
    on(place, life::Kind::default(), wanted.keep, consent, || {
        let programs = life::images(place, wanted.programs.clone(), consent)?;
        tests(place, wanted, &Programs { helm: helm.clone(), own: programs }, tally)
    })?;
    if !wanted.filters.is_empty() && !wanted.filters.iter().any(|word| word.contains("dual")) {
        return Ok(());
    }
    let both = Place::new(&format!("{}-dual", place.name()))?;
    on(&both, life::Kind { dual_stack: true, ..Default::default() }, wanted.keep, consent, || {
        let programs = life::images(&both, wanted.programs.clone(), consent)?;
        dual_stack(&both, wanted, &Programs { helm, own: programs }, tally)
    })
}

/// Makes the cluster when it is not up, and ends it afterwards.
fn on(place: &Place, kind: life::Kind, keep: bool, consent: Consent, tests: impl FnOnce() -> Result<()>) -> Result<()> {
    // One that does not become ready is ended as well: the next run would take it for a cluster.
    let outcome = life::up(place, kind, consent).and_then(|()| tests());
    if !keep {
        life::down(place)?;
    }
    outcome
}

struct Programs {
    helm: PathBuf,
    /// The folder of culvert's own, and of those that tests run.
    own: PathBuf,
}

/// What was given, or what lies beside the repository.
fn given(wanted: Option<&PathBuf>, beside: &str) -> Result<Option<PathBuf>> {
    let beside = paths::root().join("../shared").join(beside);
    let folder = wanted.cloned().or_else(|| beside.is_dir().then_some(beside));
    Ok(folder.map(std::fs::canonicalize).transpose()?)
}

fn tests(place: &Place, wanted: &Wanted, programs: &Programs, tally: &mut Tally) -> Result<()> {
    let (seeds, cases) = (given(wanted.seeds.as_ref(), "seeds")?, given(wanted.cases.as_ref(), "conformance")?);
    let description = describe(place, programs, (&seeds, &cases))?;
    let mut cargo: Command = shell::cargo();
    cargo.args(["test", "--no-fail-fast"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    cargo.args(["--", "--test-threads=1"]).args(wanted.long.then_some("--include-ignored")).args(&wanted.filters);
    for (folder, tests, flag) in [(&seeds, "given::seeds", "--seeds"), (&cases, "given::cases", "--cases")] {
        if folder.is_none() {
            println!("not run, {flag} DIR was not given: {tests}");
            cargo.args(["--skip", tests]);
        }
    }
    tally.run("cluster", cargo.env(DESCRIPTION, &description))
}

/// What needs a cluster whose Services and pods have addresses of both families.
fn dual_stack(place: &Place, wanted: &Wanted, programs: &Programs, tally: &mut Tally) -> Result<()> {
    let description = describe(place, programs, (&None, &None))?;
    let mut cargo: Command = shell::cargo();
    cargo.args(["test", "--no-fail-fast", "--package", PACKAGE, "--test", "dual", "--", "--test-threads=1"]);
    tally.run("cluster of both families", cargo.args(&wanted.filters).env(DESCRIPTION, &description))
}

/// Writes down for the tests where everything is.
fn describe(
    place: &Place,
    programs: &Programs,
    (seeds, cases): (&Option<PathBuf>, &Option<PathBuf>),
) -> Result<PathBuf> {
    let description = place.folder().join("cluster.json");
    let content = json!({
        "name": place.name(),
        "kubeconfig": place.kubeconfig(),
        "kubectl": kubernetes::programs()?.join("kubectl"),
        "helm": programs.helm,
        "xtask": place.program(),
        "repository": paths::root(),
        "programs": std::path::absolute(&programs.own)?,
        "seeds": seeds,
        "cases": cases,
    });
    std::fs::write(&description, content.to_string())?;
    Ok(description)
}
