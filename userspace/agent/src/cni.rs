//! The CNI plugin on this node: its binary and its configuration are put in place, kept there while culvert is
//! installed, and taken away when it is uninstalled. docs/node.md says why the configuration is a file of our own.

mod chain;
mod install;
mod keep;
#[cfg(test)]
mod tests;

pub use chain::{ChainError, chained};
pub use install::{CONFLIST, InstallError, Installation, KUBECONFIG, PLUGIN, Place, State};
pub(crate) use keep::keep;

use std::path::PathBuf;

/// Where things are, and what the plugin is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniSettings {
    /// The runtime's folder of plugins.
    pub bin_dir: PathBuf,
    /// The runtime's folder of configurations.
    pub conf_dir: PathBuf,
    /// The same by its path on the node, which the configuration is read by.
    pub conf_dir_on_node: PathBuf,
    /// The plugin to be copied there.
    pub plugin: PathBuf,
    /// Namespaces whose pods are never held back.
    pub exclude_namespaces: Vec<String>,
    /// How the plugin reaches the API server.
    pub api: Option<ApiServer>,
    /// `istio.io/dataplane-mode` counts like `culvert.dev/enroll`.
    pub istio_labels: bool,
}

/// What the plugin's kubeconfig is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiServer {
    /// `https://HOST:PORT`, as the node reaches it.
    pub server: String,
    /// PEM file of its root.
    pub root: PathBuf,
    /// File of a token that may `get` pods and namespaces.
    pub token: PathBuf,
}
