//! `cargo xtask image`: culvert's programs without any library to be found at run time, and images of nothing else.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cluster::cache::Part;
use crate::cluster::contents;
use crate::cluster::debian::{self, Apt};
use crate::tools::Consent;
use crate::{ebpf, paths, pins, shell};

/// Rust's name for this architecture with musl, whose C library is linked in.
fn target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// Builds the programs and returns their folder.
pub(crate) fn programs(consent: Consent) -> Result<PathBuf> {
    ebpf::build(consent)?;
    let headers = headers(consent)?;
    rust_library(consent)?;
    shell::run(&mut build(&headers))?;
    Ok(paths::cargo_target().join(target()).join("release"))
}

/// Builds the programs and writes the images into `target/images`.
pub(crate) fn write(consent: Consent) -> Result<()> {
    let programs = programs(consent)?;
    let images = paths::target().join("images");
    std::fs::create_dir_all(&images)?;
    for file in contents::own(&images, &programs)? {
        let bytes = std::fs::metadata(&file)?.len();
        println!("{:6.1} MB  {}", bytes as f64 / 1e6, file.display());
    }
    Ok(())
}

fn build(headers: &std::path::Path) -> Command {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "--locked", "--bins", "--target", &target()]);
    for package in ["culvert-control", "culvert-agent", "culvert", "culvert-keeper", "culvert-cni"] {
        cargo.args(["--package", package]);
    }
    // The C code of the crypto library is compiled by this machine's compiler, with musl's headers instead of its own.
    let own = shell::output(Command::new("gcc").arg("-print-file-name=include")).unwrap_or_default();
    let name = target().replace('-', "_");
    let musl = headers.join(format!("usr/include/{}-linux-musl", std::env::consts::ARCH));
    let flags = format!("-nostdinc -isystem {} -isystem {} -U_FORTIFY_SOURCE", musl.display(), own.trim());
    cargo.env(format!("CC_{name}"), "gcc").env(format!("CFLAGS_{name}"), flags);
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    // The same sources give the same bytes wherever they lie.
    let home = std::env::var("CARGO_HOME").unwrap_or_default();
    let remap = format!("--remap-path-prefix={}=/culvert --remap-path-prefix={home}=/cargo", paths::root().display());
    cargo.env("RUSTFLAGS", remap);
    cargo
}

/// musl's headers, from Debian's package.
fn headers(consent: Consent) -> Result<PathBuf> {
    let name = format!("musl-{}-{}", pins::DEBIAN_SUITE, std::env::consts::ARCH);
    let names: Vec<&str> = pins::MUSL_PACKAGES.iter().map(|package| package.name).collect();
    let part = Part { name: &name, recipe: &names.join("\n") };
    if let Some(folder) = part.ready()? {
        return Ok(folder.join("root"));
    }
    println!("To be fetched from Debian {}, not installed: {}", pins::DEBIAN_SUITE, names.join(", "));
    consent.ask()?;
    let made = part.make(|folder| {
        let work = tempfile::Builder::new().prefix("culvert-apt-").tempdir()?;
        Apt::new(work.path())?.download(&names, &work.path().join("packages"))?;
        debian::unpack(&work.path().join("packages"), &folder.join("root"))
    })?;
    Ok(made.join("root"))
}

/// Rust's own library for that target, by rustup.
fn rust_library(consent: Consent) -> Result<()> {
    let installed = shell::output(shell::program("rustup").args(["target", "list", "--installed"]))
        .context("the static programs need rustup's library for musl")?;
    if !installed.lines().any(|line| line == target()) {
        println!("To be installed by rustup: its library for {}", target());
        consent.ask()?;
        shell::run(shell::program("rustup").args(["target", "add", &target()]))?;
    }
    Ok(())
}
