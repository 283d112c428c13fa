//! `culvert check --cluster`: whether a cluster has what culvert needs, before anything is put there.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Api, Options, Server,
    api::{list, place, plural},
    definitions::{self, Found},
    objects,
};

/// The oldest kernel that culvert works on.
const KERNEL_FLOOR: (u32, u32) = (5, 10);

/// Besides culvert's own, other programs that steer pods' traffic or chain CNI plugins: kind, name, where it usually is, what
/// to do.
const OTHERS: &[(&str, &str, &str, &str)] = &[
    ("daemonsets", "istio-cni-node", "istio-system", ISTIO),
    ("daemonsets", "istio-cni-node", "kube-system", ISTIO),
    ("daemonsets", "ztunnel", "istio-system", ISTIO),
    ("daemonsets", "ztunnel", "kube-system", ISTIO),
    ("daemonsets", "linkerd-cni", "linkerd-cni", "a pod can be in one mesh only: do not label namespaces of both"),
    ("daemonsets", "kuma-cni-node", "kube-system", "a pod can be in one mesh only: do not label namespaces of both"),
    (
        "daemonsets",
        "cilium",
        "kube-system",
        "not tried with culvert: set cni.exclusive=false, or Cilium takes other CNI configurations away, and \
         socketLB.hostNamespaceOnly=true, or pods' Service addresses are gone before culvert sees them",
    ),
    ("daemonsets", "calico-node", "kube-system", "not tried with culvert; its eBPF dataplane is not expected to work"),
    (
        "daemonsets",
        "calico-node",
        "calico-system",
        "not tried with culvert; its eBPF dataplane is not expected to work",
    ),
];
const ISTIO: &str = "a pod can be in one mesh only: label namespaces for one of both, and leave --istio-labels off";

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub name: String,
    /// Nothing stands in the way.
    pub ok: bool,
    /// In the way, or only to be known.
    pub fatal: bool,
    /// What was found.
    pub detail: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    fn good(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), ok: true, fatal: false, detail: detail.into(), remedy: String::new() }
    }

    fn bad(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name: name.into(), ok: false, fatal: true, detail: detail.into(), remedy: remedy.into() }
    }

    fn warning(name: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { fatal: false, ..Self::bad(name, detail, remedy) }
    }

    /// As `culvert check --json` prints it.
    pub fn to_json(&self) -> Value {
        json!({"name": self.name, "ok": self.ok, "fatal": self.fatal, "detail": self.detail, "remedy": self.remedy})
    }
}

/// Looks at everything; changes nothing.
pub async fn check(api: &Api, options: &Options) -> Result<Vec<Finding>, super::ClusterError> {
    let server = api.server().await.map_err(super::ClusterError::at("the API server"))?;
    let all = objects(options, Some(&server))?;
    let mut findings = vec![version(&server)];
    findings.extend(served(&server, &all));
    findings.extend(rights(api, &all).await);
    for definition in all.iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
        let name = format!("definition {}", definition["metadata"]["name"].as_str().unwrap_or_default());
        findings.push(match definitions::look(api, definition).await {
            Ok(Found::Absent) => Finding::good(name, "absent: it would be made"),
            Ok(Found::Ours) => Finding::good(name, "culvert's own"),
            Ok(Found::Foreign { owner, fits: true }) => Finding::good(name, format!("left to its owner, {owner}")),
            Ok(Found::Foreign { owner, fits: false }) => {
                let detail = format!("spec.versions serves none that culvert reads; owner: {owner}");
                Finding::bad(name, detail, "update it there")
            }
            Err(error) => unknown(&name, &error),
        });
    }
    findings.extend(nodes(api).await);
    findings.extend(others(api).await);
    findings.push(installed(api, options).await);
    Ok(findings)
}

fn version(server: &Server) -> Finding {
    let name = "Kubernetes";
    match server.minor {
        ..20 => Finding::bad(name, &server.version, "culvert needs 1.20 or newer"),
        _ => Finding::good(name, &server.version),
    }
}

fn served(server: &Server, objects: &[Value]) -> Vec<Finding> {
    let mut wanted: BTreeSet<&str> = objects.iter().filter_map(|object| object["apiVersion"].as_str()).collect();
    wanted.extend(["authentication.k8s.io/v1", "coordination.k8s.io/v1"]);
    wanted.remove("v1");
    let missing: Vec<&str> = wanted.iter().filter(|version| !server.serves.contains(**version)).copied().collect();
    let slices = ["discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"].iter().any(|one| server.serves.contains(*one));
    let mut findings = Vec::new();
    if missing.is_empty() {
        findings.push(Finding::good("API versions", format!("all {} are served", wanted.len())));
    } else {
        let remedy = "the API server has to serve them (--runtime-config)";
        findings.push(Finding::bad("API versions", format!("not served: {}", missing.join(", ")), remedy));
    }
    if !slices {
        let remedy = "Endpoints are read instead; they end at 1000 addresses";
        findings.push(Finding::warning("EndpointSlices", "not served", remedy));
    }
    findings
}

/// Asks what this caller may do.
async fn rights(api: &Api, objects: &[Value]) -> Vec<Finding> {
    let mut wanted = BTreeSet::new();
    for object in objects {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (word(&object["apiVersion"]), word(&object["kind"]));
        let group = api_version.rsplit_once('/').map(|(group, _)| group.to_owned()).unwrap_or_default();
        for verb in ["get", "create", "patch", "delete"] {
            wanted.insert((group.clone(), plural(&kind), word(&object["metadata"]["namespace"]), verb));
        }
        // Whoever binds a role needs its rights, or these.
        if kind.ends_with("Role") {
            wanted.insert((group.clone(), plural(&kind), word(&object["metadata"]["namespace"]), "escalate"));
            wanted.insert((group, plural(&kind), word(&object["metadata"]["namespace"]), "bind"));
        }
    }
    let mut missing = Vec::new();
    for (group, resource, namespace, verb) in &wanted {
        let attributes = json!({"group": group, "resource": resource, "namespace": namespace, "verb": verb});
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes}});
        match api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await {
            Ok(answer) if answer["status"]["allowed"] == true => {}
            Ok(_) => missing.push(format!("{verb} {resource}")),
            Err(error) => return vec![unknown("rights of the caller", &error)],
        }
    }
    missing.dedup();
    let Some(first) = missing.first() else {
        return vec![Finding::good("rights of the caller", format!("all {} are there", wanted.len()))];
    };
    let detail = match missing.len() {
        1..=8 => format!("missing: {}", missing.join(", ")),
        count => format!("{count} are missing, among them: {first}, {}", missing[1..6].join(", ")),
    };
    let remedy = "installing takes a cluster administrator (ClusterRole cluster-admin)";
    vec![Finding::bad("rights of the caller", detail, remedy)]
}

async fn nodes(api: &Api) -> Vec<Finding> {
    let nodes = match api.all("/api/v1/nodes", "").await {
        Ok(nodes) => nodes,
        Err(error) => return vec![unknown("nodes", &error)],
    };
    let mut findings: Vec<Finding> = nodes.iter().filter_map(node).collect();
    let kernels: BTreeSet<&str> =
        nodes.iter().filter_map(|node| node["status"]["nodeInfo"]["kernelVersion"].as_str()).collect();
    let kernels: Vec<&str> = kernels.into_iter().collect();
    if findings.iter().all(|finding| !finding.fatal) {
        findings.insert(0, Finding::good("nodes", format!("{} with Linux {}", nodes.len(), kernels.join(", "))));
    }
    findings
}

/// What is wrong with one node.
fn node(node: &Value) -> Option<Finding> {
    let info = &node["status"]["nodeInfo"];
    let name = format!("node {}", node["metadata"]["name"].as_str().unwrap_or_default());
    let word = |key: &str| info[key].as_str().unwrap_or_default();
    if word("operatingSystem") == "windows" {
        return Some(Finding::warning(name, "runs Windows", "no agent runs there, its pods are not in the mesh"));
    }
    if kernel(word("kernelVersion")).is_none_or(|version| version < KERNEL_FLOOR) {
        let (major, minor) = KERNEL_FLOOR;
        let remedy = format!("culvert needs Linux {major}.{minor} or newer with BTF; run `culvert check` on the node");
        return Some(Finding::bad(name, format!("kernel {}", word("kernelVersion")), remedy));
    }
    let ready = list(&node["status"]["conditions"]).iter().find(|one| one["type"] == "Ready");
    match ready {
        Some(ready) if ready["status"] == "True" => None,
        _ => Some(Finding::warning(name, "is not ready", "its agent starts when it is")),
    }
}

/// Major and minor number at the beginning of `5.15.0-91-generic`.
fn kernel(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Other meshes and CNI plugins that need a word.
async fn others(api: &Api) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (plural, name, namespace, remedy) in OTHERS {
        let at = format!("{}/{name}", place("apps/v1", plural, Some(namespace)));
        match api.find(&at).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                findings.push(Finding::warning(*name, format!("runs here: {plural}/{name} in {namespace}"), *remedy));
            }
            Err(error) => return vec![unknown("other meshes and CNI plugins", &error)],
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good("other meshes and CNI plugins", "none that is known to be in the way"));
    }
    findings
}

async fn installed(api: &Api, options: &Options) -> Finding {
    let name = "culvert";
    let at = place("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations/culvert", None);
    let held = match api.find(&at).await {
        Ok(Some(held)) => held,
        Ok(None) => return Finding::good(name, "not installed"),
        Err(error) => return unknown(name, &error),
    };
    let namespace = held["webhooks"][0]["clientConfig"]["service"]["namespace"].as_str().unwrap_or_default();
    let version = held["metadata"]["labels"]["app.kubernetes.io/version"].as_str().unwrap_or("unknown");
    let detail = format!("version {version} is installed in {namespace}");
    if namespace != options.namespace {
        return Finding::bad(name, detail, format!("a cluster has one: give --namespace {namespace}"));
    }
    if held["metadata"]["annotations"]["meta.helm.sh/release-name"].is_string() {
        return Finding::warning(name, format!("{detail} by Helm"), "change it with `helm upgrade`");
    }
    Finding::good(name, detail)
}

fn unknown(name: &str, error: &dyn std::fmt::Display) -> Finding {
    Finding::bad(name, error.to_string(), "cannot be told: the caller may not look")
}
