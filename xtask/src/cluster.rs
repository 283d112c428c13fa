//! `cargo xtask cluster`: a real Kubernetes on this machine, in namespaces of its own.
//!
//! Why and how: docs/decisions/0006-test-cluster.md.

mod cache;
mod cgroups;
mod contents;
mod debian;
pub(crate) mod fixed;
mod helm;
mod image;
mod inside;
mod kubernetes;
pub(crate) mod life;
mod machines;
pub(crate) mod manifests;
mod network;
pub(crate) mod place;
mod plan;
mod ready;
mod root;
mod secrets;
pub(crate) mod suite;
mod supervise;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::tools::Consent;
use place::Place;

/// Names the cluster where `--name` does not.
pub(crate) const NAME: &str = "CULVERT_CLUSTER_NAME";

/// What to do with which cluster.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Which cluster; several can be up at a time.
    #[arg(long, global = true, env = NAME, default_value = "culvert")]
    name: String,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Makes the cluster and prints its kubeconfig's path.
    Up(life::Kind),
    /// Makes it when it is not up, installs culvert by its chart and runs the tests that need a real Kubernetes.
    Test(suite::Wanted),
    /// Builds culvert's images and gives them to both nodes.
    Images {
        /// Take the programs from here instead of building them.
        #[arg(long, value_name = "DIR")]
        programs: Option<std::path::PathBuf>,
    },
    /// Prints what a shell needs to use it: `eval "$(cargo xtask cluster env)"` sets KUBECONFIG, and PATH to kubectl, helm
    /// and culvert's programs.
    Env,
    /// Ends it and removes everything of it.
    Down,
    /// Says what is up.
    Status,
    /// Runs a program on a machine: control, node1 or node2.
    Exec {
        /// The machine.
        machine: String,
        /// Program and arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Stops, kills, starts a machine or one component of it.
    Tell {
        /// What to do.
        action: supervise::Action,
        /// The machine.
        machine: String,
        /// The component, as `status` names it; the whole machine when left out.
        component: Option<String>,
    },
    /// The cluster's own processes.
    #[command(hide = true)]
    Inside {
        #[command(subcommand)]
        stage: inside::Stage,
    },
}

pub(crate) fn run(arguments: &Arguments, consent: Consent) -> Result<()> {
    let place = Place::new(&arguments.name)?;
    match &arguments.task {
        Task::Up(kind) => life::up(&place, *kind, consent),
        Task::Test(wanted) => suite::run(&place, wanted, consent),
        Task::Images { programs } => life::images(&place, programs.clone(), consent).map(drop),
        Task::Env => life::env(&place),
        Task::Down => life::down(&place),
        Task::Status => life::status(&place),
        Task::Exec { machine, command } => life::exec(&place, machine, command),
        Task::Tell { action, machine, component } => tell(&place, *action, machine, component.as_deref()),
        Task::Inside { stage } => inside::run(stage),
    }
}

/// Ends the cluster, if it is up.
pub(crate) fn end(place: &Place) -> Result<()> {
    life::down(place)
}

fn tell(place: &Place, action: supervise::Action, machine: &str, component: Option<&str>) -> Result<()> {
    let (socket, name) = match component {
        Some(component) => (place.socket(machine), component),
        None => (place.socket(inside::SANDBOX), machine),
    };
    supervise::ask(&socket, action, name).map(drop)
}
