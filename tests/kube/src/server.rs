//! etcd and kube-apiserver, and what an administrator does with them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use culvert_control::api::{Api, ApiError, Body};
use culvert_lab::{Netns, Process};
use http::Method;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use serde_json::{Value, json};

/// The sandbox's own address: Endpoints may not be loopback addresses.
pub const ADDRESS: &str = "172.31.0.1";
const FOLDER: &str = "/run/kube";
const ADMIN: &str = "admin-of-this-sandbox";

/// A running API server. Its programs end with it.
pub struct Server {
    etcd: Option<Process>,
    server: Option<Process>,
    programs: PathBuf,
    etcd_program: PathBuf,
    /// The administrator's way in.
    pub api: Api,
}

impl Server {
    /// Starts both and waits until the API is ready.
    pub async fn start() -> Result<Self> {
        let (programs, etcd_program) = programs()?;
        fs::create_dir_all(FOLDER)?;
        let added = Command::new("ip").args(["address", "add", &format!("{ADDRESS}/32"), "dev", "lo"]).status()?;
        ensure!(added.success(), "cannot give the sandbox an address");
        certificates()?;
        fs::write(path("tokens.csv"), format!("{ADMIN},admin,admin,\"system:masters\"\n"))?;
        fs::write(path("kubeconfig"), kubeconfig(ADMIN)?)?;
        let api = Api::connect(Some(&path("kubeconfig"))).await?;
        let mut server = Self { etcd: None, server: None, programs, etcd_program, api };
        server.start_etcd()?;
        server.start_api().await?;
        Ok(server)
    }

    /// Kills the API server. etcd keeps what it knows.
    pub fn stop_api(&mut self) {
        self.server = None;
    }

    /// Starts it again and waits until it is ready.
    pub async fn start_api(&mut self) -> Result<()> {
        let file = |name: &str| path(name).to_string_lossy().into_owned();
        let flags = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--bind-address=0.0.0.0 --secure-port=6443 --allow-privileged=true --authorization-mode=Node,RBAC"
                .to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc --enable-aggregator-routing=true".to_owned(),
            "--disable-admission-plugins=ServiceAccount --endpoint-reconciler-type=none --profiling=false".to_owned(),
            format!("--advertise-address={ADDRESS} --service-cluster-ip-range=10.96.0.0/16"),
            format!("--tls-cert-file={} --tls-private-key-file={}", file("api.crt"), file("api.key")),
            format!("--token-auth-file={} --cert-dir={FOLDER}", file("tokens.csv")),
            format!("--service-account-signing-key-file={}", file("accounts.key")),
            format!("--service-account-key-file={}", file("accounts.pub")),
        ]
        .join(" ");
        let flags: Vec<&str> = flags.split(' ').collect();
        let program = self.programs.join("kube-apiserver");
        self.server = Some(Process::start(&Netns::own(), "kube-apiserver", program, &flags)?);
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Some(ended) = self.server.as_mut().and_then(|server| server.try_wait().transpose()) {
                bail!("kube-apiserver ended: {ended:?}");
            }
            if self.api.get("/api/v1/namespaces/default").await.is_ok()
                && self.api.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:discovery").await.is_ok()
            {
                return Ok(());
            }
        }
        bail!("kube-apiserver is not ready within a minute")
    }

    fn start_etcd(&mut self) -> Result<()> {
        let flags = format!(
            "--data-dir={FOLDER}/etcd --listen-client-urls=http://127.0.0.1:2379 --log-level=warn \
             --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380 --unsafe-no-fsync"
        );
        let flags: Vec<&str> = flags.split(' ').collect();
        self.etcd = Some(Process::start(&Netns::own(), "etcd", &self.etcd_program, &flags)?);
        Ok(())
    }

    /// Makes an object; one that is there already is replaced. Its status goes in as well.
    pub async fn apply(&self, object: &Value) -> Result<Value> {
        let all = collection(object)?;
        let name = object["metadata"]["name"].as_str().context("a name")?;
        let made = match self.api.send(Method::POST, &all, Body::Whole, object).await {
            Err(error) if error.is(409) => {
                let mut next = object.clone();
                let held = self.api.get(&format!("{all}/{name}")).await?;
                next["metadata"]["resourceVersion"] = held["metadata"]["resourceVersion"].clone();
                self.api.send(Method::PUT, &format!("{all}/{name}"), Body::Whole, &next).await?
            }
            other => other?,
        };
        if object["status"].is_null() {
            return Ok(made);
        }
        let mut status = made;
        status["status"] = object["status"].clone();
        Ok(self.api.send(Method::PUT, &format!("{all}/{name}/status"), Body::Whole, &status).await?)
    }

    /// What the API server says to an object, refusals included.
    pub async fn offer(&self, object: &Value) -> Result<Result<Value, ApiError>> {
        Ok(self.api.send(Method::POST, &collection(object)?, Body::Whole, object).await)
    }

    /// Takes an object away, at once.
    pub async fn delete(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().context("a name")?;
        let path = format!("{}/{name}", collection(object)?);
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        self.api.send(Method::DELETE, &path, Body::Whole, &options).await?;
        Ok(())
    }

    /// An object as it is now.
    pub async fn get(&self, object: &Value) -> Result<Value> {
        let name = object["metadata"]["name"].as_str().context("a name")?;
        Ok(self.api.get(&format!("{}/{name}", collection(object)?)).await?)
    }

    /// The token that kubelet would project into a pod.
    pub async fn token(
        &self,
        account: (&str, &str),
        audience: &str,
        seconds: u64,
        pod: Option<&Value>,
    ) -> Result<String> {
        let mut spec = json!({"audiences": [audience], "expirationSeconds": seconds});
        if let Some(pod) = pod {
            spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"],
                "uid": pod["metadata"]["uid"]});
        }
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", account.0, account.1);
        let answer = self.api.send(Method::POST, &path, Body::Whole, &request).await?;
        Ok(answer["status"]["token"].as_str().context("a token")?.to_owned())
    }

    /// A kubeconfig for whoever has this token.
    pub fn kubeconfig_of(&self, name: &str, token: &str) -> Result<PathBuf> {
        let file = path(&format!("kubeconfig-{name}"));
        fs::write(&file, kubeconfig(token)?)?;
        Ok(file)
    }
}

/// A file of the sandbox.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn programs() -> Result<(PathBuf, PathBuf)> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))).context("no HOME")?;
    let find = |start: &str, program: &str| {
        let folders = fs::read_dir(base.join("culvert/cluster")).into_iter().flatten().flatten();
        let named = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(start));
        named.map(|folder| folder.path().join(program)).find(|program| program.is_file())
    };
    match (find("kubernetes-", "bin/kube-apiserver"), find("debian-", "root/usr/bin/etcd")) {
        (Some(server), Some(etcd)) => Ok((server.parent().context("a folder")?.to_owned(), etcd)),
        _ => bail!("kube-apiserver and etcd are not built: run `cargo xtask cluster up --only api` once, then `down`"),
    }
}

fn certificates() -> Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
    let names = ["localhost", "127.0.0.1", ADDRESS].map(str::to_owned);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let serving = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    fs::write(path("ca.crt"), authority.pem())?;
    fs::write(path("api.crt"), serving.pem())?;
    fs::write(path("api.key"), key.serialize_pem())?;
    let accounts = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    fs::write(path("accounts.key"), accounts.serialize_pem())?;
    fs::write(path("accounts.pub"), accounts.public_key_pem())?;
    Ok(())
}

fn kubeconfig(token: &str) -> Result<String> {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443", "certificate-authority": path("ca.crt")}}],
        "users": [{"name": "c", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    Ok(serde_json::to_string(&kubeconfig)?)
}

/// Where objects of this kind are made.
fn collection(object: &Value) -> Result<String> {
    let (api, kind) = (object["apiVersion"].as_str().context("apiVersion")?, object["kind"].as_str().context("kind")?);
    let root = if api.contains('/') { format!("/apis/{api}") } else { format!("/api/{api}") };
    let plural = match kind {
        "Endpoints" => "endpoints".to_owned(),
        "Mesh" => "meshes".to_owned(),
        _ if kind.ends_with('y') => format!("{}ies", kind.to_lowercase().trim_end_matches('y')),
        _ => format!("{}s", kind.to_lowercase()),
    };
    Ok(match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    })
}
