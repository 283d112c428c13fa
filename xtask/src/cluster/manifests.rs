//! `cargo xtask manifests`: what is made from the chart for people without Helm.

use std::process::Command;

use anyhow::Result;

use crate::cluster::helm;
use crate::{paths, shell};

const HEAD: &str = "# Made from deploy/helm/culvert by `cargo xtask manifests`, for Kubernetes 1.21 and newer:
#   kubectl apply --server-side -f deploy/kubernetes/culvert.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: culvert-system
  labels:
    # Agents are of the node: where namespaces are held to `baseline`, none of their pods would be made.
    pod-security.kubernetes.io/enforce: privileged
";

/// Everything that the chart can give, with names in the place of values: `culvert install` puts values there and takes
/// out what is not wanted.
pub(crate) const EVERYTHING: &[&str] = &[
    "images.repository=repository.here",
    "images.tag=tag.here",
    "images.pullPolicy=pull-policy-here",
    "images.pullSecrets[0].name=pull-secret-here",
    "trustDomain=trust-domain.here",
    "mesh.defaultMode=default-mode-here",
    "mesh.defaultAction=default-action-here",
    "mesh.clusterRanges[0]=cluster-range-here",
    "mesh.istioLabels=true",
    "startupTaint=true",
    "agent.cni.binDir=/cni-bin-dir-here",
    "agent.cni.confDir=/cni-conf-dir-here",
];

pub(crate) fn write() -> Result<()> {
    let helm = helm::program()?;
    let template = |namespace: &str| {
        let mut template = Command::new(&helm);
        template.args(["template", "culvert", "deploy/helm/culvert", "--include-crds", "--kube-version", "1.31.0"]);
        template.args(["--no-hooks", "--namespace", namespace]).current_dir(paths::root());
        template
    };
    let rendered = shell::output(&mut template("culvert-system"))?;
    std::fs::write(paths::root().join("deploy/kubernetes/culvert.yaml"), format!("{HEAD}{rendered}"))?;
    let mut everything = template("namespace-here");
    // Names in the place of values are no values.
    everything.args(["--api-versions", "monitoring.coreos.com/v1/ServiceMonitor", "--skip-schema-validation"]);
    for value in EVERYTHING {
        everything.args(["--set", value]);
    }
    let rendered = shell::output(&mut everything)?;
    std::fs::write(paths::root().join("userspace/cli/src/cluster/everything.yaml"), rendered)?;
    Ok(())
}
