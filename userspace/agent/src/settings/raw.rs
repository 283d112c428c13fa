//! What the operator typed: flags and environment, as text. Nothing is judged here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The node agent of culvert.
///
/// Of a flag that is given twice the last one counts: the chart's `agent.extraArgs` come after its own.
#[derive(Debug, Parser)]
#[command(name = "culvert-agent", version, args_conflicts_with_subcommands = true, args_override_self = true)]
pub struct Cli {
    /// A small client of a running agent; without one the agent itself runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The agent's settings.
    #[command(flatten)]
    pub run: Run,
}

/// Clients of the enrolment socket.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring a pod under culvert; returns once it is captured and has its identity.
    Enrol {
        /// The agent's enrolment socket.
        #[arg(long, value_name = "FILE")]
        socket: String,
        /// The pod's UID.
        #[arg(long)]
        uid: String,
        /// The pod's network namespace, such as /run/netns/NAME or /proc/PID/ns/net.
        #[arg(long, value_name = "FILE")]
        netns: String,
    },
    /// Let a pod go: its traffic is its own again.
    Withdraw {
        /// The agent's enrolment socket.
        #[arg(long, value_name = "FILE")]
        socket: String,
        /// The pod's UID.
        #[arg(long)]
        uid: String,
    },
    /// Leave this node for good: CNI configuration and plugin, pins, the run directory. Through the running agent if
    /// there is one.
    Uninstall(Uninstall),
}

/// What is to be taken away.
#[derive(Debug, Clone, Args)]
pub struct Uninstall {
    /// Name of this node.
    #[arg(long, env = "CULVERT_NODE", value_name = "NAME")]
    pub node: String,
    /// The agent's folder.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = "/run/culvert")]
    pub run_dir: PathBuf,
    /// Where bpffs is mounted.
    #[arg(long, env = "CULVERT_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Where the node's procfs is mounted.
    #[arg(long, env = "CULVERT_HOST_PROC", value_name = "DIR", default_value = "/proc")]
    pub host_proc: PathBuf,
    /// The runtime's folder of CNI plugins.
    #[arg(long, env = "CULVERT_CNI_BIN_DIR", value_name = "DIR")]
    pub cni_bin_dir: Option<PathBuf>,
    /// The runtime's folder of CNI configurations.
    #[arg(long, env = "CULVERT_CNI_CONF_DIR", value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
}

/// Settings of the agent, as text.
#[derive(Debug, Clone, Default, Args)]
pub struct Run {
    /// Name of this node, as in `spec.nodeName` of its pods.
    #[arg(long, env = "CULVERT_NODE", value_name = "NAME")]
    pub node: Option<String>,
    /// The control plane, an IP address and a port.
    #[arg(long, env = "CULVERT_CONTROL", value_name = "https://IP:PORT")]
    pub control: Option<String>,
    /// PEM file with the root that the control plane's certificate must lead to.
    #[arg(long, env = "CULVERT_CONTROL_ROOT", value_name = "FILE")]
    pub control_root: Option<String>,
    /// The mesh's trust domain: the control plane must prove `spiffe://TD/culvert/control`.
    #[arg(long, env = "CULVERT_TRUST_DOMAIN", value_name = "TD", default_value = "cluster.local")]
    pub trust_domain: Option<String>,
    /// File with the node's join token; needed for the first start on a node.
    #[arg(long, env = "CULVERT_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub join_token_file: Option<String>,
    /// File with the agent's own projected service account token, where the control plane runs in a cluster; goes before
    /// the join token.
    #[arg(long, env = "CULVERT_CONTROL_TOKEN_FILE", value_name = "FILE")]
    pub control_token_file: Option<String>,
    /// Folder of this agent alone (made with mode 0700): sockets, node certificate, the book of pods.
    #[arg(long, env = "CULVERT_RUN_DIR", value_name = "DIR", default_value = "/run/culvert")]
    pub run_dir: Option<String>,
    /// Where bpffs is mounted.
    #[arg(long, env = "CULVERT_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: Option<String>,
    /// Address of /metrics and /healthz/ready.
    #[arg(long, env = "CULVERT_METRICS", value_name = "ADDR:PORT", default_value = "0.0.0.0:15020")]
    pub metrics: Option<String>,
    /// Most series that the per-connection metrics may have; what is beyond is counted under "other"; 0 switches them off.
    #[arg(long, env = "CULVERT_METRICS_SERIES", value_name = "N", default_value = "10000")]
    pub metrics_series: Option<String>,
    /// Form of the log.
    #[arg(long, env = "CULVERT_LOG_FORMAT", value_name = "text|json", default_value = "text")]
    pub log_format: Option<String>,
    /// What is logged, in the form of `tracing`'s filters.
    #[arg(long, env = "CULVERT_LOG", value_name = "FILTER", default_value = "info")]
    pub log: Option<String>,
    /// Log the steering decisions of the eBPF programs.
    #[arg(long)]
    pub ebpf_log: bool,
    /// Threads that carry connections; the machine's cores when unset.
    #[arg(long, env = "CULVERT_WORKERS", value_name = "N")]
    pub workers: Option<String>,
    /// Most connections at once; beyond it new ones wait in the kernel's backlog.
    #[arg(long, env = "CULVERT_MAX_CONNECTIONS", value_name = "N", default_value = "16384")]
    pub max_connections: Option<String>,
    /// Longest life of a tunnel, such as 30m; unlimited when unset.
    #[arg(long, env = "CULVERT_MAX_CONNECTION_AGE", value_name = "DURATION")]
    pub max_connection_age: Option<String>,
    /// Life of the SVIDs that are asked for; the CA may give less. They are renewed at half of it.
    #[arg(long, env = "CULVERT_SVID_LIFE", value_name = "DURATION", default_value = "1h")]
    pub svid_life: Option<String>,
    /// Longest wait for open connections when the agent stops.
    #[arg(long, env = "CULVERT_DRAIN", value_name = "DURATION", default_value = "5s")]
    pub drain: Option<String>,
    /// cgroup2 folder of the kubelet, whose probes pass, or "auto"; without it probes are judged like other plaintext.
    #[arg(long, env = "CULVERT_KUBELET_CGROUP", value_name = "DIR|auto")]
    pub kubelet_cgroup: Option<String>,
    /// Where the node's cgroups are mounted, for --kubelet-cgroup auto.
    #[arg(long, env = "CULVERT_HOST_CGROUP", value_name = "DIR", default_value = "/sys/fs/cgroup")]
    pub host_cgroup: Option<String>,
    /// Where the node's procfs is mounted.
    #[arg(long, env = "CULVERT_HOST_PROC", value_name = "DIR", default_value = "/proc")]
    pub host_proc: Option<String>,
    /// Take the pods of this node that run already and that the control plane says are enrolled.
    #[arg(long, env = "CULVERT_DISCOVER_PODS")]
    pub discover_pods: bool,
    /// Socket of culvert-keeper, which holds the pods' listeners while no agent runs.
    #[arg(long, env = "CULVERT_KEEPER", value_name = "FILE")]
    pub keeper: Option<String>,
    /// The runtime's folder of CNI plugins; culvert-cni is kept there.
    #[arg(long, env = "CULVERT_CNI_BIN_DIR", value_name = "DIR")]
    pub cni_bin_dir: Option<String>,
    /// The runtime's folder of CNI configurations; culvert's is kept there.
    #[arg(long, env = "CULVERT_CNI_CONF_DIR", value_name = "DIR")]
    pub cni_conf_dir: Option<String>,
    /// The folder of configurations by its path on the node, where it is mounted elsewhere here.
    #[arg(long, env = "CULVERT_CNI_CONF_DIR_ON_NODE", value_name = "DIR")]
    pub cni_conf_dir_on_node: Option<String>,
    /// The plugin to install; culvert-cni beside this program when unset.
    #[arg(long, env = "CULVERT_CNI_PLUGIN", value_name = "FILE")]
    pub cni_plugin: Option<String>,
    /// Namespaces whose pods are never held back, separated by commas.
    #[arg(long, env = "CULVERT_CNI_EXCLUDE_NAMESPACES", value_name = "LIST", default_value = "kube-system")]
    pub cni_exclude_namespaces: Option<String>,
    /// The API server, as the node's own processes reach it, for the plugin.
    #[arg(long, env = "CULVERT_CNI_API_SERVER", value_name = "https://HOST:PORT")]
    pub cni_api_server: Option<String>,
    /// PEM file with the API server's root.
    #[arg(long, env = "CULVERT_CNI_API_ROOT", value_name = "FILE")]
    pub cni_api_root: Option<String>,
    /// File with a token that may get pods and namespaces and nothing else.
    #[arg(long, env = "CULVERT_CNI_API_TOKEN_FILE", value_name = "FILE")]
    pub cni_api_token_file: Option<String>,
    /// For the plugin, istio.io/dataplane-mode counts like culvert.dev/enroll.
    #[arg(long, env = "CULVERT_ISTIO_LABELS")]
    pub istio_labels: bool,
    /// Withdraw all pods when the agent stops, instead of leaving them closed.
    #[arg(long)]
    pub withdraw_on_exit: bool,
}
