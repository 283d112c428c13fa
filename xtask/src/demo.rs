//! `cargo xtask demo`: the main job on two nodes and five pods.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::tools::{self, Consent, Need};
use crate::{ebpf, paths, preflight, shell};

/// The programs that are run, as `cargo build` names them.
const PROGRAMS: &[(&str, &str)] = &[
    ("culvert-control", "culvert-control"),
    ("culvert-agent", "culvert-agent"),
    ("culvert", "culvert"),
    ("culvert-cni", "culvert-cni"),
    ("culvert-keeper", "culvert-keeper"),
    ("culvert-e2e", "culvert-demo"),
];

/// Builds what it needs, then runs the demo in a sandbox of its own.
pub(crate) fn run(manifests: Option<&Path>, consent: Consent) -> Result<()> {
    preflight::kernel_work()?;
    tools::ensure(&[Need::Ebpf, Need::Lab], consent)?;
    ebpf::build(consent)?;
    let programs = build_programs()?;
    let manifests = manifests.map_or_else(|| paths::root().join("deploy/examples"), Path::to_path_buf);
    let mut demo = shell::program(programs.join("culvert-demo"));
    demo.arg("--manifests").arg(std::path::absolute(manifests)?).env("CULVERT_BIN_DIR", &programs);
    shell::run(&mut demo)
}

/// Builds the release programs that the demo and the end-to-end tests run, and returns their folder.
pub(crate) fn build_programs() -> Result<PathBuf> {
    shell::run(&mut build(true))?;
    Ok(paths::cargo_target().join("release"))
}

/// The command that builds the programs.
pub(crate) fn build(release: bool) -> Command {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--quiet"]).args(release.then_some("--release"));
    for (package, program) in PROGRAMS {
        cargo.args(["--package", package, "--bin", program]);
    }
    cargo
}
