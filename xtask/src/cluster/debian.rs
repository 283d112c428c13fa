//! Debian's packages without installing them: fetched by apt with lists, sources and cache of its own, unpacked into a
//! private folder. The machine's package sources, lists and installed packages stay as they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::cluster::cache::Part;
use crate::{pins, shell};

const ARCHIVE: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://deb.debian.org/debian-security";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with its own state in one folder.
pub(crate) struct Apt {
    config: PathBuf,
}

impl Apt {
    /// Fetches the lists of the pinned suite, sources included.
    pub(crate) fn new(folder: &Path) -> Result<Apt> {
        if shell::output(shell::program("apt-get").arg("--version")).is_err() {
            bail!("this machine has no apt: the test cluster is made from Debian's packages; use `cargo xtask kind`");
        }
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: install the package debian-archive-keyring");
        }
        for part in ["parts", "lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let machine = std::fs::read_to_string("/etc/apt/sources.list.d/debian.sources").unwrap_or_default();
        std::fs::write(folder.join("parts/cluster.sources"), sources(&machine))?;
        let config = folder.join("apt.conf");
        std::fs::write(&config, settings(folder))?;
        let apt = Apt { config };
        shell::run(apt.get().args(["update", "--quiet=2"])).context("Debian's package lists could not be fetched")?;
        Ok(apt)
    }

    fn get(&self) -> Command {
        let mut command = shell::program("apt-get");
        command.env("APT_CONFIG", &self.config).stdin(Stdio::null());
        command
    }

    /// Downloads packages into `folder`.
    pub(crate) fn download(&self, names: &[&str], folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        shell::run(self.get().args(["download", "--quiet=2"]).args(names).current_dir(folder))
            .with_context(|| format!("Debian {} has not all of {}", pins::DEBIAN_SUITE, names.join(", ")))
    }

    /// Downloads the source of one package into `folder`.
    pub(crate) fn source(&self, name: &str, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        shell::run(self.get().args(["source", "--download-only", "--quiet=2", name]).current_dir(folder))
            .with_context(|| format!("the source of {name} could not be fetched"))
    }
}

fn settings(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Dir::Etc::sourcelist \"/dev/null\";\n\
         Dir::Etc::sourceparts \"{folder}/parts\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         Dir::State \"{folder}\";\n\
         Dir::State::lists \"{folder}/lists\";\n\
         Dir::State::status \"/dev/null\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         APT::Sandbox::User \"root\";\n"
    )
}

/// Where the pinned suite is fetched from: the mirrors that this machine uses, when it is a Debian.
fn sources(machine: &str) -> String {
    let mirrors: Vec<&str> = machine.lines().filter_map(|line| line.strip_prefix("URIs:")).map(str::trim).collect();
    let security = mirrors.iter().find(|uri| uri.contains("security")).unwrap_or(&SECURITY);
    let archive = mirrors.iter().find(|uri| !uri.contains("security")).unwrap_or(&ARCHIVE);
    let suite = pins::DEBIAN_SUITE;
    [(archive, suite.to_owned()), (archive, format!("{suite}-updates")), (security, format!("{suite}-security"))]
        .map(|(uri, suite)| {
            format!("Types: deb deb-src\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n")
        })
        .join("\n")
}

/// Unpacks every package of `from` into `root`.
pub(crate) fn unpack(from: &Path, root: &Path) -> Result<()> {
    std::fs::create_dir_all(root)?;
    for entry in std::fs::read_dir(from)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            shell::run(shell::program("dpkg-deb").arg("--extract").arg(&file).arg(root))?;
        }
    }
    Ok(())
}

/// Whether the programs are there already.
pub(crate) fn ready() -> Result<bool> {
    Ok(Part { name: &name(), recipe: &package_names().join("\n") }.ready()?.is_some())
}

fn name() -> String {
    format!("debian-{}-{}", pins::DEBIAN_SUITE, std::env::consts::ARCH)
}

fn package_names() -> Vec<&'static str> {
    pins::NODE_PACKAGES.iter().map(|package| package.name).collect()
}

/// The programs of a node that are Debian's own, unpacked under `root/` of the part.
pub(crate) fn node_programs() -> Result<PathBuf> {
    let (name, names) = (name(), package_names());
    let part = Part { name: &name, recipe: &names.join("\n") };
    if let Some(folder) = part.ready()? {
        return Ok(folder.join("root"));
    }
    println!("cluster: fetching {} packages of Debian {}", names.len(), pins::DEBIAN_SUITE);
    let made = part.make(|folder| {
        let work = tempfile::Builder::new().prefix("culvert-apt-").tempdir()?;
        let apt = Apt::new(work.path())?;
        apt.download(&names, &work.path().join("packages"))?;
        unpack(&work.path().join("packages"), &folder.join("root"))?;
        link_iptables(&folder.join("root"))
    })?;
    Ok(made.join("root"))
}

/// What Debian's alternatives would link: `iptables` speaks to nftables.
fn link_iptables(root: &Path) -> Result<()> {
    let sbin = root.join("usr/sbin");
    for name in ["iptables", "ip6tables"] {
        for tail in ["", "-save", "-restore"] {
            let link = sbin.join(format!("{name}{tail}"));
            if link.symlink_metadata().is_ok() {
                std::fs::remove_file(&link)?;
            }
            std::os::unix::fs::symlink("xtables-nft-multi", link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_the_machines_own_and_the_suite_is_ours() {
        let text = sources(
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\n\nTypes: deb\nURIs: http://mirror.example/debian-security\n",
        );
        assert!(text.contains("URIs: http://mirror.example/debian\nSuites: bookworm\n"));
        assert!(text.contains("URIs: http://mirror.example/debian-security\nSuites: bookworm-security\n"));
        assert!(!text.contains("trixie"));
        assert!(sources("").contains("URIs: http://deb.debian.org/debian\nSuites: bookworm-updates\n"));
    }
}
