use clap::Parser;
use serde_json::{Value, json};

use super::{Options, Server, nodes, objects, ready, to_yaml};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn options(words: &[&str]) -> Options {
    Line::parse_from(["culvert"].iter().chain(words)).options
}

fn rendered(words: &[&str]) -> Vec<Value> {
    objects(&options(words), None).expect("good options")
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("{kind} {name} is missing"))
}

#[test]
fn nothing_is_left_of_the_names_that_stand_for_values() {
    for words in
        [&[][..], &["--cluster-range", "10.0.0.0/8", "--image-pull-secret", "one", "--image-pull-secret", "two"]]
    {
        let text = to_yaml(&rendered(words));
        let left: Vec<&str> =
            text.lines().filter(|line| line.contains("here") && !line.contains("description")).collect();
        let left: Vec<&&str> = left.iter().filter(|line| line.contains("-here") || line.contains(".here")).collect();
        assert!(left.is_empty(), "{left:#?}");
    }
}

/// With the values that the chart has by itself the outcome is the plain manifests, which Helm made.
#[test]
fn without_options_it_is_what_the_plain_manifests_are() {
    let text = include_str!("../../../../deploy/kubernetes/culvert.yaml");
    let mut plain: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
    let mut ours = rendered(&[]);
    assert_eq!(plain.len(), ours.len());
    plain.iter_mut().chain(&mut ours).for_each(unsigned);
    for (plain, ours) in plain.iter().zip(&ours) {
        assert_eq!(plain, ours);
    }
}

/// Without what only says who put an object there.
fn unsigned(object: &mut Value) {
    if object["kind"] == "Job" {
        object["metadata"]["name"] = "job".into();
    }
    fn walk(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove("app.kubernetes.io/managed-by");
                map.remove("helm.sh/chart");
                map.values_mut().for_each(walk);
                if map.get("labels").is_some_and(|labels| *labels == json!({})) {
                    map.remove("labels");
                }
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    if object["kind"] == "Namespace" {
        object["metadata"]["labels"] = json!({});
    }
    walk(object);
}

#[test]
fn options_reach_the_objects_that_they_are_about() {
    let all = rendered(&[
        "--namespace",
        "mesh",
        "--image-repository",
        "registry.example/a",
        "--image-tag",
        "7",
        "--replicas",
        "3",
        "--trust-domain",
        "prod.example",
        "--cluster-range",
        "10.1.0.0/16",
        "--cluster-range",
        "fd00::/48",
        "--startup-taint",
    ]);
    let control = find(&all, "Deployment", "culvert-control");
    let container = &control["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example/a/culvert-control:7");
    assert_eq!(control["spec"]["replicas"], 3);
    let words: Vec<&str> = container["args"].as_array().expect("args").iter().filter_map(Value::as_str).collect();
    for word in [
        "--namespace=mesh",
        "--trust-domain=prod.example",
        "--cluster-range=10.1.0.0/16",
        "--cluster-range=fd00::/48",
        "--startup-taint",
    ] {
        assert!(words.contains(&word), "{word} is missing in {words:?}");
    }
    assert!(!words.contains(&"--istio-labels"), "{words:?}");
    for object in &all {
        let namespace = &object["metadata"]["namespace"];
        assert!(namespace.is_null() || namespace == "mesh", "{object}");
    }
    let binding = find(&all, "ClusterRoleBinding", "culvert-control");
    assert_eq!(binding["subjects"][0]["namespace"], "mesh");
}

#[test]
fn who_may_change_nodes_is_only_who_takes_the_taint_off() {
    let may = |words: &[&str]| {
        let all = rendered(words);
        let rules = find(&all, "ClusterRole", "culvert-control")["rules"].as_array().expect("rules").clone();
        rules.iter().any(|rule| rule["resources"][0] == "nodes" && rule["verbs"][0] == "patch")
    };
    assert!(may(&["--startup-taint"]));
    assert!(!may(&[]));
}

#[test]
fn what_is_not_wanted_is_not_there() {
    let all = rendered(&["--no-keeper", "--no-cni"]);
    let text = to_yaml(&all);
    for word in ["culvert-keeper", "culvert-cni", "--drain", "CULVERT_CNI", "cni-token"] {
        assert!(!text.contains(word), "{word} is left");
    }
    assert!(!text.contains("ServiceMonitor"), "without the operator's kinds there is no monitor");
    let serves = ["monitoring.coreos.com/v1".to_owned()].into();
    let server = Server { version: "v1.20.2".to_owned(), minor: 20, serves };
    let all = objects(&options(&[]), Some(&server)).expect("good options");
    find(&all, "ServiceMonitor", "culvert-control");
    assert_eq!(find(&all, "CronJob", "culvert-keys")["apiVersion"], "batch/v1beta1");
    assert_eq!(find(&all, "PodDisruptionBudget", "culvert-control")["apiVersion"], "policy/v1beta1");
}

#[test]
fn another_job_has_another_name_and_the_same_one_the_same() {
    let name = |words: &[&str]| {
        let all = rendered(words);
        let job = all.iter().find(|object| object["kind"] == "Job").expect("a job");
        job["metadata"]["name"].as_str().expect("a name").to_owned()
    };
    assert_eq!(name(&[]), name(&["--replicas", "1"]));
    assert_ne!(name(&[]), name(&["--image-tag", "next"]));
}

#[test]
fn values_that_would_become_something_else_are_refused() {
    for (flag, value) in [
        ("--namespace", "Culvert"),
        ("--namespace", "a\nkind: Pod"),
        ("--image-repository", ""),
        ("--image-tag", "a b"),
        ("--image-pull-policy", "sometimes"),
        ("--image-pull-secret", "not a name"),
        ("--trust-domain", "Prod.Example"),
        ("--default-mode", "open"),
        ("--default-action", "maybe"),
        ("--cluster-range", "10.0.0.0"),
        ("--cni-bin-dir", "opt"),
    ] {
        let error = objects(&options(&[flag, value]), None).expect_err(flag);
        assert_eq!(error.reason(), "bad_option");
        assert!(error.to_string().starts_with(flag), "{error}");
    }
}

#[test]
fn a_workload_is_ready_when_its_new_pods_are() {
    let deployment = |status: Value| json!({"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status});
    let old = deployment(json!({"observedGeneration": 1, "availableReplicas": 2, "updatedReplicas": 2}));
    assert_eq!(ready::lacks(&old).as_deref(), Some("its controller has not seen it yet"));
    let half = deployment(json!({"observedGeneration": 2, "availableReplicas": 2, "updatedReplicas": 1}));
    assert_eq!(ready::lacks(&half).as_deref(), Some("1 of 2 pods are new"));
    let good = deployment(json!({"observedGeneration": 2, "availableReplicas": 2, "updatedReplicas": 2}));
    assert_eq!(ready::lacks(&good), None);
    let status =
        json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "numberReady": 2, "updatedNumberScheduled": 0});
    let mut keeper = json!({"kind": "DaemonSet", "metadata": {"generation": 1}, "status": status,
        "spec": {"updateStrategy": {"type": "OnDelete"}}});
    assert_eq!(ready::lacks(&keeper), None, "one that is replaced by hand runs as it is");
    keeper["spec"]["updateStrategy"]["type"] = "RollingUpdate".into();
    assert_eq!(ready::lacks(&keeper).as_deref(), Some("0 of 2 pods are new"));
    assert!(ready::lacks(&json!({"kind": "Job", "status": {"failed": 1}})).is_some());
}

#[test]
fn the_pod_that_leaves_a_node_has_the_agents_rights_and_needs_nothing_that_may_be_gone() {
    let all = rendered(&[]);
    let pod = nodes::pod(find(&all, "DaemonSet", "culvert-agent"), "node-1");
    let spec = &pod["spec"];
    assert_eq!((&spec["nodeName"], &spec["hostPID"]), (&json!("node-1"), &json!(true)));
    let container = &spec["containers"][0];
    assert_eq!(container["args"], json!(["uninstall"]));
    assert!(container["securityContext"]["capabilities"]["add"].as_array().is_some_and(|add| add.len() == 6));
    let mounts: Vec<&str> = container["volumeMounts"]
        .as_array()
        .expect("mounts")
        .iter()
        .filter_map(|mount| mount["name"].as_str())
        .collect();
    let volumes: Vec<&str> =
        spec["volumes"].as_array().expect("volumes").iter().filter_map(|volume| volume["name"].as_str()).collect();
    assert_eq!(mounts.len(), volumes.len());
    assert!(mounts.contains(&"cni-bin") && mounts.contains(&"bpffs") && !mounts.contains(&"token"), "{mounts:?}");
    assert!(container["ports"].is_null() && container["readinessProbe"].is_null());
}
