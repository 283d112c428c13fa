//! A control plane of its own for each test: a child process on a loopback port, with folders of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use culvert_identity::TrustDomain;
use serde_json::Value;

pub(crate) const MESH: &str = "
apiVersion: culvert.dev/v1alpha1
kind: Mesh
spec: {podCIDRs: [10.0.0.0/16], serviceCIDRs: [10.96.0.0/16]}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/enroll: 'true'}}}
";

pub(crate) struct Plane {
    root: tempfile::TempDir,
    child: Option<Child>,
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    flags: Vec<String>,
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

/// A pod in `shop` with its name as UID (`uid-NAME`) and as service account.
pub(crate) fn pod(name: &str, node: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, uid: uid-{name}, \
         labels: {{app: {name}}}}}, spec: {{nodeName: {node}, serviceAccountName: {name}, \
         containers: [{{name: c}}]}}}}\n"
    )
}

impl Plane {
    /// Started, with these manifests in `a.yaml` beside the mesh.
    pub(crate) fn start(text: &str) -> Self {
        Self::start_with(text, &[])
    }

    pub(crate) fn start_with(text: &str, flags: &[&str]) -> Self {
        let mut plane = Self::stopped(flags);
        plane.put("mesh.yaml", MESH);
        plane.put("a.yaml", text);
        plane.run();
        plane
    }

    /// With folders only; `manifests` is empty.
    pub(crate) fn stopped(flags: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let nowhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let plane = Self { root, child: None, address: nowhere, metrics: nowhere, flags };
        fs::create_dir(plane.manifests()).unwrap();
        fs::set_permissions(plane.manifests(), fs::Permissions::from_mode(0o755)).unwrap();
        plane
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.path().join("manifests")
    }

    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.root.path().join("state").join(name)
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.root.path().join("admin.sock")
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        // As an editor does it: the new file appears at once.
        let fresh = self.root.path().join("fresh");
        fs::write(&fresh, text).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(fresh, self.manifests().join(name)).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert-control"));
        command.args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--log-format", "json"]);
        command.arg("--manifests").arg(self.manifests()).arg("--state").arg(self.state(""));
        command.arg("--admin").arg(self.admin()).args(&self.flags);
        command
    }

    /// Starts the process and waits until it serves.
    pub(crate) fn run(&mut self) {
        let mut child = self.command().stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let until = Instant::now() + Duration::from_secs(30);
        let mut seen = Vec::new();
        let mut address_of = |what: &str| loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = receiver.recv_timeout(left).unwrap_or_else(|_| panic!("no {what:?} in {seen:#?}"));
            let fields: Value = serde_json::from_str(&line).unwrap_or_default();
            if fields["fields"]["message"] == what {
                return fields["fields"]["address"].as_str().unwrap().parse().unwrap();
            }
            seen.push(line);
        };
        self.metrics = address_of("serving metrics");
        self.address = address_of("serving agents");
        // The rest of the log is read to its end, so that the child never waits for a reader.
        std::thread::spawn(move || receiver.iter().for_each(drop));
        self.child = Some(child);
    }

    /// Runs until it ends by itself, which it has to do soon.
    pub(crate) fn run_to_end(&self, more: &[&str]) -> Output {
        let mut child = self.command().args(more).stderr(Stdio::piped()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it serves, although it should not");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.wait_with_output().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn tool(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_culvert-control")).args(arguments).output().unwrap()
    }

    /// A join token, as an operator gets it.
    pub(crate) fn token(&self, node: &str) -> String {
        let output = self.tool(&["token", node, "--state", self.state("").to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What the audit log says, once `enough` holds.
    pub(crate) fn audit(&self, enough: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let text = fs::read_to_string(self.state("audit.log")).unwrap_or_default();
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if let Some(line) = lines.iter().find(|line| enough(line)) {
                return line.clone();
            }
            assert!(Instant::now() < until, "not in the audit log: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A refusal with this action and reason is in the audit log.
    pub(crate) fn audited(&self, action: &str, reason: &str) -> Value {
        self.audit(|line| line["action"] == action && line["reason"] == reason && line["granted"] == false)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.kill();
    }
}
