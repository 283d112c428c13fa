//! `cargo xtask image`: culvert's programs without any library to be found at run time, and images of nothing else.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::cache::Part;
use crate::cluster::contents;
use crate::cluster::debian::{self, Apt};
use crate::tools::Consent;
use crate::{ebpf, paths, pins, shell};

/// Rust's name for this architecture with musl, whose C library is linked in.
fn target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// What the images consist of.
const PROGRAMS: &[&str] = &["culvert-control", "culvert-agent", "culvert", "culvert-keeper", "culvert-cni"];

/// Most bytes of an image.
const LARGEST: u64 = 40_000_000;

/// Builds the programs and returns their folder.
pub(crate) fn programs(consent: Consent) -> Result<PathBuf> {
    ebpf::build(consent)?;
    let headers = headers(consent)?;
    rust_library(consent)?;
    shell::run(&mut build(&headers))?;
    let folder = paths::cargo_target().join(target()).join("release");
    for program in PROGRAMS {
        let file = folder.join(program);
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        ensure!(!asks_for_a_loader(&bytes)?, "{} is not static: FROM scratch it could not start", file.display());
    }
    Ok(folder)
}

/// Whether a 64-bit little-endian ELF program has a PT_INTERP header (System V ABI, program header).
fn asks_for_a_loader(program: &[u8]) -> Result<bool> {
    const PT_INTERP: u32 = 3;
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    let bytes = |at: usize, count: usize| program.get(at..at + count).context("an ELF file that ends too early");
    let short = |at: usize| Ok::<_, anyhow::Error>(u16::from_le_bytes(bytes(at, 2)?.try_into()?) as usize);
    let first = usize::try_from(u64::from_le_bytes(bytes(32, 8)?.try_into()?))?;
    let (size, count) = (short(54)?, short(56)?);
    for number in 0..count {
        if u32::from_le_bytes(bytes(first + number * size, 4)?.try_into()?) == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Builds the programs and writes the images into `target/images`.
pub(crate) fn write(consent: Consent) -> Result<()> {
    let programs = programs(consent)?;
    let images = paths::target().join("images");
    std::fs::create_dir_all(&images)?;
    for file in contents::own(&images, &programs)? {
        let bytes = std::fs::metadata(&file)?.len();
        println!("{:6.1} MB  {}", bytes as f64 / 1e6, file.display());
        ensure!(bytes <= LARGEST, "{} is larger than {} MB", file.display(), LARGEST / 1_000_000);
    }
    Ok(())
}

fn build(headers: &std::path::Path) -> Command {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "--locked", "--bins", "--target", &target()]);
    for package in PROGRAMS {
        cargo.args(["--package", package]);
    }
    // The C code of the crypto library is compiled by this machine's compiler, with musl's headers instead of its own.
    let own = shell::output(Command::new("gcc").arg("-print-file-name=include")).unwrap_or_default();
    let name = target().replace('-', "_");
    let musl = headers.join(format!("usr/include/{}-linux-musl", std::env::consts::ARCH));
    let flags = format!("-nostdinc -isystem {} -isystem {} -U_FORTIFY_SOURCE", musl.display(), own.trim());
    cargo.env(format!("CC_{name}"), "gcc").env(format!("CFLAGS_{name}"), flags);
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    cargo.env("RUSTFLAGS", paths::alike_everywhere());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_a_loader_is_told_from_one_that_does_not() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(asks_for_a_loader(&own).unwrap(), "this test is linked with the machine's libraries");
        // An ELF header and one program header, PT_LOAD.
        let mut alone = vec![0_u8; 64 + 56];
        alone[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (alone[32], alone[54], alone[56], alone[64]) = (64, 56, 1, 1);
        assert!(!asks_for_a_loader(&alone).unwrap());
        alone[64] = 3;
        assert!(asks_for_a_loader(&alone).unwrap());
        assert!(asks_for_a_loader(&alone[..80]).is_ok() && asks_for_a_loader(&alone[..60]).is_err());
        assert!(asks_for_a_loader(b"#!/bin/sh").is_err());
    }
}
