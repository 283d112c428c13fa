//! The cluster's cgroups: one folder in each hierarchy that the machine has mounted, v1, v2 or both.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};

const BASE: &str = "/sys/fs/cgroup";

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    at: PathBuf,
    /// `None` is version 2; otherwise what to mount it with again.
    v1: Option<String>,
}

impl Hierarchy {
    fn has_cpuset(&self) -> bool {
        self.v1.as_ref().is_some_and(|options| options.split(',').any(|option| option == "cpuset"))
    }
}

/// What a mount says of itself besides its controllers.
const NOT_CONTROLLERS: &[&str] = &["rw", "ro", "relatime", "nosuid", "nodev", "noexec", "xattr", "clone_children"];

fn hierarchies(mounts: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, at, kind, options, ..] = words.as_slice() else { continue };
        if !at.starts_with(BASE) {
            continue;
        }
        let controllers = options.split(',').filter(|option| !NOT_CONTROLLERS.contains(option));
        let controllers: Vec<&str> = controllers.filter(|option| !option.starts_with("release_agent=")).collect();
        match *kind {
            "cgroup2" => found.push(Hierarchy { at: PathBuf::from(at), v1: None }),
            "cgroup" => found.push(Hierarchy { at: PathBuf::from(at), v1: Some(controllers.join(",")) }),
            _ => {}
        }
    }
    found
}

fn mounted() -> Result<Vec<Hierarchy>> {
    let found = hierarchies(&std::fs::read_to_string("/proc/self/mounts")?);
    if found.is_empty() {
        bail!("no cgroup file system is mounted under {BASE}: kubelet needs one");
    }
    Ok(found)
}

/// Moves this process into the cgroup `name` of each hierarchy, made where it is not there.
pub(crate) fn join(name: &str) -> Result<()> {
    for hierarchy in mounted()? {
        let mut folder = hierarchy.at.clone();
        for step in Path::new(name) {
            let above = folder.clone();
            folder.push(step);
            if let Err(error) = std::fs::create_dir(&folder)
                && error.kind() != std::io::ErrorKind::AlreadyExists
            {
                return Err(error).with_context(|| format!("cannot make the cgroup {}", folder.display()));
            }
            if hierarchy.has_cpuset() {
                inherit_cpuset(&above, &folder)?;
            }
            if hierarchy.v1.is_none() {
                pass_controllers_on(&above);
            }
        }
        enter(&folder)?;
    }
    Ok(())
}

fn enter(folder: &Path) -> Result<()> {
    std::fs::write(folder.join("cgroup.procs"), "0").with_context(|| format!("cannot enter {}", folder.display()))
}

/// A new cpuset of version 1 is empty and takes nobody in.
fn inherit_cpuset(above: &Path, folder: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if std::fs::read_to_string(folder.join(file))?.trim().is_empty() {
            std::fs::write(folder.join(file), std::fs::read(above.join(file))?)?;
        }
    }
    Ok(())
}

/// Version 2: what a cgroup has, its children may have. One that cannot be passed on is no fault: a hybrid machine
/// has its controllers in version 1.
fn pass_controllers_on(folder: &Path) {
    let controllers = std::fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = std::fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Mounts the hierarchies anew under `root`, as this process's cgroup namespace sees them, and makes room for pods.
pub(crate) fn mount_own(root: &Path) -> Result<()> {
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let all = mounted()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if !all.iter().any(|hierarchy| hierarchy.at == Path::new(BASE)) {
        let base = below(Path::new(BASE));
        mount(Some("tmpfs"), &base, Some("tmpfs"), flags, Some("mode=755")).context("cannot mount cgroup's tmpfs")?;
    }
    for hierarchy in all {
        let at = below(&hierarchy.at);
        std::fs::create_dir_all(&at)?;
        let kind = if hierarchy.v1.is_some() { "cgroup" } else { "cgroup2" };
        mount(Some(kind), &at, Some(kind), flags, hierarchy.v1.as_deref())
            .with_context(|| format!("cannot mount {kind} {:?}", hierarchy.v1))?;
        if hierarchy.v1.is_none() {
            // A cgroup of version 2 has either processes or children with controllers.
            let own = at.join("init.scope");
            std::fs::create_dir_all(&own)?;
            enter(&own)?;
            pass_controllers_on(&at);
        } else {
            link_each_controller(&at)?;
        }
    }
    Ok(())
}

/// `cpu,cpuacct` is found as `cpu` and as `cpuacct` as well.
fn link_each_controller(at: &Path) -> Result<()> {
    let name = at.file_name().context("a name")?.to_string_lossy().into_owned();
    if name.contains(',') {
        for controller in name.split(',') {
            let link = at.with_file_name(controller);
            if link.symlink_metadata().is_err() {
                std::os::unix::fs::symlink(&name, link)?;
            }
        }
    }
    Ok(())
}

/// The cgroup2 folder for one component of a machine, made; components are told apart by it as by systemd's units.
pub(crate) fn for_component(name: &str) -> Result<Option<PathBuf>> {
    for hierarchy in mounted()? {
        if hierarchy.v1.is_none() {
            let folder = hierarchy.at.join("system.slice").join(format!("{name}.service"));
            std::fs::create_dir_all(&folder)?;
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

/// Removes the cgroup `name` with everything below from each hierarchy. Its processes must have ended; the kernel needs a
/// moment to forget them.
pub(crate) fn remove(name: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    for hierarchy in mounted()? {
        let folder = hierarchy.at.join(name);
        while let Err(error) = remove_tree(&folder) {
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("cannot remove the cgroup {}", folder.display()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(folder)
}

/// Those hierarchies that still have the cgroup `name`.
pub(crate) fn left_over(name: &str) -> Result<Vec<PathBuf>> {
    let folders = mounted()?.into_iter().map(|hierarchy| hierarchy.at.join(name));
    Ok(folders.filter(|folder| folder.exists()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_read_from_the_mounts() {
        let found = hierarchies(
            "cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0\n\
             cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,release_agent=/x,name=systemd 0 0\n\
             cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n\
             cgroup2 /elsewhere cgroup2 rw 0 0\n",
        );
        let v1: Vec<Option<&str>> = found.iter().map(|hierarchy| hierarchy.v1.as_deref()).collect();
        assert_eq!(v1, [Some("cpuset"), Some("name=systemd"), None]);
        assert!(found[0].has_cpuset() && !found[1].has_cpuset() && !found[2].has_cpuset());
    }
}
