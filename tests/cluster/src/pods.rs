//! Namespaces and pods of a test.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::within;

/// Namespaces are deleted when the test is done with them.
pub struct Namespace {
    cluster: &'static Cluster,
    name: String,
}

/// A pod to be made.
pub struct App<'a> {
    /// Its name, its label `app`, and its service account's name unless `spec` has another one.
    pub name: &'a str,
    /// Where it has to run.
    pub node: &'a str,
    /// What `cluster-app` is to do.
    pub does: &'a [&'a str],
    /// Labels besides `app`.
    pub labels: Value,
    /// Merged into its container.
    pub container: Value,
    /// Merged into its spec.
    pub spec: Value,
}

/// What a server says to whom calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Its host's name: the pod's, or the node's on the node's network.
    pub server: String,
    /// Its port.
    pub port: u16,
    /// Whom it sees.
    pub peer: String,
}

impl<'a> App<'a> {
    /// A server.
    pub fn server(name: &'a str, node: &'a str) -> App<'a> {
        App { name, node, does: &["serve", "8080"], labels: json!({}), container: json!({}), spec: json!({}) }
    }

    /// A pod that does this.
    pub fn doing(name: &'a str, node: &'a str, does: &'a [&'a str]) -> App<'a> {
        App { does, ..App::idle(name, node) }
    }

    /// A pod that does nothing by itself.
    pub fn idle(name: &'a str, node: &'a str) -> App<'a> {
        App { name, node, does: &["sleep"], labels: json!({}), container: json!({}), spec: json!({}) }
    }
}

impl Namespace {
    /// Makes it with these labels.
    pub fn new(cluster: &'static Cluster, name: &str, labels: &Value) -> Result<Namespace> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        // One of the same name may still be on its way out, or be left of a run that was killed.
        within(Duration::from_secs(90), name, || {
            cluster.create(&object.to_string()).map(drop).inspect_err(|_| {
                let _ = cluster.kubectl(&["delete", "namespace", name, "--wait=false"]);
            })
        })?;
        within(Duration::from_secs(30), "its service account", || {
            cluster.kubectl(&["-n", name, "get", "serviceaccount", "default"]).map(drop)
        })?;
        Ok(Namespace { cluster, name: name.to_owned() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts it into the mesh.
    pub fn enrol(&self) -> Result<()> {
        self.cluster.kubectl(&["label", "namespace", &self.name, "culvert.dev/enroll=true"]).map(drop)
    }

    /// Takes it out.
    pub fn withdraw(&self) -> Result<()> {
        self.cluster.kubectl(&["label", "namespace", &self.name, "culvert.dev/enroll-"]).map(drop)
    }

    /// Makes pods with an account each, and does not wait for them.
    pub fn create(&self, apps: &[App<'_>]) -> Result<()> {
        let mut items = Vec::new();
        for app in apps {
            let mut labels = json!({"app": app.name});
            merge(&mut labels, &app.labels);
            let metadata = json!({"name": app.name, "namespace": self.name, "labels": labels});
            if app.spec.get("serviceAccountName").is_none() {
                items.push(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}));
            }
            let mut container = json!({
                "name": "app",
                "image": "localhost/culvert-test/app:1",
                "imagePullPolicy": "Never",
                "args": app.does,
            });
            merge(&mut container, &app.container);
            let mut spec = json!({
                "serviceAccountName": app.name,
                "terminationGracePeriodSeconds": 1,
                "nodeName": app.node,
                "containers": [container],
            });
            merge(&mut spec, &app.spec);
            items.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}));
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        // An account's token is made a moment after the account, and no pod is taken before.
        within(Duration::from_secs(30), "tokens of the accounts", || self.cluster.apply(&list.to_string()).map(drop))
    }

    /// Makes pods and waits until they are ready.
    pub fn run(&self, apps: &[App<'_>]) -> Result<()> {
        self.create(apps)?;
        let mut words = vec!["-n", &self.name, "wait", "--for=condition=Ready", "--timeout=60s"];
        let pods: Vec<String> = apps.iter().map(|app| format!("pod/{}", app.name)).collect();
        words.extend(pods.iter().map(String::as_str));
        self.cluster.kubectl(&words).map(drop)
    }

    /// A ClusterIP Service in front of the pods `app`, and its address.
    pub fn service(&self, app: &str, port: u16, target: u16) -> Result<String> {
        let spec = json!({"selector": {"app": app}, "ports": [{"port": port, "targetPort": target}]});
        Ok(format!("{}:{port}", self.service_of(app, &spec)?))
    }

    /// A Service as it is given, and its virtual address: `None` where it is to have none, empty where it has none.
    pub fn service_of(&self, name: &str, spec: &Value) -> Result<String> {
        let metadata = json!({"name": name, "namespace": self.name});
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        self.cluster.apply(&service.to_string())?;
        let made = self.cluster.get_json(&["-n", &self.name, "get", "service", name])?;
        Ok(made["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned())
    }

    /// Applies an object of this namespace.
    pub fn apply(&self, kind: &str, name: &str, spec: &Value) -> Result<()> {
        let version = if kind == "Endpoints" { "v1" } else { "security.istio.io/v1" };
        let metadata = json!({"name": name, "namespace": self.name});
        let mut object = json!({"apiVersion": version, "kind": kind, "metadata": metadata});
        match kind {
            "Endpoints" => object["subsets"] = spec.clone(),
            _ => object["spec"] = spec.clone(),
        }
        self.cluster.apply(&object.to_string()).map(drop)
    }

    /// A pod's address.
    pub fn address(&self, pod: &str) -> Result<String> {
        let pod = self.cluster.get_json(&["-n", &self.name, "get", "pod", pod])?;
        Ok(pod["status"]["podIP"].as_str().context("no address yet")?.to_owned())
    }

    /// One call out of a pod: the server and whom it saw, or the word of the failure.
    pub fn call(&self, from: &str, to: &str) -> Result<String> {
        let answer = self.greeting(from, to)?;
        Ok(format!("{} {}", answer.server, answer.peer))
    }

    /// One call out of a pod: what the server said, or the word of the failure.
    pub fn greeting(&self, from: &str, to: &str) -> Result<Greeting> {
        let words = ["-n", &self.name, "exec", from, "--", "/usr/local/bin/cluster-app", "call", to];
        let done = self.cluster.kubectl_command().args(words).output()?;
        let printed = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        match printed.split(' ').collect::<Vec<_>>().as_slice() {
            ["ok", server, port, peer, _] => {
                Ok(Greeting { server: (*server).to_owned(), port: port.parse()?, peer: (*peer).to_owned() })
            }
            ["failed", word, _] => bail!("{word}"),
            _ => bail!("{from} -> {to}: {printed}{}", String::from_utf8_lossy(&done.stderr)),
        }
    }

    /// A call that must get through, to this server.
    pub fn reaches(&self, from: &str, to: &str, server: &str) -> Result<()> {
        within(Duration::from_secs(10), &format!("{from} -> {server}"), || {
            let answer = self.call(from, to)?;
            ensure!(answer.split(' ').next() == Some(server), "{from} reached {answer}, not {server}");
            Ok(())
        })
    }

    /// A call that must not get through, now or in the next moments.
    pub fn refused(&self, from: &str, to: &str) -> Result<()> {
        within(Duration::from_secs(10), &format!("{from} -/-> {to}"), || match self.call(from, to) {
            Ok(answer) => bail!("{from} reached {answer}"),
            Err(error) if error.to_string().contains("->") => Err(error),
            Err(_) => Ok(()),
        })
    }

    /// Runs the test application once more in a pod.
    pub fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        let app = ["-n", &self.name, "exec", pod, "--", "/usr/local/bin/cluster-app"];
        self.cluster.kubectl(&[&app[..], words].concat())
    }

    /// What a pod has printed so far.
    pub fn log(&self, pod: &str) -> Result<String> {
        self.cluster.kubectl(&["-n", &self.name, "logs", pod])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The API server may be just coming back.
        let delete = ["delete", "namespace", &self.name, "--wait=false"];
        let _ = within(Duration::from_secs(30), &self.name, || self.cluster.kubectl(&delete).map(drop));
    }
}

fn merge(into: &mut Value, from: &Value) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        into.extend(from.clone());
    }
}
