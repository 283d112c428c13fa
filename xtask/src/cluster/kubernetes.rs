//! Kubernetes from Debian's source package: the whole upstream tree with its dependencies, built offline with Debian's Go.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::cache::Part;
use crate::cluster::debian::{self, Apt};
use crate::{pins, shell};

/// What is built, in the order in which it is wanted.
const PROGRAMS: &[&str] =
    &["kube-apiserver", "kubectl", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy"];

/// Marks the Go files whose types belong into the OpenAPI description.
const MARK: &str = "// +k8s:openapi-gen=";

/// Version of the steps below; another number builds anew.
const STEPS: u32 = 2;

/// Whether the programs are there already.
pub(crate) fn built() -> Result<bool> {
    Ok(part(&name(), &recipe()).ready()?.is_some())
}

/// The folder with the programs, built when they are not there.
pub(crate) fn programs() -> Result<PathBuf> {
    let (name, recipe) = (name(), recipe());
    let part = part(&name, &recipe);
    if let Some(folder) = part.ready()? {
        return Ok(folder.join("bin"));
    }
    println!("cluster: building Kubernetes {} from Debian's source, once (about 5 minutes)", pins::KUBERNETES);
    let begun = Instant::now();
    let made = part.make(|folder| {
        let work = tempfile::Builder::new().prefix("culvert-kubernetes-").tempdir()?;
        let tree = Tree::fetch(work.path())?;
        tree.newer_reflect2()?;
        tree.describe_types()?;
        PROGRAMS.iter().try_for_each(|program| tree.build(program, &folder.join("bin")))
    })?;
    println!("cluster: Kubernetes {} built in {} s", pins::KUBERNETES, begun.elapsed().as_secs());
    Ok(made.join("bin"))
}

fn name() -> String {
    format!("kubernetes-{}-{}", pins::KUBERNETES, std::env::consts::ARCH)
}

fn recipe() -> String {
    let packages: Vec<&str> = pins::GO_PACKAGES.iter().map(|package| package.name).collect();
    format!("steps {STEPS}\n{}\n{}", packages.join("\n"), PROGRAMS.join("\n"))
}

fn part<'a>(name: &'a str, recipe: &'a str) -> Part<'a> {
    Part { name, recipe }
}

/// The unpacked source, and the Go to build it with.
struct Tree {
    work: PathBuf,
    source: PathBuf,
    go_root: PathBuf,
}

impl Tree {
    fn fetch(work: &Path) -> Result<Tree> {
        let apt = Apt::new(&work.join("apt"))?;
        let packages: Vec<&str> = pins::GO_PACKAGES.iter().map(|package| package.name).collect();
        apt.download(&packages, &work.join("packages"))?;
        debian::unpack(&work.join("packages"), &work.join("root"))?;
        apt.source("kubernetes", &work.join("archive"))?;
        let archive = upstream_archive(&work.join("archive"))?;
        shell::run(shell::program("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(work))?;
        let unpacked = work.join(format!("kubernetes-{}", pins::KUBERNETES));
        ensure!(unpacked.is_dir(), "Debian's source is not Kubernetes {} any more", pins::KUBERNETES);
        let source = work.join("gopath/src/k8s.io/kubernetes");
        std::fs::create_dir_all(source.parent().context("a parent")?)?;
        std::fs::rename(unpacked, &source)?;
        let go_root = work.join("root/usr/lib").join(format!("go-{}", pins::GO));
        Ok(Tree { work: work.to_owned(), source, go_root })
    }

    /// The vendored reflect2 crashes the API server on the first custom object when built with Go 1.18 or newer.
    fn newer_reflect2(&self) -> Result<()> {
        let vendored = self.source.join("vendor/github.com/modern-go/reflect2");
        let newer = self.work.join("root/usr/share/gocode/src/github.com/modern-go/reflect2");
        for file in sources_in(&vendored)? {
            std::fs::remove_file(file)?;
        }
        let mut copied = 0;
        for file in sources_in(&newer)? {
            let name = file.file_name().context("a file name")?;
            if !name.to_string_lossy().ends_with("_test.go") {
                std::fs::copy(&file, vendored.join(name))?;
                copied += 1;
            }
        }
        ensure!(copied > 5, "{} has no Go files", newer.display());
        Ok(())
    }

    /// The one generated file that the source package lacks.
    fn describe_types(&self) -> Result<()> {
        let generator = self.work.join("openapi-gen");
        let path = "k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen";
        shell::run(self.go().args(["build", "-o"]).arg(&generator).arg(path))?;
        let packages = self.described_packages()?;
        ensure!(packages.len() > 50, "only {} packages carry `{MARK}`", packages.len());
        let packages: Vec<String> = packages.into_iter().collect();
        let out = self.work.join("generated");
        let mut generate = self.environment(Command::new(&generator));
        generate.args(["-O", "zz_generated.openapi", "-p", "k8s.io/kubernetes/pkg/generated/openapi"]);
        generate.args(["-h", "hack/boilerplate/boilerplate.generatego.txt", "-r", "/dev/null"]);
        generate.arg("-i").arg(packages.join(",")).arg("-o").arg(&out);
        shell::output(&mut generate)?;
        let file = "pkg/generated/openapi/zz_generated.openapi.go";
        std::fs::copy(out.join("k8s.io/kubernetes").join(file), self.source.join(file))?;
        Ok(())
    }

    fn described_packages(&self) -> Result<BTreeSet<String>> {
        let mut search = Command::new("grep");
        search.args(["--recursive", "--files-with-matches", "--include=*.go", &format!("^{MARK}")]);
        let listed = shell::output(search.args(["pkg", "staging", "vendor/k8s.io"]).current_dir(&self.source))?;
        Ok(listed.lines().filter_map(import_path).collect())
    }

    fn build(&self, program: &str, into: &Path) -> Result<()> {
        let mut flags = String::from("-s -w");
        for library in ["component-base/version", "client-go/pkg/version"] {
            let (key, version) = (format!("k8s.io/kubernetes/vendor/k8s.io/{library}"), pins::KUBERNETES);
            flags.push_str(&format!(" -X {key}.gitVersion=v{version} -X {key}.gitMajor=1 -X {key}.gitMinor=20"));
        }
        let mut build = self.go();
        build.args(["build", "-ldflags", &flags, "-o"]).arg(into.join(program));
        println!("cluster: building {program}");
        shell::run(build.arg(format!("k8s.io/kubernetes/cmd/{program}")))
    }

    fn go(&self) -> Command {
        self.environment(Command::new(self.go_root.join("bin/go")))
    }

    fn environment(&self, mut command: Command) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.go_root.join("bin").display()));
        command.env("GOROOT", &self.go_root).env("GOPATH", self.work.join("gopath"));
        command.env("GOCACHE", self.work.join("go-cache")).env("GO111MODULE", "off");
        command.env("CGO_ENABLED", "0").env("GOPROXY", "off").env_remove("GOFLAGS");
        command.current_dir(&self.source);
        command
    }
}

fn upstream_archive(folder: &Path) -> Result<PathBuf> {
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path();
        if file.to_string_lossy().contains(".orig.tar.") {
            return Ok(file);
        }
    }
    anyhow::bail!("apt fetched no upstream archive into {}", folder.display())
}

fn sources_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "go" || extension == "s") {
            files.push(file);
        }
    }
    Ok(files)
}

/// The import path of a file's package; what lies under `staging` is imported from `vendor`.
fn import_path(file: &str) -> Option<String> {
    let (folder, _) = file.rsplit_once('/')?;
    let folder = match folder.strip_prefix("staging/src/") {
        Some(staged) => format!("vendor/{staged}"),
        None => folder.to_owned(),
    };
    Some(format!("k8s.io/kubernetes/{folder}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_packages_are_imported_from_vendor() {
        let path = |file| import_path(file).unwrap();
        assert_eq!(path("staging/src/k8s.io/api/core/v1/doc.go"), "k8s.io/kubernetes/vendor/k8s.io/api/core/v1");
        assert_eq!(path("pkg/apis/abac/v1beta1/doc.go"), "k8s.io/kubernetes/pkg/apis/abac/v1beta1");
    }
}
