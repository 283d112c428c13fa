//! The contract of kernel and agent changes only together with its version.
//!
//! `xtask/abi.snapshot` holds the version and the sources of `ebpf/abi` without comments, blank lines and tests. When the
//! sources differ under the same `ABI_VERSION`, an agent could take over pinned maps of another layout.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};

use crate::paths;

pub(crate) fn run(update: bool) -> Result<()> {
    let present = present()?;
    let file = paths::root().join("xtask/abi.snapshot");
    let recorded = std::fs::read_to_string(&file).unwrap_or_default();
    let verdict = compare(&recorded, &present)?;
    if update {
        return Ok(std::fs::write(&file, present)?);
    }
    if let Verdict::NewVersion = verdict {
        bail!("the layout has a new version that is not recorded yet: run `cargo xtask check abi --update`");
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    NewVersion,
}

fn compare(recorded: &str, present: &str) -> Result<Verdict> {
    if recorded == present {
        return Ok(Verdict::Same);
    }
    if version(recorded) == version(present) && !recorded.is_empty() {
        bail!("ebpf/abi changed but ABI_VERSION did not: raise it, then run `cargo xtask check abi --update`");
    }
    Ok(Verdict::NewVersion)
}

fn version(snapshot: &str) -> Option<&str> {
    snapshot.lines().find(|line| line.contains("const ABI_VERSION"))
}

fn present() -> Result<String> {
    let folder = paths::root().join("ebpf/abi/src");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).context("ebpf/abi/src is missing")? {
        let path = entry?.path();
        // Tests and the user-space conversions are no part of the layout.
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".rs") && name != "tests.rs" && name != "user.rs" {
            files.push((name, std::fs::read_to_string(&path)?));
        }
    }
    files.sort();
    let mut snapshot = String::new();
    for (name, text) in files {
        let _ = writeln!(snapshot, "== {name}");
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")) {
            let _ = writeln!(snapshot, "{line}");
        }
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_layout_under_the_same_version_is_refused() {
        let one = "pub const ABI_VERSION: u32 = 1;\npub struct A { x: u32 }\n";
        let other = "pub const ABI_VERSION: u32 = 1;\npub struct A { x: u64 }\n";
        let raised = "pub const ABI_VERSION: u32 = 2;\npub struct A { x: u64 }\n";
        assert!(compare(one, other).is_err());
        assert_eq!(compare(one, raised).unwrap(), Verdict::NewVersion);
        assert_eq!(compare(one, one).unwrap(), Verdict::Same);
        assert_eq!(compare("", one).unwrap(), Verdict::NewVersion);
    }
}
