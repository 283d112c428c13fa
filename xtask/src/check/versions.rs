//! Tool versions are named in `xtask/src/pins.rs` and nowhere else, and the compiler's in `rust-toolchain.toml`.

use anyhow::{Context as _, Result, ensure};

use crate::{paths, pins, shell};

/// Files in which a version of a pinned tool would be a second place.
const LOOKED_AT: &[&str] = &["README.md", ".ci/run", "docs/testing.md", "xtask/src/tools.rs", "xtask/src/ebpf.rs"];

pub(crate) fn run() -> Result<()> {
    let root = paths::root();
    for file in LOOKED_AT {
        let text = std::fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))?;
        for tool in [&pins::BPF_LINKER, &pins::CARGO_DENY] {
            ensure!(
                !text.contains(tool.version),
                "{file} names {} {}: only xtask/src/pins.rs does",
                tool.name,
                tool.version
            );
        }
    }
    let toolchain = std::fs::read_to_string(root.join("rust-toolchain.toml"))?;
    let manifest = std::fs::read_to_string(root.join("Cargo.toml"))?;
    same_compiler(&toolchain, &manifest)?;
    // What is locked is what is built: a manifest that asks for something else shows here.
    shell::output(shell::cargo().args(["metadata", "--locked", "--offline", "--format-version=1", "--no-deps"]))
        .map(drop)
        .context("Cargo.lock does not fit the manifests: run `cargo update --workspace` and commit it")
}

/// The pinned compiler is the one that the manifest declares as the oldest.
fn same_compiler(toolchain: &str, manifest: &str) -> Result<()> {
    let pinned = value(toolchain, "channel").context("rust-toolchain.toml names no channel")?;
    let declared = value(manifest, "rust-version").context("Cargo.toml names no rust-version")?;
    ensure!(
        pinned == declared || pinned.strip_prefix(declared).is_some_and(|rest| rest.starts_with('.')),
        "rust-toolchain.toml pins {pinned}, Cargo.toml declares {declared}"
    );
    Ok(())
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.split('=').next().is_some_and(|name| name.trim() == key))?;
    line.split('"').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_compiler_than_the_declared_one_is_noticed() {
        same_compiler("channel = \"1.95.0\"", "rust-version = \"1.95\"").unwrap();
        assert!(same_compiler("channel = \"1.96.0\"", "rust-version = \"1.95\"").is_err());
        assert!(same_compiler("channel = \"1.950.0\"", "rust-version = \"1.95\"").is_err());
    }
}
