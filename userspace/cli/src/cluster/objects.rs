//! What culvert is in a cluster: the chart's objects with values of one's own.
//!
//! `everything.yaml` is the chart with everything switched on and names in the place of values (`cargo xtask manifests`
//! writes it). Here values are put in and what is not wanted is taken out; a test compares the outcome with Helm's.

use std::path::Path;

use clap::{Args, Parser};
use ipnet::IpNet;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{ClusterError, MANAGED_BY, OURS, Server, api::list};

const EVERYTHING: &str = include_str!("everything.yaml");

/// What may be chosen: the chart's values of the same names.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Culvert's own namespace; made if it is not there.
    #[arg(long, value_name = "NAME", default_value = "culvert-system")]
    pub namespace: String,
    /// REGISTRY/REPOSITORY of the images culvert-control, culvert-agent and culvert-keeper.
    #[arg(long, value_name = "NAME", default_value = "localhost/culvert")]
    pub image_repository: String,
    /// Tag of the images; this command's version unless given.
    #[arg(long, value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"))]
    pub image_tag: String,
    /// When kubelet fetches images: Always, IfNotPresent or Never.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,
    /// Secret with the registry's credentials, in culvert's namespace; may be given again.
    #[arg(long, value_name = "NAME")]
    pub image_pull_secret: Vec<String>,
    /// Who signs and who is signed: spiffe://TRUST-DOMAIN/... Fixed by the first installation.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,
    /// What plaintext peers may do where no PeerAuthentication says anything: permissive or strict.
    #[arg(long, value_name = "MODE", default_value = "permissive")]
    pub default_mode: String,
    /// What happens where no AuthorizationPolicy says anything: allow or deny.
    #[arg(long, value_name = "ACTION", default_value = "allow")]
    pub default_action: String,
    /// Range of pods and Services where nodes do not show theirs (spec.podCIDR); may be given again.
    #[arg(long, value_name = "CIDR")]
    pub cluster_range: Vec<String>,
    /// Take istio.io/dataplane-mode: ambient and none for culvert.dev/enroll: "true" and "false".
    #[arg(long)]
    pub istio_labels: bool,
    /// Take the taint culvert.dev/agent-not-ready off each node whose agent is ready.
    #[arg(long)]
    pub startup_taint: bool,
    /// Replicas of the control plane.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub replicas: u32,
    /// No culvert-keeper: new connections are refused, instead of waiting, while a node's agent is replaced.
    #[arg(long)]
    pub no_keeper: bool,
    /// No CNI plugin: pods start outside of the mesh and are taken in when they run.
    #[arg(long)]
    pub no_cni: bool,
    /// Where the container runtime looks for CNI plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: String,
    /// Where the container runtime looks for CNI configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: String,
}

/// What the command has without flags.
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

impl Default for Options {
    fn default() -> Self {
        Flags::parse_from(["culvert"]).options
    }
}

impl Options {
    /// Refuses what would end in an object that nobody can use.
    pub fn check(&self) -> Result<(), ClusterError> {
        let bad = |flag, value: &str, why| Err(ClusterError::Option { flag, value: value.to_owned(), why });
        let any = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if !label(&self.namespace) {
            return bad("--namespace", &self.namespace, "has to be a name of lower-case letters, digits and hyphens");
        }
        if !any(&self.image_repository, "-._/:") {
            return bad("--image-repository", &self.image_repository, "has to be REGISTRY/REPOSITORY");
        }
        if !any(&self.image_tag, "-._") {
            return bad("--image-tag", &self.image_tag, "has to be a tag: letters, digits, '-', '.', '_'");
        }
        if !["Always", "IfNotPresent", "Never"].contains(&self.image_pull_policy.as_str()) {
            return bad("--image-pull-policy", &self.image_pull_policy, "is Always, IfNotPresent or Never");
        }
        if let Some(name) = self.image_pull_secret.iter().find(|name| !name.split('.').all(label)) {
            return bad("--image-pull-secret", name, "has to be the name of a Secret");
        }
        let lower = !self.trust_domain.chars().any(|c| c.is_ascii_uppercase());
        if !lower || !any(&self.trust_domain, "-._") || self.trust_domain.len() > 255 {
            return bad("--trust-domain", &self.trust_domain, "is made of lower-case letters, digits, '-', '.', '_'");
        }
        if !["permissive", "strict"].contains(&self.default_mode.as_str()) {
            return bad("--default-mode", &self.default_mode, "is permissive or strict");
        }
        if !["allow", "deny"].contains(&self.default_action.as_str()) {
            return bad("--default-action", &self.default_action, "is allow or deny");
        }
        if let Some(range) = self.cluster_range.iter().find(|range| range.parse::<IpNet>().is_err()) {
            return bad("--cluster-range", range, "has to be a range like 10.244.0.0/16");
        }
        for (flag, folder) in [("--cni-bin-dir", &self.cni_bin_dir), ("--cni-conf-dir", &self.cni_conf_dir)] {
            if !Path::new(folder).is_absolute() {
                return bad(flag, folder, "has to be an absolute path on the nodes");
            }
        }
        Ok(())
    }
}

fn label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() < 64 && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// All objects, the namespace first, then the definitions; `server`: what has to be written for another version than the
/// newest, and which kinds are there.
pub fn objects(options: &Options, server: Option<&Server>) -> Result<Vec<Value>, ClusterError> {
    options.check()?;
    let everything: Vec<Value> = serde_saphyr::from_multiple(EVERYTHING).unwrap_or_default();
    let mut objects = vec![json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": options.namespace, "labels": {"app.kubernetes.io/part-of": "culvert",
            // Agents are of the node: a cluster that holds its namespaces to `baseline` would make none of their pods.
            "pod-security.kubernetes.io/enforce": "privileged"}}})];
    for mut object in everything {
        if !wanted(&object, options, server) {
            continue;
        }
        fill(&mut object, options);
        thin(&mut object, options);
        if object["kind"] == "Deployment" {
            object["spec"]["replicas"] = options.replicas.into();
            if options.replicas == 1 {
                // The only one stays until the next one is ready.
                object["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] = 0.into();
            }
        }
        if let Some(server) = server {
            older(&mut object, server.minor);
        }
        objects.push(object);
    }
    for object in &mut objects {
        sign(object);
        name_job(object);
    }
    Ok(objects)
}

/// Multi-document YAML.
pub fn to_yaml(objects: &[Value]) -> String {
    let one = |object: &Value| serde_saphyr::to_string(object).unwrap_or_default();
    objects.iter().map(|object| format!("---\n{}", one(object))).collect()
}

fn wanted(object: &Value, options: &Options, server: Option<&Server>) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match object["apiVersion"].as_str().unwrap_or_default() {
        monitors if monitors.starts_with("monitoring.coreos.com/") => {
            server.is_some_and(|server| server.serves.contains(monitors))
        }
        _ => !(options.no_keeper && name == "culvert-keeper" || options.no_cni && name == "culvert-cni"),
    }
}

/// Puts values in the place of their names.
fn fill(value: &mut Value, options: &Options) {
    match value {
        Value::String(text) if text.contains("here") => {
            for (name, content) in [
                ("namespace-here", &options.namespace),
                ("repository.here", &options.image_repository),
                ("tag.here", &options.image_tag),
                ("pull-policy-here", &options.image_pull_policy),
                ("trust-domain.here", &options.trust_domain),
                ("default-mode-here", &options.default_mode),
                ("default-action-here", &options.default_action),
                ("/cni-bin-dir-here", &options.cni_bin_dir),
                ("/cni-conf-dir-here", &options.cni_conf_dir),
            ] {
                *text = text.replace(name, content);
            }
        }
        Value::Array(items) => {
            let several = |items: &mut Vec<Value>, name: &str, values: &[String]| {
                if let Some(at) = items.iter().position(|item| item.to_string().contains(name)) {
                    let text = items[at].to_string();
                    let filled =
                        values.iter().filter_map(|value| serde_json::from_str(&text.replace(name, value)).ok());
                    items.splice(at..=at, filled.collect::<Vec<_>>());
                }
            };
            // Only in the list itself: an object with such a list somewhere inside is left to the recursion.
            if items.iter().all(|item| item.is_string() || item.as_object().is_some_and(|map| map.len() == 1)) {
                several(items, "cluster-range-here", &options.cluster_range);
                several(items, "pull-secret-here", &options.image_pull_secret);
            }
            items.iter_mut().for_each(|item| fill(item, options));
        }
        Value::Object(map) => {
            map.values_mut().for_each(|item| fill(item, options));
            if map.get("imagePullSecrets").is_some_and(|secrets| list(secrets).is_empty()) {
                map.remove("imagePullSecrets");
            }
        }
        _ => {}
    }
}

/// Takes out of an object what is not wanted.
fn thin(object: &mut Value, options: &Options) {
    let out_words = |word: &str| {
        options.no_keeper && (word.starts_with("--keeper=") || word.starts_with("--drain="))
            || options.no_cni && word.starts_with("--cni-")
            || !options.istio_labels && word == "--istio-labels"
            || !options.startup_taint && word == "--startup-taint"
    };
    let out_names = |name: &str| {
        options.no_keeper && name == "keeper"
            || options.no_cni && (name.starts_with("cni-") || name.starts_with("CULVERT_CNI_"))
    };
    if object["kind"] == "ClusterRole" && !options.startup_taint {
        let change_nodes = json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]});
        if let Value::Array(rules) = &mut object["rules"] {
            rules.retain(|rule| *rule != change_nodes);
        }
    }
    if options.no_keeper && object["kind"] == "DaemonSet" && object["metadata"]["name"] == "culvert-agent" {
        // The chart's, for the same case: without a keeper what is open has a while to end.
        object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 15.into();
    }
    for list in ["/volumes", "/containers/0/volumeMounts", "/containers/0/env"] {
        if let Some(Value::Array(items)) = object.pointer_mut(&format!("/spec/template/spec{list}")) {
            items.retain(|item| !item["name"].as_str().is_some_and(out_names));
        }
    }
    if let Some(Value::Array(words)) = object.pointer_mut("/spec/template/spec/containers/0/args") {
        words.retain(|word| !word.as_str().is_some_and(out_words));
    }
}

/// As a server of Kubernetes 1.`minor` knows it.
fn older(object: &mut Value, minor: u32) {
    match object["kind"].as_str() {
        Some("PodDisruptionBudget") if minor < 21 => object["apiVersion"] = "policy/v1beta1".into(),
        Some("CronJob") if minor < 21 => object["apiVersion"] = "batch/v1beta1".into(),
        Some("DaemonSet") if minor < 30 => {
            // The field is of 1.30; before, an annotation says the same.
            let template = &mut object["spec"]["template"];
            let profile = template
                .pointer_mut("/spec/containers/0/securityContext")
                .and_then(Value::as_object_mut)
                .and_then(|context| context.remove("appArmorProfile"));
            if profile.is_some() {
                template["metadata"]["annotations"]["container.apparmor.security.beta.kubernetes.io/agent"] =
                    "unconfined".into();
            }
        }
        _ => {}
    }
}

/// Says whose the objects are: this command's, not Helm's.
fn sign(value: &mut Value) {
    if value["kind"] == "CustomResourceDefinition" || value["kind"] == "Namespace" {
        value["metadata"]["labels"][MANAGED_BY] = OURS.into();
        return;
    }
    fn labels(value: &mut Value) {
        match value {
            Value::Object(map) => {
                if map.get(MANAGED_BY).is_some_and(Value::is_string) {
                    map.insert(MANAGED_BY.to_owned(), OURS.into());
                    map.remove("helm.sh/chart");
                }
                map.values_mut().for_each(labels);
            }
            Value::Array(items) => items.iter_mut().for_each(labels),
            _ => {}
        }
    }
    labels(value);
}

/// A job cannot be changed: another one has another name.
fn name_job(object: &mut Value) {
    if object["kind"] == "Job" {
        let digest = Sha256::digest(object["spec"].to_string());
        object["metadata"]["name"] = format!("culvert-keys-{}", hex::encode(&digest[..4])).into();
    }
}
