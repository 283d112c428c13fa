//! The network configuration on standard input: foreign bytes.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::failure::{Failure, code};

/// Longest configuration: it contains the results of the plugins before.
pub const MAX_NETCONF: usize = 1 << 20;
/// Versions of the specification that are understood.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The configuration. Keys of culvert's own are documented in docs/node.md.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf<'a> {
    /// Version of the specification.
    #[serde(default)]
    pub cni_version: String,
    /// What the plugins before have made, byte for byte.
    #[serde(borrow, default)]
    pub prev_result: Option<&'a RawValue>,
    /// The agent's enrolment socket.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// How the API server is reached: a kubeconfig in its JSON form, mode 0600.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// What the agent knew last.
    #[serde(default = "default_known")]
    pub known: PathBuf,
    /// Namespaces whose pods pass at once.
    #[serde(default)]
    pub exclude_namespaces: Vec<String>,
    /// `istio.io/dataplane-mode` counts like `culvert.dev/enroll`.
    #[serde(default)]
    pub istio_labels: bool,
}

fn default_socket() -> PathBuf {
    PathBuf::from("/run/culvert/enrol.sock")
}

fn default_known() -> PathBuf {
    PathBuf::from("/run/culvert/known.json")
}

/// The part of a result that is of interest here.
#[derive(Debug, Default, Deserialize)]
struct PrevResult {
    #[serde(default)]
    interfaces: Vec<Interface>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    #[serde(default)]
    name: String,
    #[serde(default)]
    sandbox: String,
}

impl<'a> NetConf<'a> {
    /// Reads a configuration; its version is one that is understood.
    pub fn parse(text: &'a [u8]) -> Result<Self, Failure> {
        if text.len() > MAX_NETCONF {
            return Err(Failure::new(code::DECODE, "culvert: the network configuration is too long", "at most 1 MiB"));
        }
        let unreadable = |error: serde_json::Error| {
            Failure::new(code::DECODE, "culvert: no network configuration", error.to_string())
        };
        let conf: Self = serde_json::from_slice(text).map_err(unreadable)?;
        if !VERSIONS.contains(&conf.cni_version.as_str()) {
            let details = format!("cniVersion is {:?}; understood are {}", conf.cni_version, VERSIONS.join(", "));
            return Err(Failure::new(code::INCOMPATIBLE, "culvert: incompatible CNI version", details));
        }
        Ok(conf)
    }

    /// What the plugins before have made.
    pub fn previous(&self) -> Result<&'a RawValue, Failure> {
        self.prev_result.ok_or_else(|| {
            let details = "culvert-cni makes no network of its own: chain it behind a plugin that does";
            Failure::new(code::CONFIG, "culvert: no prevResult", details)
        })
    }

    /// Interfaces on the node's side, as the plugins before say; it is a hint.
    pub fn host_interfaces(&self) -> Vec<String> {
        let result: PrevResult =
            self.prev_result.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        let outside = result.interfaces.into_iter().filter(|interface| interface.sandbox.is_empty());
        outside.map(|interface| interface.name).filter(|name| (1..=15).contains(&name.len())).take(8).collect()
    }
}
