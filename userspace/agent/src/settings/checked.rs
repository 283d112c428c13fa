//! Settings that can be used: typed, and consistent with each other.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use culvert_identity::TrustDomain;

use super::{node::NodeSettings, raw::Run};

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What an agent needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this node.
    pub node: Arc<str>,
    /// The control plane's gRPC address.
    pub control: SocketAddr,
    /// PEM file of the control plane's root.
    pub control_root: PathBuf,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Single-use token of the first start.
    pub join_token_file: Option<PathBuf>,
    /// `--control-token-file`.
    pub control_token_file: Option<PathBuf>,
    /// The agent's own folder.
    pub run_dir: PathBuf,
    /// Mount point of bpffs.
    pub bpffs: PathBuf,
    /// Address of `/metrics` and `/healthz/ready`.
    pub metrics: SocketAddr,
    /// Most series of the TCP metrics; 0 switches them off.
    pub metrics_series: usize,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Filter of the log.
    pub log: String,
    /// Log steering decisions.
    pub ebpf_log: bool,
    /// Threads that carry connections; at least 1.
    pub workers: usize,
    /// Most connections at once; at least 1.
    pub max_connections: usize,
    /// Longest life of a tunnel.
    pub max_connection_age: Option<Duration>,
    /// Life of the SVIDs that are asked for.
    pub svid_life: Duration,
    /// Longest wait for open connections at the end.
    pub drain: Duration,
    /// What the agent does on a Kubernetes node.
    pub on_node: NodeSettings,
    /// Withdraw all pods at the end.
    pub withdraw_on_exit: bool,
}

/// One thing that is wrong with a setting, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The flag, such as `--node`.
    pub setting: &'static str,
    /// What is wrong and what is expected.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.text)
    }
}

/// Collects faults, so that the operator sees all of them at once.
pub(super) struct Checker(Vec<Fault>);

impl Settings {
    /// Checks every setting; all faults are returned together. Touches no file.
    pub fn check(raw: &Run) -> Result<Self, Vec<Fault>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut check = Checker(Vec::new());
        let settings = (|| {
            let node = check.read("--node", required(&raw.node), node_name);
            let control = check.read("--control", required(&raw.control), control_address);
            let control_root = check.read("--control-root", required(&raw.control_root), path);
            let trust_domain = check.read("--trust-domain", or(&raw.trust_domain, "cluster.local"), trust_domain);
            let join_token_file = check.maybe("--join-token-file", &raw.join_token_file, path);
            let control_token_file = check.maybe("--control-token-file", &raw.control_token_file, path);
            let run_dir = check.read("--run-dir", or(&raw.run_dir, "/run/culvert"), absolute);
            let bpffs = check.read("--bpffs", or(&raw.bpffs, "/sys/fs/bpf"), absolute);
            let metrics = check.read("--metrics", or(&raw.metrics, "0.0.0.0:15020"), address);
            let metrics_series =
                check.read("--metrics-series", or(&raw.metrics_series, "10000"), number(0, 10_000_000));
            let log_format = check.read("--log-format", or(&raw.log_format, "text"), log_format);
            let log = check.read("--log", or(&raw.log, "info"), log_filter);
            let workers = check.maybe("--workers", &raw.workers, number(1, 1024));
            let max_connections =
                check.read("--max-connections", or(&raw.max_connections, "16384"), number(1, 1_000_000));
            let max_connection_age = check.maybe("--max-connection-age", &raw.max_connection_age, duration);
            let svid_life = check.read("--svid-life", or(&raw.svid_life, "1h"), svid_life);
            let drain = check.read("--drain", or(&raw.drain, "5s"), duration);
            let on_node = NodeSettings::check(&mut check, raw);
            Some(Self {
                node: node?,
                control: control?,
                control_root: control_root?,
                trust_domain: trust_domain?,
                join_token_file: join_token_file?,
                control_token_file: control_token_file?,
                run_dir: run_dir?,
                bpffs: bpffs?,
                metrics: metrics?,
                metrics_series: metrics_series?,
                log_format: log_format?,
                log: log?,
                ebpf_log: raw.ebpf_log,
                workers: workers?.unwrap_or(cores),
                max_connections: max_connections?,
                max_connection_age: max_connection_age?,
                svid_life: svid_life?,
                drain: drain?,
                on_node: on_node?,
                withdraw_on_exit: raw.withdraw_on_exit,
            })
        })();
        settings.ok_or(check.0)
    }

    /// The socket that CNI plugins (and the lab) talk to.
    pub fn enrol_socket(&self) -> PathBuf {
        self.run_dir.join("enrol.sock")
    }

    /// The list that the CNI plugin reads when the API server does not answer.
    pub fn known_list(&self) -> PathBuf {
        self.run_dir.join("known.json")
    }

    /// The socket that `culvert` talks to.
    pub fn admin_socket(&self) -> PathBuf {
        self.run_dir.join("admin.sock")
    }
}

impl Checker {
    pub(super) fn read<T>(
        &mut self,
        setting: &'static str,
        text: Result<&str, String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        text.and_then(parse).map_err(|text| self.0.push(Fault { setting, text })).ok()
    }

    pub(super) fn maybe<T>(
        &mut self,
        setting: &'static str,
        text: &Option<String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match text {
            None => Some(None),
            Some(text) => self.read(setting, Ok(text), parse).map(Some),
        }
    }
}

impl Checker {
    /// One more fault, in place of a value.
    pub(super) fn fault<T>(&mut self, setting: &'static str, text: &str) -> Option<T> {
        self.0.push(Fault { setting, text: text.to_owned() });
        None
    }
}

fn required(text: &Option<String>) -> Result<&str, String> {
    text.as_deref().ok_or_else(|| "is required".to_owned())
}

pub(super) fn or<'a>(text: &'a Option<String>, default: &'a str) -> Result<&'a str, String> {
    Ok(text.as_deref().unwrap_or(default))
}

fn node_name(text: &str) -> Result<Arc<str>, String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if text.len() <= 253 && bytes.iter().all(|b| good(*b)) && ends(bytes.first()) && ends(bytes.last()) {
        return Ok(text.into());
    }
    Err(format!("\"{text}\" is not a node name (lower-case letters, digits, \"-\" and \".\", at most 253)"))
}

fn control_address(text: &str) -> Result<SocketAddr, String> {
    let remedy = "give https://IP:PORT, such as https://10.0.0.1:15012";
    let Some(rest) = text.strip_prefix("https://") else {
        return Err(format!("\"{text}\" does not begin with https://; {remedy}"));
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    bracketed(authority).parse().map_err(|_| format!("\"{authority}\" is not an IP address and a port; {remedy}"))
}

/// `fd00::1:443` as `[fd00::1]:443`: Kubernetes puts a Service's IPv6 address into the environment without brackets.
pub(super) fn bracketed(authority: &str) -> String {
    match authority.rsplit_once(':') {
        Some((ip, port)) if ip.parse::<Ipv6Addr>().is_ok() => format!("[{ip}]:{port}"),
        _ => authority.to_owned(),
    }
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| format!("\"{text}\" is not a trust domain: {error}"))
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

pub(super) fn absolute(text: &str) -> Result<PathBuf, String> {
    if Path::new(text).is_absolute() {
        Ok(PathBuf::from(text))
    } else {
        Err(format!("\"{text}\" is not an absolute path"))
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not an IP address and a port, such as 127.0.0.1:15020"))
}

fn number(low: usize, high: usize) -> impl FnOnce(&str) -> Result<usize, String> {
    move |text| match text.parse::<usize>() {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ => Err(format!("\"{text}\" is not a number from {low} to {high}")),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("\"{text}\" is neither text nor json")),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    match text.parse::<tracing_subscriber::filter::EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("\"{text}\" is not a log filter: {error}")),
    }
}

/// Renewal needs some seconds, and a long life is what short-lived certificates are there to avoid.
fn svid_life(text: &str) -> Result<Duration, String> {
    let life = duration(text)?;
    if (Duration::from_secs(10)..=Duration::from_secs(24 * 3600)).contains(&life) {
        return Ok(life);
    }
    Err(format!("\"{text}\" is not from 10s to 24h"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match &text[digits..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let millis = unit.and_then(|unit: u64| text[..digits].parse::<u64>().ok()?.checked_mul(unit));
    match millis {
        Some(millis) if millis > 0 => Ok(Duration::from_millis(millis)),
        _ => Err(format!("\"{text}\" is not a duration, such as 500ms, 30s, 5m or 1h")),
    }
}
