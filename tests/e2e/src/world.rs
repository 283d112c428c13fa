//! What the manifests say about who lives where: only what is needed to build the lab and to make calls. What the rules
//! mean is the control plane's and the agents' business; nothing of it is repeated here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::call::Wanted;

/// The annotation with the calls that a pod makes in the demo.
pub const CALLS: &str = "demo.culvert.dev/calls";

const ENROLL: &str = "culvert.dev/enroll";

/// Everything that has a place in the lab.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Nodes, in order of their names.
    pub nodes: Vec<String>,
    /// Pods, in order of the files and of the objects in them.
    pub pods: Vec<PodSpec>,
    /// Virtual addresses by `NAME.NAMESPACE`.
    pub services: BTreeMap<String, IpAddr>,
}

/// One pod.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`, or what the control plane makes of the name.
    pub uid: String,
    /// `spec.nodeName`.
    pub node: String,
    /// TCP `containerPort`s: the demo serves on them.
    pub ports: Vec<u16>,
    /// `status.podIP(s)`, which the lab then gives it.
    pub addresses: Vec<IpAddr>,
    /// Its namespace is enrolled and it has not opted out.
    pub enrolled: bool,
    /// What it is to call.
    pub calls: Vec<Wanted>,
}

impl PodSpec {
    /// `NAMESPACE/NAME`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl World {
    /// Reads every `*.yaml`, `*.yml` and `*.json` of a directory.
    pub fn read(directory: &Path) -> Result<World> {
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .with_context(|| format!("cannot read {}", directory.display()))?
            .collect::<std::io::Result<Vec<_>>>()?
            .into_iter()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml" || kind == "json"))
            .collect();
        files.sort();
        let mut objects = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            let documents: Vec<Value> =
                serde_saphyr::from_multiple(&text).with_context(|| format!("{} is no YAML", file.display()))?;
            objects.extend(documents.into_iter().flat_map(items));
        }
        World::of(&objects)
    }

    fn of(objects: &[Value]) -> Result<World> {
        let mut world = World::default();
        let mut enrolled_namespaces = BTreeMap::new();
        for object in objects {
            let metadata = &object["metadata"];
            match object["kind"].as_str() {
                Some("Namespace") => {
                    let wanted = metadata["labels"][ENROLL].as_str() == Some("true");
                    enrolled_namespaces.insert(text(&metadata["name"]), wanted);
                }
                Some("Node") => world.nodes.push(text(&metadata["name"])),
                Some("Service") => {
                    if let Some(Ok(address)) = object["spec"]["clusterIP"].as_str().map(str::parse) {
                        world.services.insert(format!("{}.{}", text(&metadata["name"]), namespace(metadata)), address);
                    }
                }
                Some("Pod") if object["spec"]["hostNetwork"] != true && !has_ended(object) => {
                    world.pods.push(pod(object)?);
                }
                _ => {}
            }
        }
        for pod in &mut world.pods {
            pod.enrolled &= enrolled_namespaces.get(&pod.namespace).copied().unwrap_or(false);
            if !world.nodes.contains(&pod.node) {
                world.nodes.push(pod.node.clone());
            }
        }
        world.nodes.sort();
        ensure!(!world.pods.is_empty(), "the manifests have no pod");
        ensure!(world.nodes.len() <= 9, "the lab has room for nine nodes, the manifests have {}", world.nodes.len());
        Ok(world)
    }

    /// The pod `NAME.NAMESPACE`.
    pub fn pod(&self, name: &str) -> Result<&PodSpec> {
        self.pods
            .iter()
            .find(|pod| format!("{}.{}", pod.name, pod.namespace) == name)
            .with_context(|| format!("the manifests have no pod {name}"))
    }
}

/// The objects of a List (or PodList and its like, whose items need not say what they are), else the object.
fn items(mut object: Value) -> Vec<Value> {
    let kind = object["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).map(str::to_owned);
    let (Some(kind), Some(Value::Array(items))) = (kind, object.get_mut("items").map(Value::take)) else {
        return vec![object];
    };
    let named = |mut item: Value| {
        if let Some(members) = item.as_object_mut().filter(|_| !kind.is_empty()) {
            members.entry("kind").or_insert_with(|| kind.clone().into());
        }
        item
    };
    items.into_iter().map(named).flat_map(items_of_items).collect()
}

fn items_of_items(object: Value) -> Vec<Value> {
    items(object)
}

/// Nothing runs in it any more.
fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn pod(object: &Value) -> Result<PodSpec> {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    let (name, namespace) = (text(&metadata["name"]), namespace(metadata));
    let node = text(&spec["nodeName"]);
    if node.is_empty() {
        bail!("pod {namespace}/{name} has no spec.nodeName: write the name of a node");
    }
    let opted_out = [&metadata["labels"], &metadata["annotations"]].iter().any(|keys| keys[ENROLL] == "false");
    let calls = metadata["annotations"][CALLS].as_str().unwrap_or_default();
    let uid = metadata["uid"]
        .as_str()
        .map_or_else(|| culvert_manifests::pod_uid(&namespace, &name).as_str().to_owned(), str::to_owned);
    Ok(PodSpec {
        uid,
        node,
        ports: ports(spec),
        addresses: addresses(&object["status"]),
        enrolled: !opted_out,
        calls: Wanted::read_all(calls).with_context(|| format!("pod {namespace}/{name}, annotation {CALLS}"))?,
        name,
        namespace,
    })
}

fn ports(spec: &Value) -> Vec<u16> {
    let listed = |name: &str| spec[name].as_array().map(Vec::as_slice).unwrap_or_default();
    // An init container that restarts always is a sidecar and serves as long as the pod does.
    let sidecars = listed("initContainers").iter().filter(|container| container["restartPolicy"] == "Always");
    sidecars
        .chain(listed("containers"))
        .flat_map(|container| container["ports"].as_array().map(Vec::as_slice).unwrap_or_default())
        .filter(|port| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|port| port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok()))
        .collect()
}

fn addresses(status: &Value) -> Vec<IpAddr> {
    let listed = status["podIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let listed = listed.iter().filter_map(|entry| entry["ip"].as_str());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in status["podIP"].as_str().into_iter().chain(listed).filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn namespace(metadata: &Value) -> String {
    metadata["namespace"].as_str().unwrap_or("default").to_owned()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
