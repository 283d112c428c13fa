//! The control plane, in this process, with the rights that it is documented to have.

use std::{fs, net::SocketAddr};

use anyhow::{Context as _, Result};
use culvert_control::{
    cli::{Cli, Command},
    cluster, run,
};
use culvert_identity::{TrustDomain, bundle::X509Bundle};
use culvert_mtls::{Trust, TrustBundles};
use culvert_svid::ControlPort;
use serde_json::json;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{Server, eventually, server::path};

/// Culvert's namespace.
pub(crate) const NAMESPACE: &str = "culvert-system";

/// A running control plane.
pub struct Control {
    /// Where agents call.
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<()>>,
}

impl Control {
    /// Makes namespace, rights and keys, and starts it.
    pub async fn install(server: &Server) -> Result<Self> {
        Self::install_with(server, &[]).await
    }

    /// The same, started with flags.
    pub async fn install_with(server: &Server, flags: &[&str]) -> Result<Self> {
        rights(server).await?;
        Self::job(server, &[]).await?;
        Self::start(server, 15012, flags).await
    }

    /// Runs the job that looks after the keys.
    pub async fn job(server: &Server, flags: &[&str]) -> Result<cluster::secrets::Done> {
        let token = server.token((NAMESPACE, "culvert-keys"), "https://kubernetes.default.svc", 3600, None).await?;
        let kubeconfig = server.kubeconfig_of("keys", &token)?;
        let mut words = vec!["culvert-control", "ca", "--kubeconfig", kubeconfig.to_str().context("UTF-8")?];
        words.extend(flags);
        match Cli::of(words.into_iter().map(Into::into).collect())?.command {
            Command::Ca(args) => cluster::renew_keys(&args).await,
            _ => anyhow::bail!("not the job's command"),
        }
    }

    /// Starts one, and waits until it serves.
    pub async fn start(server: &Server, port: u16, flags: &[&str]) -> Result<Self> {
        let token = server.token((NAMESPACE, "culvert-control"), "https://kubernetes.default.svc", 3600, None).await?;
        let kubeconfig = server.kubeconfig_of("control", &token)?;
        let (state, listen) = (path(&format!("state-{port}")), format!("127.0.0.1:{port}"));
        let mut words = vec!["culvert-control", "--source", "kube", "--listen", &listen];
        words.extend(["--cluster-range", "10.244.0.0/16", "--cluster-range", "10.96.0.0/16"]);
        words.extend([
            "--kubeconfig",
            kubeconfig.to_str().context("UTF-8")?,
            "--state",
            state.to_str().context("UTF-8")?,
        ]);
        words.extend(flags);
        let Command::Serve(args) = Cli::of(words.into_iter().map(Into::into).collect())?.command else {
            anyhow::bail!("not the server's command");
        };
        let address = args.listen;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run::serve(args, async move { drop(stopped.await) }));
        let control = Self { address, stop: Some(stop), task };
        eventually("the control port", async || tokio::net::TcpStream::connect(address).await.ok()).await?;
        eventually("the roots are shown", async || control.port(server).await.ok()).await?;
        Ok(control)
    }

    /// The control port as agents see it, by the roots in the ConfigMap.
    pub async fn port(&self, server: &Server) -> Result<ControlPort> {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "culvert-root", "namespace": NAMESPACE}});
        let map = server.get(&map).await?;
        let pem = map["data"]["root.pem"].as_str().context("roots")?;
        let domain = TrustDomain::parse("cluster.local")?;
        let bundles = TrustBundles::new();
        bundles.set(X509Bundle::parse_pem(domain.clone(), pem)?)?;
        Ok(ControlPort::new(&self.address.to_string(), Trust::new(bundles), &domain))
    }

    /// Ends it.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        // Open streams end with the runtime only; the port is free at once.
        self.task.abort();
        let _ = self.task.await;
    }

    /// What it has written down.
    pub fn audit(&self) -> String {
        fs::read_to_string(path(&format!("state-{}", self.address.port())).join("audit.log")).unwrap_or_default()
    }
}

/// The rights of docs/control-plane.md, and the namespaces' objects that hold them.
async fn rights(server: &Server) -> Result<()> {
    let core = ["namespaces", "nodes", "serviceaccounts", "pods", "services", "endpoints"];
    let policies = ["peerauthentications", "authorizationpolicies", "requestauthentications"];
    let custom: Vec<String> = policies.iter().map(|kind| format!("{kind}.security.istio.io")).collect();
    let custom: Vec<String> = custom.into_iter().chain(["meshes.culvert.dev".to_owned()]).collect();
    let status: Vec<String> = policies.iter().map(|kind| format!("{kind}/status")).collect();
    let watch = ["get", "list", "watch"];
    let wide = json!([
        {"apiGroups": [""], "resources": core, "verbs": watch},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch},
        {"apiGroups": ["security.istio.io"], "resources": policies, "verbs": watch},
        {"apiGroups": ["culvert.dev"], "resources": ["meshes"], "verbs": watch},
        {"apiGroups": ["apiextensions.k8s.io"], "resources": ["customresourcedefinitions"], "resourceNames": custom, "verbs": ["get"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": ["security.istio.io"], "resources": status, "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
        {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["validatingwebhookconfigurations"],
            "resourceNames": ["culvert"], "verbs": ["get", "patch"]},
    ]);
    let own = json!([
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["culvert-issuing"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["culvert-root"], "verbs": ["get", "update"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["culvert-nodes"], "verbs": ["get", "patch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["culvert-control"], "verbs": ["get", "update"]},
    ]);
    let keys = json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["culvert-issuing"], "verbs": ["get", "update"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["culvert-root-key"], "verbs": ["get"]},
    ]);
    let rbac = "rbac.authorization.k8s.io/v1";
    let subject = |name: &str| json!([{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]);
    let role = |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    let named = |name: &str| json!({"name": name, "namespace": NAMESPACE});
    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named("culvert-control")}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named("culvert-keys")}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named("culvert-agent")}),
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "culvert-control"}, "rules": wide}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "culvert-control"},
            "roleRef": role("ClusterRole", "culvert-control"), "subjects": subject("culvert-control")}),
        json!({"apiVersion": rbac, "kind": "Role", "metadata": named("culvert-control"), "rules": own}),
        json!({"apiVersion": rbac, "kind": "RoleBinding", "metadata": named("culvert-control"),
            "roleRef": role("Role", "culvert-control"), "subjects": subject("culvert-control")}),
        json!({"apiVersion": rbac, "kind": "Role", "metadata": named("culvert-keys"), "rules": keys}),
        json!({"apiVersion": rbac, "kind": "RoleBinding", "metadata": named("culvert-keys"),
            "roleRef": role("Role", "culvert-keys"), "subjects": subject("culvert-keys")}),
    ];
    for object in &objects {
        server.apply(object).await.with_context(|| format!("{} {}", object["kind"], object["metadata"]["name"]))?;
    }
    Ok(())
}
