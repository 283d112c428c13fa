//! `cargo xtask manifests`: the plain manifests, made from the chart for people without Helm.

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
";

pub(crate) fn write() -> Result<()> {
    let mut template = Command::new(helm::program()?);
    template.args(["template", "culvert", "deploy/helm/culvert", "--namespace", "culvert-system", "--include-crds"]);
    let rendered = shell::output(template.args(["--kube-version", "1.31.0"]).current_dir(paths::root()))?;
    std::fs::write(paths::root().join("deploy/kubernetes/culvert.yaml"), format!("{HEAD}{rendered}"))?;
    Ok(())
}
