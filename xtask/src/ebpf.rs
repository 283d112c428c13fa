//! The BPF programs: built for `bpfel-unknown-none` by a toolchain of their own, and only when something changed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::tools::{self, BpfCompiler, Consent, Need};
use crate::{paths, pins, shell};

const TARGET: &str = "bpfel-unknown-none";

/// The program (`[[bin]]`) of `ebpf/programs`, and the name of the object.
const OBJECT: &str = "culvert-programs";

/// Builds, if an input changed since the last time, and returns the object.
pub(crate) fn build(consent: Consent) -> Result<PathBuf> {
    let object = paths::target().join("ebpf").join(OBJECT);
    let stamp = paths::target().join("ebpf/inputs");
    let inputs = inputs()?;
    if object.exists() && std::fs::read_to_string(&stamp).is_ok_and(|known| known == inputs) {
        return Ok(object);
    }
    tools::ensure(&[Need::Ebpf], consent)?;
    // The compiler may have been installed just now, so the inputs are read again.
    let inputs = self::inputs()?;
    let _ = std::fs::remove_file(&stamp);
    shell::run(&mut compile()?).context("the BPF programs do not build")?;
    let built = paths::target().join("ebpf/build").join(TARGET).join("release").join(OBJECT);
    if !built.exists() {
        bail!("ebpf/programs has no program named {OBJECT}: {} was not built", built.display());
    }
    // Copied beside and renamed, so that who reads the object never sees half of it.
    let beside = object.with_extension("new");
    std::fs::copy(&built, &beside)?;
    std::fs::rename(&beside, &object)?;
    std::fs::write(&stamp, inputs)?;
    Ok(object)
}

fn compile() -> Result<Command> {
    let architecture = std::env::consts::ARCH;
    let linker = paths::tool(pins::BPF_LINKER.name);
    let mut cargo = match tools::bpf_compiler() {
        BpfCompiler::Nightly => {
            let mut cargo = shell::cargo();
            cargo.arg("+nightly");
            cargo
        }
        BpfCompiler::Distribution => {
            let mut cargo = shell::program("/usr/bin/cargo");
            cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc");
            cargo
        }
    };
    let flags = format!(
        "--cfg=bpf_target_arch=\"{architecture}\" -Cdebuginfo=2 -Clink-arg=--btf {}",
        paths::alike_everywhere()
    );
    let search = std::env::var("PATH").unwrap_or_default();
    let folder = linker.parent().unwrap_or(Path::new("."));
    cargo
        .current_dir(paths::root().join("ebpf/programs"))
        .args(["build", "--release", "-Z", "build-std=core", "--target", TARGET])
        .env("CARGO_TARGET_DIR", paths::target().join("ebpf/build"))
        .env("RUSTFLAGS", flags)
        .env("PATH", format!("{}:{search}", folder.display()));
    if paths::root().join("ebpf/programs/Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    Ok(cargo)
}

/// A fingerprint of all that goes in: the sources of `ebpf/`, the compiler, the linker and how they are called.
fn inputs() -> Result<String> {
    let mut files = Vec::new();
    for folder in ["ebpf/abi", "ebpf/programs"] {
        collect(&paths::root().join(folder), &mut files)?;
    }
    files.sort();
    let mut sum = Fingerprint::new();
    for file in &files {
        sum.add(file.strip_prefix(paths::root()).unwrap_or(file).to_string_lossy().as_bytes());
        sum.add(&std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    let compiler = tools::bpf_compiler();
    let version = match compiler {
        BpfCompiler::Nightly => shell::output(shell::program("rustc").args(["+nightly", "-vV"])),
        BpfCompiler::Distribution => shell::output(shell::program("/usr/bin/rustc").arg("-vV")),
    };
    sum.add(version.unwrap_or_default().as_bytes());
    sum.add(include_bytes!("ebpf.rs"));
    Ok(format!("{compiler:?} bpf-linker {} {} files {:016x}\n", pins::BPF_LINKER.version, files.len(), sum.value()))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} is missing", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// FNV-1a, 64 bits: it only has to notice a change.
struct Fingerprint(u64);

impl Fingerprint {
    fn new() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn value(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_and_a_moved_border_change_the_fingerprint() {
        let sum = |parts: &[&str]| {
            let mut sum = Fingerprint::new();
            parts.iter().for_each(|part| sum.add(part.as_bytes()));
            sum.value()
        };
        assert_ne!(sum(&["ab", "c"]), sum(&["ab", "d"]));
        assert_ne!(sum(&["ab", "c"]), sum(&["a", "bc"]));
        assert_eq!(sum(&["ab", "c"]), sum(&["ab", "c"]));
    }
}
