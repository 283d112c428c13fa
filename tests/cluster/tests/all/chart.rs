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
        ("images.tag=v1.2_3-rc.4", ""),
        ("agent.maxUnavailable=10%", ""),
        ("control.podAnnotations.a=b", ""),
        ("control.replica=3", "'replica' not allowed"),
        // Null takes a default away: what is left must not be off in silence.
        ("agent.cni.enabled=null", "missing property 'enabled'"),
        ("keys.managed=null", "missing property 'managed'"),
        ("images=null", "missing property 'images'"),
        ("images.tag=sha256:abcd", "/images/tag"),
        ("images.repository=registry/", "/images/repository"),
        ("control.leafLife=1", "/control/leafLife"),
        ("mesh.clusterRanges[0]=foo/99", "/mesh/clusterRanges/0"),
        ("agent.cni.binDir=/", "/agent/cni/binDir"),
        ("agent.maxUnavailable=0", "/agent/maxUnavailable"),
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

/// Agents need what a container runtime's profiles forbid; everything keeps off Windows, and jobs run where the control
/// plane may.
#[test]
fn pods_have_the_profiles_and_the_places_that_they_need() -> Result<()> {
    let cluster = Cluster::bare()?;
    let chart = cluster.repository().join("deploy/helm/culvert");
    for (version, field) in [("1.31.0", true), ("1.29.0", false)] {
        let mut template = cluster.helm();
        template.args(["template", "123"]).arg(&chart).args(["--namespace", "456", "--kube-version", version]);
        template.args(["--set", "control.nodeSelector.pool=infra,agent.nodeSelector.mesh=yes,agent.log=info #x"]);
        template.args(["--set", "control.tolerations[0].key=dedicated,control.replicas=1"]);
        let rendered = template.output()?;
        ensure!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
        let objects: Vec<Value> = serde_saphyr::from_multiple(&String::from_utf8(rendered.stdout)?)?;
        let find = |kind: &str, name: &str| {
            let mut found = objects.iter().filter(|one| one["kind"] == kind);
            let found = found.find(|one| one["metadata"]["name"].as_str().is_some_and(|known| known.starts_with(name)));
            found.with_context(|| format!("{kind} {name}"))
        };
        let template = &find("DaemonSet", "culvert-agent")?["spec"]["template"];
        let context = &template["spec"]["containers"][0]["securityContext"];
        ensure!(context["seccompProfile"]["type"] == "Unconfined", "{context}");
        ensure!((context["appArmorProfile"]["type"] == "Unconfined") == field, "{context}");
        let annotation = &template["metadata"]["annotations"]["container.apparmor.security.beta.kubernetes.io/agent"];
        ensure!((annotation == "unconfined") != field, "{version}: {annotation}");
        let words = &template["spec"]["containers"][0]["args"];
        ensure!(words.as_array().is_some_and(|words| words.contains(&json!("--log=info #x"))), "{words}");
        ensure!(template["metadata"]["labels"]["app.kubernetes.io/instance"] == "123", "{template}");
        let control = find("Deployment", "culvert-control")?;
        ensure!(control["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0, "{control}");
        for (object, own) in [
            (&template["spec"], json!({"kubernetes.io/os": "linux", "mesh": "yes"})),
            (
                &find("DaemonSet", "culvert-keeper")?["spec"]["template"]["spec"],
                json!({"kubernetes.io/os": "linux", "mesh": "yes"}),
            ),
            (&control["spec"]["template"]["spec"], json!({"kubernetes.io/os": "linux", "pool": "infra"})),
            (
                &find("Job", "culvert-keys-")?["spec"]["template"]["spec"],
                json!({"kubernetes.io/os": "linux", "pool": "infra"}),
            ),
            (
                &find("Job", "culvert-leave")?["spec"]["template"]["spec"],
                json!({"kubernetes.io/os": "linux", "pool": "infra"}),
            ),
            (
                &find("CronJob", "culvert-keys")?["spec"]["jobTemplate"]["spec"]["template"]["spec"],
                json!({"kubernetes.io/os": "linux", "pool": "infra"}),
            ),
        ] {
            ensure!(object["nodeSelector"] == own, "{object}");
        }
        let keys = &find("Job", "culvert-keys-")?["spec"]["template"]["spec"]["tolerations"];
        ensure!(keys.as_array().is_some_and(|all| all.contains(&json!({"key": "dedicated"}))), "{keys}");
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
