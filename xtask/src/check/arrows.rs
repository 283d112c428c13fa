//! Crates depend on each other only as the table of docs/architecture.md allows, and pure crates stay pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

use crate::paths;

/// What a crate that only decides may not reach for: runtimes, sockets, TLS, the kernel.
const NOT_IN_PURE: &[&str] = &["aya", "h2", "hyper", "libc", "nix", "rustls", "socket2", "tokio", "tonic"];

/// The only crates that may lift the ban on `unsafe`, as docs/architecture.md says.
const MAY_BE_UNSAFE: &[&str] = &["culvert-abi", "culvert-netns-tests", "culvert-redirect"];

/// What one row of the table allows.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    pure: bool,
    /// `None` is "anything".
    allowed: Option<BTreeSet<String>>,
}

/// One crate as it is: what it depends on outside of tests, and whether it keeps the workspace's lints.
#[derive(Debug)]
struct Crate {
    name: String,
    depends: Vec<String>,
    keeps_lints: bool,
}

pub(crate) fn run() -> Result<()> {
    let text = std::fs::read_to_string(paths::root().join("docs/architecture.md"))?;
    let complaints = complaints(&table(&text)?, &crates()?);
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    Ok(())
}

fn crates() -> Result<Vec<Crate>> {
    let metadata = MetadataCommand::new()
        .manifest_path(paths::root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let mut crates = Vec::new();
    for package in &metadata.packages {
        let manifest = std::fs::read_to_string(&package.manifest_path)?;
        let mut depends = Vec::new();
        for dependency in &package.dependencies {
            if dependency.kind != DependencyKind::Development {
                depends.push(dependency.name.clone());
            }
        }
        let keeps_lints = manifest.contains("[lints]\nworkspace = true");
        crates.push(Crate { name: package.name.to_string(), depends, keeps_lints });
    }
    Ok(crates)
}

/// Reads the rows `| level | crate | what it answers | may depend on |`.
fn table(text: &str) -> Result<BTreeMap<String, Row>> {
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [level, names, _, depends] = cells.as_slice() else { continue };
        for name in names.split(',').map(str::trim).filter(|name| name.starts_with('`')) {
            let allowed = match *depends {
                "anything" => None,
                "-" | "nothing of ours" => Some(BTreeSet::new()),
                list => Some(list.split(',').map(|word| package(word.trim())).collect()),
            };
            rows.insert(package(name.trim_matches('`')), Row { pure: level.contains("pure"), allowed });
        }
    }
    if rows.len() < 10 {
        bail!("docs/architecture.md has no table of crates and arrows any more");
    }
    Ok(rows)
}

/// The package of a word of the table.
fn package(word: &str) -> String {
    match word {
        "xtask" => word.to_owned(),
        "cli" => "culvert".to_owned(),
        "netns" | "kube" => format!("culvert-{word}-tests"),
        _ => format!("culvert-{}", word.trim_start_matches("ebpf/")),
    }
}

fn complaints(rows: &BTreeMap<String, Row>, crates: &[Crate]) -> Vec<String> {
    let ours: BTreeSet<&str> = crates.iter().map(|one| one.name.as_str()).collect();
    let mut complaints = Vec::new();
    for one in crates {
        let Some(row) = rows.get(&one.name) else {
            complaints.push(format!("{} is not in the table of docs/architecture.md", one.name));
            continue;
        };
        for other in &one.depends {
            let is_ours = ours.contains(other.as_str());
            if is_ours && row.allowed.as_ref().is_some_and(|allowed| !allowed.contains(other)) {
                complaints.push(format!("{} may not depend on {other}", one.name));
            }
            if row.pure && NOT_IN_PURE.contains(&other.as_str()) {
                complaints.push(format!("{} only decides: it may not depend on {other}", one.name));
            }
        }
        if !one.keeps_lints && !MAY_BE_UNSAFE.contains(&one.name.as_str()) {
            complaints.push(format!("{} does not take the workspace's lints, which forbid unsafe", one.name));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> BTreeMap<String, Row> {
        table(&std::fs::read_to_string(paths::root().join("docs/architecture.md")).unwrap()).unwrap()
    }

    fn one(name: &str, depends: &[&str]) -> Crate {
        Crate {
            name: name.to_owned(),
            depends: depends.iter().map(|&word| word.to_owned()).collect(),
            keeps_lints: true,
        }
    }

    #[test]
    fn a_wrong_arrow_is_refused_and_the_right_one_is_not() {
        let good = [one("culvert-policy", &["culvert-identity", "ipnet"]), one("culvert-identity", &[])];
        assert_eq!(complaints(&rows(), &good), Vec::<String>::new());
        let bad = [one("culvert-policy", &[]), one("culvert-identity", &["culvert-policy"])];
        assert_eq!(complaints(&rows(), &bad), ["culvert-identity may not depend on culvert-policy"]);
        let tasks = [one("xtask", &["culvert-identity"]), one("culvert-identity", &[])];
        assert_eq!(complaints(&rows(), &tasks), ["xtask may not depend on culvert-identity"]);
    }

    #[test]
    fn a_runtime_in_a_pure_crate_is_refused() {
        let bad = [one("culvert-policy", &["tokio"])];
        assert_eq!(complaints(&rows(), &bad), ["culvert-policy only decides: it may not depend on tokio"]);
        assert_eq!(complaints(&rows(), &[one("culvert-agent", &["tokio"])]), Vec::<String>::new());
    }

    #[test]
    fn a_crate_outside_the_table_or_the_lints_is_refused() {
        let stranger = [one("culvert-stranger", &[])];
        assert!(complaints(&rows(), &stranger)[0].contains("not in the table"));
        let lax = [Crate { keeps_lints: false, ..one("culvert-tunnel", &[]) }];
        assert!(complaints(&rows(), &lax)[0].contains("forbid unsafe"));
    }

    #[test]
    fn the_tree_as_it_is_keeps_the_arrows() {
        run().unwrap();
    }
}
