//! Manifests for tests that need no story: one enrolled namespace, clients and a server on two nodes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The mesh, closed both ways, with the nodes of the lab.
const MESH: &str = "\
apiVersion: culvert.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec: {trustDomain: cluster.local, defaultMode: STRICT, defaultAction: DENY, serviceCIDRs: [10.96.0.0/16]}
---
apiVersion: v1
kind: Node
metadata: {name: node1}
spec: {podCIDRs: [10.244.1.0/24, \"fd00:10:244:1::/64\"]}
---
apiVersion: v1
kind: Node
metadata: {name: node2}
spec: {podCIDRs: [10.244.2.0/24, \"fd00:10:244:2::/64\"]}
---
apiVersion: v1
kind: Namespace
metadata: {name: app, labels: {culvert.dev/enroll: \"true\"}}
---
apiVersion: v1
kind: Namespace
metadata: {name: outside}
";

/// Every pod of `app` may call every other.
const ALLOW: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: everybody, namespace: app}
spec:
  action: ALLOW
  rules: [{from: [{source: {namespaces: [app]}}]}]
";

/// Pods `NAME` on node `NODE`, each with a service account of its own name, in the enrolled namespace `app`; and
/// `stranger.outside` on node1, which is not enrolled.
pub fn manifests(pods: &[(&str, &str)]) -> Result<PathBuf> {
    let folder = PathBuf::from("/run/lab/fixture");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("mesh.yaml"), MESH)?;
    std::fs::write(folder.join("allow.yaml"), ALLOW)?;
    let mut text = pod("stranger", "outside", "node1", Some("10.244.1.99"));
    for (name, node) in pods {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: app}}\n---\n{}",
            pod(name, "app", node, None)
        );
    }
    std::fs::write(folder.join("pods.yaml"), text)?;
    Ok(folder)
}

fn pod(name: &str, namespace: &str, node: &str, address: Option<&str>) -> String {
    let account = if address.is_some() { "default" } else { name };
    let status = address.map_or_else(String::new, |address| format!("status: {{podIP: {address}}}\n"));
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
         spec: {{nodeName: {node}, serviceAccountName: {account}, containers: [{{name: c, image: i, \
         ports: [{{containerPort: 8080}}]}}]}}\n{status}"
    )
}

/// Writes a pod's address down, so that it is known whether or not anybody reports it.
pub fn address(manifests: &Path, pod: &str, address: &str) -> Result<()> {
    let file = manifests.join("pods.yaml");
    let pods = std::fs::read_to_string(&file)?;
    let begin = format!("kind: Pod\nmetadata: {{name: {pod},");
    let parts = pods.split("---\n").map(|part| match part.contains(&begin) {
        true => format!("{part}status: {{podIP: {address}}}\n"),
        false => part.to_owned(),
    });
    Ok(std::fs::write(&file, parts.collect::<Vec<_>>().join("---\n"))?)
}

/// From now on pods of `app` ask nobody who he is.
pub fn allow_anybody(manifests: &Path) -> Result<()> {
    let text = ALLOW.replace("[{from: [{source: {namespaces: [app]}}]}]", "[{}]");
    let beside = manifests.join(".allow.yaml.new");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(beside, manifests.join("allow.yaml"))?)
}

/// Refuses `source` (a service account of `app`) at every pod of `app` from now on.
pub fn deny(manifests: &Path, source: &str) -> Result<()> {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: not-{source}, namespace: app}}\n\
         spec:\n  action: DENY\n  rules: [{{from: [{{source: {{serviceAccounts: [app/{source}]}}}}]}}]\n"
    );
    // Put in place in one step, as configuration management does.
    let beside = manifests.join(".deny.yaml.new");
    std::fs::write(&beside, text)?;
    Ok(std::fs::rename(beside, manifests.join(format!("deny-{source}.yaml")))?)
}
