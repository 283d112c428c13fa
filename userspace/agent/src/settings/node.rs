//! Settings of what an agent does on a Kubernetes node: CNI, running pods, probes, keeper.

use std::path::{Path, PathBuf};

use super::{
    checked::{Checker, absolute, bracketed, or, path},
    raw::Run,
};
use crate::{
    cni::{ApiServer, CniSettings},
    kubelet::KubeletCgroup,
};

/// What an agent does on a Kubernetes node. Nothing of it is on by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// kubelet's cgroup, whose probes pass.
    pub kubelet_cgroup: Option<KubeletCgroup>,
    /// Where the node's cgroups are mounted.
    pub host_cgroup: PathBuf,
    /// Where the node's procfs is mounted.
    pub host_proc: PathBuf,
    /// Take pods that run already.
    pub discover_pods: bool,
    /// The keeper's socket.
    pub keeper: Option<PathBuf>,
    /// The CNI plugin and its configuration.
    pub cni: Option<CniSettings>,
}

impl NodeSettings {
    pub(super) fn check(check: &mut Checker, raw: &Run) -> Option<Self> {
        let kubelet_cgroup = check.maybe("--kubelet-cgroup", &raw.kubelet_cgroup, kubelet_cgroup);
        let host_cgroup = check.read("--host-cgroup", or(&raw.host_cgroup, "/sys/fs/cgroup"), absolute);
        let host_proc = check.read("--host-proc", or(&raw.host_proc, "/proc"), absolute);
        let keeper = check.maybe("--keeper", &raw.keeper, absolute);
        let cni = cni(check, raw);
        Some(Self {
            kubelet_cgroup: kubelet_cgroup?,
            host_cgroup: host_cgroup?,
            host_proc: host_proc?,
            discover_pods: raw.discover_pods,
            keeper: keeper?,
            cni: cni?,
        })
    }
}

fn cni(check: &mut Checker, raw: &Run) -> Option<Option<CniSettings>> {
    let bin_dir = check.maybe("--cni-bin-dir", &raw.cni_bin_dir, absolute);
    let conf_dir = check.maybe("--cni-conf-dir", &raw.cni_conf_dir, absolute);
    let on_node = check.maybe("--cni-conf-dir-on-node", &raw.cni_conf_dir_on_node, absolute);
    let plugin = check.read("--cni-plugin", or(&raw.cni_plugin, &beside_this_program()), absolute);
    let exclude = check.read("--cni-exclude-namespaces", or(&raw.cni_exclude_namespaces, "kube-system"), namespaces);
    let api = api(check, raw);
    let (bin_dir, conf_dir) = match (bin_dir?, conf_dir?) {
        (Some(bin_dir), Some(conf_dir)) => (bin_dir, conf_dir),
        (None, None) => return Some(None),
        (Some(_), None) => return check.fault("--cni-bin-dir", "needs --cni-conf-dir as well"),
        (None, Some(_)) => return check.fault("--cni-conf-dir", "needs --cni-bin-dir as well"),
    };
    Some(Some(CniSettings {
        bin_dir,
        conf_dir_on_node: on_node?.unwrap_or_else(|| conf_dir.clone()),
        conf_dir,
        plugin: plugin?,
        exclude_namespaces: exclude?,
        api: api?,
        istio_labels: raw.istio_labels,
    }))
}

fn api(check: &mut Checker, raw: &Run) -> Option<Option<ApiServer>> {
    let server = check.maybe("--cni-api-server", &raw.cni_api_server, https);
    let root = check.maybe("--cni-api-root", &raw.cni_api_root, path);
    let token = check.maybe("--cni-api-token-file", &raw.cni_api_token_file, path);
    match (server?, root?, token?) {
        (None, None, None) => Some(None),
        (Some(server), Some(root), Some(token)) => Some(Some(ApiServer { server, root, token })),
        _ => check.fault("--cni-api-server", "needs --cni-api-root and --cni-api-token-file, and they need it"),
    }
}

fn beside_this_program() -> String {
    let beside = std::env::current_exe().unwrap_or_default().with_file_name(crate::cni::PLUGIN);
    beside.to_string_lossy().into_owned()
}

fn kubelet_cgroup(text: &str) -> Result<KubeletCgroup, String> {
    match text {
        "auto" => Ok(KubeletCgroup::Auto),
        folder if Path::new(folder).is_absolute() => Ok(KubeletCgroup::Folder(folder.into())),
        _ => Err(format!("\"{text}\" is neither an absolute path nor auto")),
    }
}

fn https(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").unwrap_or_default().trim_end_matches('/');
    if rest.is_empty() || rest.contains('/') {
        return Err(format!("\"{text}\" is not https://HOST:PORT, such as https://10.96.0.1:443"));
    }
    Ok(format!("https://{}", bracketed(rest)))
}

fn namespaces(text: &str) -> Result<Vec<String>, String> {
    let is_name = |name: &str| {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&name.len()) && name.bytes().all(good)
    };
    let names: Vec<String> =
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    match names.iter().find(|name| !is_name(name)) {
        Some(bad) => Err(format!("\"{bad}\" is not the name of a namespace")),
        None => Ok(names),
    }
}
