//! The chart, the manifests that are made from it, and the dashboard.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use culvert_cluster::{App, Cluster, Namespace};
use serde_json::{Value, json};

#[test]
fn the_plain_manifests_are_what_the_chart_gives() -> Result<()> {
    let cluster = Cluster::bare()?;
    let chart = cluster.repository().join("deploy/helm/culvert");
    let linted = cluster.helm().arg("lint").arg(&chart).output()?;
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stdout));
    let mut template = cluster.helm();
    template.args(["template", "culvert"]).arg(&chart);
    template.args(["--namespace", "culvert-system", "--include-crds", "--no-hooks", "--kube-version", "1.31.0"]);
    let rendered = template.output()?;
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let rendered = String::from_utf8(rendered.stdout)?;
    let written = std::fs::read_to_string(cluster.repository().join("deploy/kubernetes/culvert.yaml"))?;
    assert!(written.ends_with(&rendered), "deploy/kubernetes/culvert.yaml is old: run `cargo xtask manifests`");
    Ok(())
}

/// A slip in a value's name would be passed over in silence, and a wrong value be found by the pods only.
#[test]
fn values_that_the_chart_does_not_have_or_cannot_take_are_refused() -> Result<()> {
    let cluster = Cluster::bare()?;
    let chart = cluster.repository().join("deploy/helm/culvert");
    for (value, refused) in [
        ("keys.managed=false", ""),
        ("keys.schedule=@daily", ""),
        ("enabled=true", ""),
        ("control.replica=3", "'replica' not allowed"),
        ("mesh.defaultMode=stict", "/mesh/defaultMode"),
        ("control.replicas=0", "/control/replicas"),
        ("agent.cni.binDir=opt/cni/bin", "/agent/cni/binDir"),
    ] {
        let rendered = cluster.helm().args(["template", "culvert"]).arg(&chart).args(["--set", value]).output()?;
        let said = String::from_utf8_lossy(&rendered.stderr);
        ensure!(rendered.status.success() == refused.is_empty() && said.contains(refused), "{value}: {said}");
    }
    Ok(())
}

/// Names in PromQL that are metrics of ours.
fn metrics_in(expression: &str) -> impl Iterator<Item = &str> {
    expression
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("culvert_") || word.starts_with("istio_"))
}

/// A call that gets through and one that does not: some families are there only once they count something.
fn traffic(cluster: &'static Cluster) -> Result<Namespace> {
    let space = Namespace::new(cluster, "dashboard", &json!({"culvert.dev/enroll": "true"}))?;
    space.run(&[App::server("web", "node2"), App::idle("client", "node1")])?;
    let service = space.service("web", 80, 8080)?;
    space.reaches("client", &service, "web")?;
    let deny = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": "dashboard"}, "spec": {},
    });
    cluster.apply(&deny.to_string())?;
    space.refused("client", &service)?;
    Ok(space)
}

#[test]
fn every_metric_of_the_dashboard_is_one_that_an_agent_serves() -> Result<()> {
    let cluster = Cluster::get()?;
    let text = std::fs::read_to_string(cluster.repository().join("deploy/helm/culvert/files/dashboard.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let expressions = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<&str> = expressions.filter_map(|target| target["expr"].as_str()).collect();
    let asked: BTreeSet<&str> = expressions.iter().flat_map(|expression| metrics_in(expression)).collect();
    ensure!(asked.len() > 8, "the dashboard asks for {asked:?} only");
    let space = traffic(cluster)?;
    let mut known = BTreeSet::new();
    for node in ["node1", "node2"] {
        let pod = cluster.agent(node)?.pod().to_owned();
        let path = format!("/api/v1/namespaces/culvert-system/pods/{pod}:15020/proxy/metrics");
        let served = cluster.kubectl(&["get", "--raw", &path])?;
        // A counter's family is described without its ending, a histogram's without its parts.
        let families = served.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        known.extend(families.map(str::to_owned));
    }
    drop(space);
    let family = |name: &str| {
        let name = name.strip_suffix("_total").or_else(|| name.strip_suffix("_bucket")).unwrap_or(name);
        known.contains(name)
    };
    let strange: Vec<&&str> = asked.iter().filter(|name| !family(name)).collect();
    assert!(strange.is_empty(), "no agent serves {strange:?}; served are {known:?}");
    Ok(())
}
