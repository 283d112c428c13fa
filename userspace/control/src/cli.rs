//! The command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use culvert_identity::TrustDomain;
use culvert_workload::{ActionDefault, MtlsDefault};
use ipnet::IpNet;

/// Exit codes (after `sysexits.h`).
pub mod exit {
    /// All is well.
    pub const OK: u8 = 0;
    /// `check` found errors.
    pub const FOUND_ERRORS: u8 = 1;
    /// A setting is wrong.
    pub const USAGE: u8 = 64;
    /// The directory, the state folder or an address cannot be used; the message says which.
    pub const UNAVAILABLE: u8 = 69;
}

/// The control plane: reads a directory of Kubernetes and Istio YAML, serves agents, signs identities.
///
/// Without a command it serves: `culvert-control --manifests DIR --state DIR --listen ADDR:PORT`.
#[derive(Debug, Parser)]
#[command(name = "culvert-control", version)]
pub struct Cli {
    #[command(subcommand)]
    /// What to do.
    pub command: Command,
}

impl Cli {
    /// Reads the arguments of the process; where the first one is a flag, `serve` is meant.
    pub fn from_process() -> Result<Self, clap::Error> {
        Self::of(std::env::args_os().collect())
    }

    /// Reads arguments, the program's name first.
    pub fn of(mut arguments: Vec<OsString>) -> Result<Self, clap::Error> {
        let first = arguments.get(1).and_then(|first| first.to_str()).unwrap_or_default();
        if first.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&first) {
            arguments.insert(1, "serve".into());
        }
        let mut cli = Self::try_parse_from(arguments)?;
        if let Command::Check { folder, mesh } = &mut cli.command
            && let Some(folder) = folder.take()
        {
            mesh.manifests = Some(folder);
        }
        let (needed, given) = match &cli.command {
            Command::Serve(run) => (run.source == SourceKind::Directory, run.mesh.manifests.is_some()),
            Command::Check { mesh, .. } => (true, mesh.manifests.is_some()),
            Command::Token { .. } | Command::RotateRoot { .. } | Command::Ca(_) => (false, false),
        };
        match (needed, given) {
            (true, false) => Err(Self::command().error(ErrorKind::MissingRequiredArgument, "--manifests is missing")),
            (false, true) => {
                Err(Self::command().error(ErrorKind::ArgumentConflict, "--manifests goes with --source directory only"))
            }
            _ => Ok(cli),
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve agents; what is done when no command is named.
    Serve(Run),
    /// Print a single-use join token for a node. It is good for one hour and replaces an earlier one.
    Token {
        /// The node's name, as in `spec.nodeName` of its pods.
        node: String,
        /// State folder of the control plane.
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
    },
    /// Let another root follow that of a state folder. The control plane that serves the folder announces the new one,
    /// signs with it when agents know it, and lets the old one go when nothing under it is left. Give `root.pem` to the
    /// nodes again while it is announced: agents hold the control plane's certificate against their own copy.
    RotateRoot {
        /// State folder of the control plane.
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        /// How long the new root is announced at least, in seconds.
        #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = parse_seconds)]
        hold: Duration,
        /// How long the old root stays once the new one signs, in seconds: longer than any certificate lives.
        #[arg(long, value_name = "SECONDS", default_value = "90000", value_parser = parse_seconds)]
        retire: Duration,
    },
    /// Make the CA's Secrets in a cluster where they are missing, and a new issuing key where it is time.
    Ca(CaArgs),
    /// Read a directory, print every complaint, and say whether there are errors (exit code 1).
    Check {
        /// Directory of Kubernetes and Istio YAML; the same as `--manifests`.
        #[arg(value_name = "DIR", conflicts_with = "manifests")]
        folder: Option<PathBuf>,
        #[command(flatten)]
        /// What to read.
        mesh: MeshArgs,
    },
}

/// What is served.
#[derive(Debug, Clone, Args)]
pub struct MeshArgs {
    /// Directory of Kubernetes and Istio YAML. Needed unless `--source kube`.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Trust domain; fixed by the first start. Default: the Mesh object's, else cluster.local.
    #[arg(long, value_name = "NAME", value_parser = parse_trust_domain)]
    pub trust_domain: Option<TrustDomain>,
    /// What plaintext peers may do where no PeerAuthentication says anything. Default: the Mesh object's, else permissive.
    #[arg(long, value_name = "MODE")]
    pub default_mode: Option<Mode>,
    /// What happens where no AuthorizationPolicy says anything. Default: the Mesh object's, else allow.
    #[arg(long, value_name = "ACTION")]
    pub default_action: Option<Action>,
    /// A range of pod or service addresses, in addition to those of the Mesh object and of the nodes.
    #[arg(long = "cluster-range", value_name = "CIDR")]
    pub cluster_ranges: Vec<IpNet>,
}

/// Serving.
#[derive(Debug, Clone, Args)]
pub struct Run {
    #[command(flatten)]
    /// What is served.
    pub mesh: MeshArgs,
    /// Where manifests come from.
    #[arg(long, value_enum, default_value_t = SourceKind::Directory)]
    pub source: SourceKind,
    #[command(flatten)]
    /// The API server.
    pub kube: KubeArgs,
    /// State folder (0700): keys, tokens, last good state, audit.log, root.pem.
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Where agents call.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Where metrics and readiness are served.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Unix socket for status and complaints.
    #[arg(long, value_name = "PATH")]
    pub admin: Option<PathBuf>,
    /// Form of the log.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Life of leaves and node certificates where an agent does not ask for another, in seconds (10 to 86400).
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = parse_leaf_life)]
    pub leaf_life: Duration,
    /// In a mesh of more pods than this, nodes are sent their own pods and those that they ask for, instead of all.
    #[arg(long, value_name = "PODS", default_value = "2000")]
    pub whole_up_to: usize,
}

/// `--source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SourceKind {
    /// A directory of YAML.
    Directory,
    /// The API server.
    Kube,
}

/// The API server, and culvert's own place in it. Only with `--source kube`.
#[derive(Debug, Clone, Args)]
pub struct KubeArgs {
    /// How to reach the API server. Default: as the service account of the pod that this runs in.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of culvert's own objects: Secrets, Lease, the agents and their service account.
    #[arg(long, value_name = "NAME", env = "CULVERT_NAMESPACE", default_value = "culvert-system")]
    pub namespace: String,
    /// The agents' service account, in that namespace. Nobody else is served.
    #[arg(long, value_name = "NAME", default_value = "culvert-agent")]
    pub agent_service_account: String,
    /// The audience that agents' tokens must be bound to.
    #[arg(long, value_name = "NAME", default_value = "culvert-control")]
    pub token_audience: String,
    /// The Secret with the issuing key: tls.key, tls.crt, ca.crt.
    #[arg(long, value_name = "NAME", default_value = "culvert-issuing")]
    pub issuing_secret: String,
    /// The ConfigMap that shows the roots, in its entry root.pem.
    #[arg(long, value_name = "NAME", default_value = "culvert-root")]
    pub root_config_map: String,
    /// Seconds that an issuing key under a new root waits at least until it signs.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = parse_hold)]
    pub root_hold: Duration,
    /// Where the admission webhook is served, at /validate. Default: it is not.
    #[arg(long, value_name = "ADDR:PORT")]
    pub webhook: Option<SocketAddr>,
    /// The Service by which the API server asks the webhook: its certificate is for NAME.NAMESPACE.svc.
    #[arg(long, value_name = "NAME", default_value = "culvert-control")]
    pub webhook_service: String,
    /// The ValidatingWebhookConfiguration whose caBundle is kept.
    #[arg(long, value_name = "NAME", default_value = "culvert")]
    pub webhook_configuration: String,
    /// Take istio.io/dataplane-mode: ambient and none for culvert.dev/enroll: "true" and "false".
    #[arg(long)]
    pub istio_labels: bool,
    /// Take the taint culvert.dev/agent-not-ready off each node whose agent is ready.
    #[arg(long)]
    pub startup_taint: bool,
}

/// The job that looks after the CA's keys in a cluster.
#[derive(Debug, Clone, Args)]
pub struct CaArgs {
    #[command(flatten)]
    /// The API server.
    pub kube: KubeArgs,
    /// The Secret with the root key: tls.key, tls.crt. Nobody but this job needs to read it.
    #[arg(long, value_name = "NAME", default_value = "culvert-root-key")]
    pub root_secret: String,
    /// Trust domain of new keys. Default: cluster.local.
    #[arg(long, value_name = "NAME", value_parser = parse_trust_domain)]
    pub trust_domain: Option<TrustDomain>,
    /// A new issuing key in any case.
    #[arg(long)]
    pub force: bool,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// `--default-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Plaintext is let in.
    Permissive,
    /// Plaintext is refused.
    Strict,
}

/// `--default-action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Let in.
    Allow,
    /// Refused.
    Deny,
}

impl From<Mode> for MtlsDefault {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Permissive => Self::Permissive,
            Mode::Strict => Self::Strict,
        }
    }
}

impl From<Action> for ActionDefault {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allow,
            Action::Deny => Self::Deny,
        }
    }
}

fn parse_trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}

fn parse_hold(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "not a number of seconds".to_owned())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "not a number of seconds".to_owned())
}

fn parse_leaf_life(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 10..=86400) => Ok(Duration::from_secs(seconds)),
        _ => Err("not a number of seconds from 10 to 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags of a command, in their order, without those that others document.
    fn flags<A: Args>() -> Vec<String> {
        let command = A::augment_args(clap::Command::new("x"));
        command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?))).collect()
    }

    #[test]
    fn the_settings_of_the_api_servers_source_are_those_of_the_page() {
        let page = include_str!("../../../docs/control-plane.md");
        let rows = page.lines().skip_while(|line| *line != "### Settings").take_while(|line| *line != "### Rights");
        let flag = |line: &str| Some(line.strip_prefix("| `")?.split([' ', '`']).next()?.to_owned());
        let documented: Vec<String> = rows.filter_map(flag).collect();
        assert_eq!(flags::<KubeArgs>(), documented, "docs/control-plane.md lists the flags in their order");
        for flag in flags::<CaArgs>() {
            assert!(page.contains(&format!("`{flag}`")) || documented.contains(&flag), "{flag} is not documented");
        }
    }

    #[test]
    fn a_source_is_either_a_directory_or_the_api_server() {
        let parse = |words: &str| Cli::of(words.split(' ').map(Into::into).collect());
        assert!(parse("c --state s --listen 127.0.0.1:1 --manifests m").is_ok());
        assert!(parse("c --state s --listen 127.0.0.1:1").is_err());
        for words in ["c check m", "c check --manifests m"] {
            let Command::Check { mesh, .. } = parse(words).unwrap().command else { panic!("{words}") };
            assert_eq!(mesh.manifests.as_deref(), Some("m".as_ref()), "{words}");
        }
        assert!(parse("c check").is_err());
        assert!(parse("c check m --manifests m").is_err());
        assert!(parse("c --state s --listen 127.0.0.1:1 --source kube").is_ok());
        assert!(parse("c --state s --listen 127.0.0.1:1 --source kube --manifests m").is_err());
        assert!(parse("c check").is_err());
    }
}
