//! What runs on each machine, and with which settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use crate::cluster::cache;
use crate::cluster::place::{
    API_PORT, CONTROL, Machine, NODES, POD_RANGE, POD_RANGE_6, Place, SERVICE_RANGE, SERVICE_RANGE_6,
};
use crate::cluster::plan::{Component, Plan};
use crate::cluster::secrets::Secrets;

/// The image that every pod's first container is made from.
pub(crate) const PAUSE_IMAGE: &str = "localhost/culvert-test/pause:1";

/// Plugins that a node gets; all others of the package stay away.
const PLUGINS: &[&str] = &["bridge", "host-local", "loopback", "portmap", "ptp"];

/// Where the parts are, and whose secrets are used.
pub(crate) struct Parts<'a> {
    pub(crate) place: &'a Place,
    pub(crate) secrets: &'a Secrets,
    /// Debian's unpacked packages.
    pub(crate) debian: PathBuf,
    /// Kubernetes' programs.
    pub(crate) kubernetes: PathBuf,
    /// Services and pods have IPv6 addresses beside their IPv4 ones.
    pub(crate) both_families: bool,
}

impl Parts<'_> {
    fn plan(&self, components: Vec<Component>) -> Result<Plan> {
        // With the folder of programs that tests run on machines; it may be built later.
        let programs = crate::paths::cargo_target().join("release");
        std::fs::create_dir_all(&programs)?;
        let shared = vec![self.place.folder().to_owned(), cache::folder()?, programs];
        Ok(Plan { shared, files: BTreeMap::new(), copies: Vec::new(), components })
    }

    fn kubernetes(&self, program: &str) -> String {
        self.kubernetes.join(program).to_string_lossy().into_owned()
    }

    fn debian(&self, path: &str) -> String {
        self.debian.join(path).to_string_lossy().into_owned()
    }

    fn component(&self, machine: Machine, name: &str, command: Vec<String>) -> Component {
        let path = std::env::var("PATH").unwrap_or_default();
        let own = ["usr/sbin", "usr/bin", "sbin", "bin"].map(|folder| self.debian(folder)).join(":");
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries = [format!("usr/lib/{triplet}"), format!("lib/{triplet}")].map(|folder| self.debian(&folder));
        let environment = BTreeMap::from([
            ("PATH".to_owned(), format!("{}:{own}:{path}", self.kubernetes.display())),
            ("LD_LIBRARY_PATH".to_owned(), libraries.join(":")),
            ("XTABLES_LIBDIR".to_owned(), self.debian(&format!("usr/lib/{triplet}/xtables"))),
        ]);
        let log = self.place.logs().join(format!("{}-{name}.log", machine.name));
        Component { name: name.to_owned(), command, environment, log }
    }

    /// Kubernetes 1.20 has two families as an alpha feature that each component is started with.
    fn features(&self) -> String {
        format!("--feature-gates=IPv6DualStack={}", self.both_families)
    }

    /// A range of addresses, or both.
    fn ranges(&self, four: &str, six: &str) -> String {
        if self.both_families { format!("{four},{six}") } else { four.to_owned() }
    }

    fn kubeconfig(&self, who: &str) -> Result<String> {
        self.secrets.kubeconfig(who, &format!("https://{}:{API_PORT}", CONTROL.address()))
    }

    /// etcd and API server; with `whole` also what makes pods out of Deployments and places them.
    pub(crate) fn control(&self, whole: bool) -> Result<Plan> {
        let mut components = vec![self.etcd(), self.api_server()];
        if whole {
            components.push(self.controllers());
            components.push(self.scheduler());
        }
        let mut plan = self.plan(components)?;
        for who in ["controllers", "scheduler"] {
            plan.files.insert(kubeconfig_file(who), self.kubeconfig(who)?);
        }
        Ok(plan)
    }

    fn etcd(&self) -> Component {
        let mut command = vec![self.debian("usr/bin/etcd")];
        command.extend(words("--data-dir=/var/lib/etcd --listen-client-urls=http://127.0.0.1:2379 --log-level=warn"));
        command.extend(words("--advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380"));
        self.component(CONTROL, "etcd", command)
    }

    fn api_server(&self) -> Component {
        let mut command = vec![self.kubernetes("kube-apiserver")];
        command.extend(words("--etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --allow-privileged=true"));
        command.extend(words("--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction"));
        command.extend(words("--service-account-issuer=https://kubernetes.default.svc --profiling=false"));
        command.extend(words("--kubelet-preferred-address-types=InternalIP --enable-aggregator-routing=true"));
        command.extend(words("--cert-dir=/run/kubernetes --v=1"));
        command.push(self.features());
        command.push(format!("--secure-port={API_PORT}"));
        command.push(format!("--advertise-address={}", CONTROL.address()));
        command.push(format!("--service-cluster-ip-range={}", self.ranges(SERVICE_RANGE, SERVICE_RANGE_6)));
        for (flag, file) in [
            ("tls-cert-file", "api.crt"),
            ("tls-private-key-file", "api.key"),
            ("token-auth-file", "tokens.csv"),
            ("service-account-signing-key-file", "service-accounts.key"),
            ("service-account-key-file", "service-accounts.pub"),
        ] {
            command.push(format!("--{flag}={}", self.secrets.file(file)));
        }
        self.component(CONTROL, "kube-apiserver", command)
    }

    fn controllers(&self) -> Component {
        let mut command = vec![self.kubernetes("kube-controller-manager")];
        command.extend(words("--leader-elect=false --use-service-account-credentials=true --v=1"));
        command.push(format!("--kubeconfig={}", kubeconfig_file("controllers").display()));
        command.push(format!("--service-account-private-key-file={}", self.secrets.file("service-accounts.key")));
        command.push(format!("--root-ca-file={}", self.secrets.file("ca.crt")));
        command.push(format!("--cluster-signing-cert-file={}", self.secrets.file("ca.crt")));
        command.push(format!("--cluster-signing-key-file={}", self.secrets.file("ca.key")));
        command.push(self.features());
        self.component(CONTROL, "kube-controller-manager", command)
    }

    fn scheduler(&self) -> Component {
        let mut command = vec![self.kubernetes("kube-scheduler")];
        command.extend(words("--leader-elect=false --v=1"));
        command.push(format!("--kubeconfig={}", kubeconfig_file("scheduler").display()));
        self.component(CONTROL, "kube-scheduler", command)
    }

    /// containerd, kubelet and kube-proxy.
    pub(crate) fn node(&self, node: Machine) -> Result<Plan> {
        let mut plan = self.plan(vec![self.containerd(node), self.kubelet(node), self.proxy(node)])?;
        for who in [node.name, "proxy"] {
            plan.files.insert(kubeconfig_file(who), self.kubeconfig(who)?);
        }
        plan.files.insert("/etc/containerd/config.toml".into(), CONTAINERD.replace("PAUSE_IMAGE", PAUSE_IMAGE));
        plan.files.insert("/etc/kubernetes/kubelet.json".into(), kubelet_settings(node, self.both_families));
        plan.files.insert(
            "/etc/kubernetes/proxy.json".into(),
            proxy_settings(node, &self.ranges(POD_RANGE, POD_RANGE_6), self.both_families),
        );
        plan.files.insert("/etc/cni/net.d/10-pods.conflist".into(), network_settings(node, self.both_families));
        for plugin in PLUGINS {
            let from = self.debian.join("usr/lib/cni").join(plugin);
            plan.copies.push((from, Path::new("/opt/cni/bin").join(plugin)));
        }
        Ok(plan)
    }

    fn containerd(&self, node: Machine) -> Component {
        let command = vec![self.debian("usr/bin/containerd"), "--config=/etc/containerd/config.toml".to_owned()];
        self.component(node, "containerd", command)
    }

    fn kubelet(&self, node: Machine) -> Component {
        let mut command = vec![self.kubernetes("kubelet")];
        command.extend(words("--config=/etc/kubernetes/kubelet.json --container-runtime=remote --v=2"));
        command.extend(words("--container-runtime-endpoint=unix:///run/containerd/containerd.sock"));
        command.push(format!("--kubeconfig={}", kubeconfig_file(node.name).display()));
        command.push(format!("--hostname-override={}", node.name));
        command.push(format!("--node-ip={}", node.address()));
        self.component(node, "kubelet", command)
    }

    fn proxy(&self, node: Machine) -> Component {
        let mut command = vec![self.kubernetes("kube-proxy")];
        command.extend(words("--config=/etc/kubernetes/proxy.json --v=1"));
        self.component(node, "kube-proxy", command)
    }
}

fn kubeconfig_file(who: &str) -> PathBuf {
    Path::new("/etc/kubernetes").join(format!("{who}.kubeconfig"))
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(' ').map(str::to_owned)
}

/// Lowering a process's oom score is not allowed everywhere that this is run; nothing here needs it.
const CONTAINERD: &str = r#"version = 2
oom_score = 0
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE_IMAGE"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
"#;

fn kubelet_settings(node: Machine, both_families: bool) -> String {
    json!({
        "featureGates": {"IPv6DualStack": both_families},
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "address": node.address(),
        "cgroupDriver": "cgroupfs",
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,
        "protectKernelDefaults": true,
        "resolvConf": "",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "4s",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi"},
        "shutdownGracePeriod": "0s",
    })
    .to_string()
}

fn proxy_settings(node: Machine, pods: &str, both_families: bool) -> String {
    json!({
        "featureGates": {"IPv6DualStack": both_families},
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": pods,
        "hostnameOverride": node.name,
        "bindAddress": "0.0.0.0",
        "healthzBindAddress": format!("{}:10256", node.address()),
        "oomScoreAdj": 0,
        "clientConnection": {"kubeconfig": kubeconfig_file("proxy")},
        // Settings of the whole machine, which a namespace neither can nor should change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
    })
    .to_string()
}

/// node1's pods hang on point-to-point links, node2's on a bridge: both shapes that CNIs make.
fn network_settings(node: Machine, both_families: bool) -> String {
    let mut addresses = json!({
        "type": "host-local",
        "ranges": [[{"subnet": node.pods()}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    if both_families {
        addresses["ranges"] = json!([[{"subnet": node.pods()}], [{"subnet": node.pods_6()}]]);
        addresses["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    }
    let plugin = if node == NODES[0] {
        json!({"type": "ptp", "ipam": addresses, "mtu": 1500})
    } else {
        json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": addresses})
    };
    let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [plugin, ports]}).to_string()
}
