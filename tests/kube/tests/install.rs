//! `culvert install`, `uninstall` and `check --cluster` against a real API server.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{sync::Mutex, time::Duration};

use culvert_cli::cluster::{
    Access, Api, ClusterError, Leave, Options, Server as Kubernetes, check, install, objects, uninstall,
};
use culvert_control::api::Body;
use culvert_kube_tests::{Agent, Control, Server, eventually, run};
use culvert_lab::{
    anyhow::{Context as _, Result, ensure},
    in_sandbox,
};
use culvert_wire::proto::culvert::{NodeReport, status_service_client::StatusServiceClient};
use serde_json::{Value, json};

const NAMESPACE: &str = "culvert-system";
const NO_WAIT: Duration = Duration::ZERO;

async fn api() -> Result<Api> {
    let kubeconfig = Some("/run/kube/kubeconfig".into());
    Ok(Api::connect(&Access { kubeconfig, ..Access::default() }).await?)
}

/// What was said, beside the outcome.
struct Said(Mutex<Vec<String>>);

impl Said {
    fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

async fn installed(api: &Api, options: &Options) -> Result<Vec<String>, ClusterError> {
    let said = Said::new();
    install(api, options, NO_WAIT, &|line| said.0.lock().unwrap().push(line)).await?;
    Ok(said.lines())
}

async fn left(api: &Api, limit: Duration) -> Result<Vec<String>, ClusterError> {
    let said = Said::new();
    uninstall(api, NAMESPACE, Leave::Everything, limit, &|line| said.0.lock().unwrap().push(line)).await?;
    Ok(said.lines())
}

fn named(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}})
}

fn node(name: &str, ready: &str, taints: Value) -> Value {
    let metadata = json!({"name": name, "labels": {"kubernetes.io/os": "linux"}});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": ready}],
            "nodeInfo": {"kernelVersion": "5.10.0-8-amd64", "operatingSystem": "linux", "architecture": "amd64",
                "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "5.10.0-8-amd64", "kubeProxyVersion": "",
                "kubeletVersion": "", "machineID": "", "osImage": "", "systemUUID": ""}}})
}

/// Plays the kubelets of `nodes`: pods that are to leave end well.
async fn kubelets(server: &Server, nodes: &[&str]) {
    loop {
        for node in nodes {
            let pod = named("v1", "Pod", &format!("culvert-leave-{node}"));
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/culvert-leave-{node}/status");
            let done = json!({"status": {"phase": "Succeeded"}});
            if server.get(&pod).await.is_ok() {
                let _ = server.api.send(http::Method::PATCH, &path, Body::Merge, &done).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What only says who put an object there, and names that only one of both has.
fn unsigned(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("kind").is_some_and(|kind| kind == "Job") {
                map["metadata"]["name"] = "job".into();
            }
            map.remove("app.kubernetes.io/managed-by");
            map.remove("helm.sh/chart");
            map.values_mut().for_each(unsigned);
            if map.get("labels").is_some_and(|labels| *labels == json!({})) {
                map.remove("labels");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(unsigned),
        _ => {}
    }
}

/// The first place where two objects differ, and what stands there.
fn difference(place: String, ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        _ if ours == theirs => None,
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
            names.into_iter().find_map(|name| difference(format!("{place}.{name}"), &ours[name], &theirs[name]))
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let mut both = one.iter().zip(other).enumerate();
            both.find_map(|(number, (one, other))| difference(format!("{place}[{number}]"), one, other))
        }
        _ => Some(format!("{place}: {ours} here, {theirs} by Helm")),
    }
}

/// What Helm makes of the chart, on a server that has the Prometheus operator's kinds.
fn helms(minor: u32, set: &[&str]) -> Result<Vec<Value>> {
    let home = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from);
    let home =
        home.or_else(|| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).context("HOME")?;
    let chart = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/culvert");
    let mut helm = std::process::Command::new(home.join("culvert/cluster/helm/helm"));
    helm.args(["template", "culvert", "--namespace", "mesh", "--include-crds", "--no-hooks"]).arg(chart);
    helm.args(["--kube-version", &format!("1.{minor}.0"), "--api-versions", "monitoring.coreos.com/v1/ServiceMonitor"]);
    for word in set {
        helm.args(["--set", word]);
    }
    let done = helm.output().context("helm is not in the cache: `cargo xtask cluster test` puts it there")?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(serde_saphyr::from_multiple(&String::from_utf8(done.stdout)?)?)
}

#[test]
fn options_give_what_helm_gives_for_the_same_values() {
    let plain = Options { namespace: "mesh".to_owned(), ..Options::default() };
    let rows: Vec<(Options, u32, Vec<&str>)> = vec![
        (plain.clone(), 31, vec![]),
        (plain.clone(), 29, vec![]),
        (plain.clone(), 20, vec![]),
        (Options { replicas: 1, ..plain.clone() }, 31, vec!["control.replicas=1"]),
        (Options { no_keeper: true, ..plain.clone() }, 31, vec!["keeper.enabled=false"]),
        (Options { no_cni: true, ..plain.clone() }, 31, vec!["agent.cni.enabled=false"]),
        (Options { istio_labels: true, ..plain.clone() }, 31, vec!["mesh.istioLabels=true"]),
        (
            Options { startup_taint: true, replicas: 3, ..plain.clone() },
            31,
            vec!["startupTaint=true", "control.replicas=3"],
        ),
        (
            Options {
                image_repository: "registry.example/x".to_owned(),
                image_tag: "v7".to_owned(),
                image_pull_policy: "Always".to_owned(),
                image_pull_secret: vec!["one".to_owned(), "two".to_owned()],
                trust_domain: "prod.example".to_owned(),
                default_mode: "strict".to_owned(),
                default_action: "deny".to_owned(),
                cluster_range: vec!["10.1.0.0/16".to_owned(), "fd00::/48".to_owned()],
                cni_bin_dir: "/a/bin".to_owned(),
                cni_conf_dir: "/a/conf".to_owned(),
                ..plain
            },
            31,
            vec![
                "images.repository=registry.example/x",
                "images.tag=v7",
                "images.pullPolicy=Always",
                "images.pullSecrets[0].name=one",
                "images.pullSecrets[1].name=two",
                "trustDomain=prod.example",
                "mesh.defaultMode=strict",
                "mesh.defaultAction=deny",
                "mesh.clusterRanges={10.1.0.0/16,fd00::/48}",
                "agent.cni.binDir=/a/bin",
                "agent.cni.confDir=/a/conf",
            ],
        ),
    ];
    for (options, minor, set) in rows {
        let serves = ["monitoring.coreos.com/v1".to_owned()].into();
        let server = Kubernetes { version: format!("v1.{minor}"), minor, serves };
        let mut ours = objects(&options, Some(&server)).unwrap();
        let mut theirs = helms(minor, &set).unwrap();
        ours.iter_mut().chain(&mut theirs).for_each(unsigned);
        // The namespace is Helm's own doing.
        assert_eq!(ours.len() - 1, theirs.len(), "{set:?}");
        for (ours, theirs) in ours[1..].iter().zip(&theirs) {
            let place = format!("{set:?} {} {}", ours["kind"], ours["metadata"]["name"]);
            assert_eq!(difference(place, ours, theirs), None);
        }
    }
}

#[test]
fn an_installation_is_repeatable_follows_its_options_and_goes_without_a_trace() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        let api = api().await?;
        server.apply(&node("n1", "True", json!([]))).await?;
        server.apply(&node("n2", "False", json!([]))).await?;
        let findings = check::check(&api, &Options::default()).await?;
        ensure!(findings.iter().all(|finding| !finding.fatal), "{findings:#?}");
        let first = installed(&api, &Options::default()).await?;
        ensure!(first.iter().filter(|line| line.ends_with(": created")).count() > 25, "{first:#?}");
        let second = installed(&api, &Options::default()).await?;
        ensure!(second.is_empty(), "a second run has changed something: {second:#?}");
        let without = installed(&api, &Options { no_keeper: true, ..Options::default() }).await?;
        ensure!(without.contains(&"DaemonSet culvert-system/culvert-keeper: removed".to_owned()), "{without:#?}");
        ensure!(without.contains(&"DaemonSet culvert-system/culvert-agent: changed".to_owned()), "{without:#?}");
        let other = Options { namespace: "elsewhere".to_owned(), ..Options::default() };
        let error = installed(&api, &other).await.err().context("two installations")?;
        ensure!(
            error.reason() == "owned_by_another" && error.to_string().contains("--namespace culvert-system"),
            "{error}"
        );

        // Nobody plays the kubelets: nodes are not left, and nothing else is removed.
        let error = left(&api, Duration::from_secs(1)).await.err().context("nodes were left by nobody")?;
        ensure!(error.reason() == "nodes_not_left" && error.to_string().contains("Node n1"), "{error}");
        server.get(&named("apps/v1", "DaemonSet", "culvert-agent")).await?;
        let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": "default", "namespace": "default"}, "spec": {"mtls": {"mode": "STRICT"}}});
        eventually("the definition serves", async || server.apply(&policy).await.ok()).await?;
        let gone = tokio::select! {
            gone = left(&api, Duration::from_secs(40)) => gone?,
            () = kubelets(&server, &["n1"]) => Vec::new(),
        };
        for line in [
            "Node n1: nothing of culvert is left",
            "Node n2: not ready, it is not taken care of: run this again when it is back",
            "CustomResourceDefinition peerauthentications.security.istio.io: kept, there are 1 objects of it",
            "CustomResourceDefinition authorizationpolicies.security.istio.io: removed",
            "Namespace culvert-system: removed",
        ] {
            ensure!(gone.iter().any(|said| said == line), "{line:?} is missing in {gone:#?}");
        }
        server.get(&policy).await.context("a policy went with culvert")?;
        for (api_version, kind, name) in [
            ("apps/v1", "Deployment", "culvert-control"),
            ("apps/v1", "DaemonSet", "culvert-agent"),
            ("rbac.authorization.k8s.io/v1", "Role", "culvert-keys"),
            ("v1", "Secret", "culvert-cni"),
            ("v1", "Pod", "culvert-leave-n1"),
        ] {
            ensure!(server.get(&named(api_version, kind, name)).await.is_err(), "{kind} {name} is left");
        }
        for path in ["clusterroles", "clusterrolebindings"] {
            let all = server.api.get(&format!("/apis/rbac.authorization.k8s.io/v1/{path}")).await?;
            ensure!(!all.to_string().contains("culvert"), "{path} of culvert's are left");
        }
        let error = left(&api, NO_WAIT).await;
        ensure!(error.as_ref().is_err_and(|error| error.reason() == "not_installed") || error.is_ok(), "{error:?}");
        Ok(())
    }));
}

#[test]
fn what_belongs_to_others_is_left_alone_or_refused_by_name() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        let api = api().await?;
        let mut foreign = culvert_policy::istio::definitions();
        for definition in &mut foreign {
            definition["metadata"]["labels"] = json!({"release": "istio"});
            server.apply(definition).await?;
        }
        eventually("the definitions are served", async || {
            let held = server.get(&foreign[0]).await.ok()?;
            let conditions = held["status"]["conditions"].as_array()?;
            conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True").then_some(())
        })
        .await?;
        let before = server.get(&foreign[0]).await?["metadata"]["resourceVersion"].clone();
        let said = installed(&api, &Options::default()).await?;
        ensure!(
            said.iter().any(|line| line.contains("left as it is, it belongs to istio (label release)")),
            "{said:#?}"
        );

        // A field that somebody else has set to another value.
        let mut control = server.get(&named("apps/v1", "Deployment", "culvert-control")).await?;
        control["spec"]["replicas"] = 5.into();
        let path = "/apis/apps/v1/namespaces/culvert-system/deployments/culvert-control";
        server
            .api
            .send(http::Method::PUT, &format!("{path}?fieldManager=an-autoscaler"), Body::Whole, &control)
            .await?;
        let error = installed(&api, &Options::default()).await.err().context("a field was taken over")?;
        let text = error.to_string();
        ensure!(error.reason() == "field_conflict", "{text}");
        for word in ["Deployment culvert-system/culvert-control", ".spec.replicas", "an-autoscaler"] {
            ensure!(text.contains(word), "{word} is missing in: {text}");
        }
        ensure!(server.get(&control).await?["spec"]["replicas"] == 5, "it was taken over");

        // What Helm has installed.
        let helms = json!({"metadata": {"annotations":
            {"meta.helm.sh/release-name": "mesh", "meta.helm.sh/release-namespace": NAMESPACE}}});
        server.api.send(http::Method::PATCH, path, Body::Merge, &helms).await?;
        let error = installed(&api, &Options::default()).await.err().context("Helm's was changed")?;
        ensure!(error.reason() == "owned_by_another" && error.to_string().contains("Helm release mesh"), "{error}");
        let unhelm = json!({"metadata": {"annotations": {"meta.helm.sh/release-name": null}}});
        server.api.send(http::Method::PATCH, path, Body::Merge, &unhelm).await?;

        let gone = left(&api, Duration::from_secs(20)).await?;
        ensure!(gone.iter().any(|line| line.contains("left as it is, it belongs to istio")), "{gone:#?}");
        ensure!(server.get(&foreign[0]).await?["metadata"]["resourceVersion"] == before, "another's was touched");

        // One that lacks every version that can be read.
        let mut old = server.get(&foreign[0]).await?;
        let name = old["metadata"]["name"].as_str().context("a name")?.to_owned();
        server.delete(&foreign[0]).await?;
        eventually("it is gone", async || server.get(&foreign[0]).await.err().map(drop)).await?;
        old["metadata"] = json!({"name": name, "labels": {"app": "someone"}});
        let mut version = old["spec"]["versions"][0].clone();
        version["name"] = "v7".into();
        version["storage"] = true.into();
        old["spec"]["versions"] = json!([version]);
        old.as_object_mut().context("an object")?.remove("status");
        server.apply(&old).await?;
        let error = installed(&api, &Options::default()).await.err().context("an unusable definition was taken")?;
        ensure!(error.reason() == "definition_unusable" && error.to_string().contains("someone"), "{error}");
        let findings = check::check(&api, &Options::default()).await?;
        ensure!(findings.iter().any(|finding| finding.fatal && finding.name.contains(&name)), "{findings:#?}");
        Ok(())
    }));
}

const OUR_TAINT: &str = "culvert.dev/agent-not-ready";

/// The keys of a node's taints, without those that Kubernetes adds to a node that no kubelet serves.
fn keys(node: &Value) -> Vec<&str> {
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    taints.filter_map(|taint| taint["key"].as_str()).filter(|key| !key.starts_with("node.kubernetes.io/")).collect()
}

/// The rights of the chart are enough for the job and for the control plane, which takes the start-up taint off.
#[test]
fn what_was_installed_is_enough_to_run_and_the_taint_goes_when_the_agent_is_ready() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        let options = Options { startup_taint: true, ..Options::default() };
        installed(&api().await?, &options).await?;
        Control::job(&server, &[]).await?;
        let control = Control::start(&server, 15012, &["--startup-taint"]).await?;
        let ours = json!({"key": OUR_TAINT, "value": "", "effect": "NoSchedule"});
        let others = json!({"key": "example.com/other", "value": "1", "effect": "NoExecute"});
        let made = server.apply(&node("n1", "True", json!([ours, others]))).await?;
        ensure!(keys(&made) == [OUR_TAINT, "example.com/other"], "{made}");
        let agent = Agent::join(&server, &control, "agent-1", "n1").await?;
        agent.stream().await?;
        // It has joined and says nothing yet: it is not ready.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let held = server.get(&made).await?;
        ensure!(keys(&held) == [OUR_TAINT, "example.com/other"], "too early: {held}");
        let report = NodeReport { enforced_generation: 1, ..NodeReport::default() };
        let mut client = StatusServiceClient::new(agent.port.channel(agent.identity.identity()));
        client.report(tokio_stream::iter([report])).await?;
        eventually("the taint is off", async || {
            let held = server.get(&made).await.ok()?;
            (keys(&held) == ["example.com/other"]).then_some(())
        })
        .await?;
        control.stop().await;
        Ok(())
    }));
}

#[test]
fn who_may_not_install_is_told_before_anything_is_changed() {
    in_sandbox!(|| run(async {
        let server = Server::start().await?;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": "default"}});
        server.apply(&account).await?;
        let token = server.token(("default", "nobody"), "https://kubernetes.default.svc", 3600, None).await?;
        let kubeconfig = Some(server.kubeconfig_of("nobody", &token)?);
        let weak = Api::connect(&Access { kubeconfig, ..Access::default() }).await?;
        let options = Options::default();
        let findings = check::check(&weak, &options).await?;
        let rights = findings.iter().find(|finding| finding.name == "rights of the caller").context("rights")?;
        ensure!(rights.fatal && rights.detail.contains("create namespaces"), "{rights:?}");
        let nodes = findings.iter().find(|finding| finding.name == "nodes").context("nodes")?;
        ensure!(nodes.fatal && nodes.detail.contains("403"), "{nodes:?}");
        let error = installed(&weak, &options).await.err().context("a caller without rights has installed")?;
        ensure!(error.reason() == "api_forbidden", "{error}");
        Ok(())
    }));
}
