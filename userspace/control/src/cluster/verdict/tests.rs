//! What is said of each sort of policy.

use culvert_identity::TrustDomain;
use culvert_manifests::{Catalog, Live, MeshOverrides, assemble};

use super::*;

fn catalog(policy: &Value) -> Catalog {
    let mut catalog = Catalog::of_api_server(Live::default());
    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"culvert.dev/enroll": "true"}}}),
        pod("web", "n1", json!({"app": "web"})),
        pod("api", "n2", json!({"app": "api"})),
        pod("out", "n3", json!({"app": "web", "culvert.dev/enroll": "false"})),
        policy.clone(),
    ];
    objects.iter().for_each(|object| drop(catalog.put(object)));
    catalog
}

fn pod(name: &str, node: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": {"phase": "Running", "podIP": "10.0.0.1"}})
}

fn policy(spec: Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop"}, "spec": spec})
}

fn state(catalog: &Catalog) -> State {
    let overrides = MeshOverrides {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        default_mode: None,
        default_action: None,
        cluster_ranges: vec![],
    };
    assemble(catalog, &overrides, &Default::default()).state
}

fn said(object: &Value, enforcing: &[&str]) -> Said {
    let catalog = catalog(object);
    let state = state(&catalog);
    let key = culvert_manifests::ObjectKey::of(object).unwrap();
    let held = catalog.get(&key);
    let concerned = held
        .and_then(|held| selector(&held.object))
        .map(|(name, selector)| Enrolled::of(&state).nodes(&name.namespace, selector));
    let enforcing = enforcing.iter().map(|node| (*node).to_owned()).collect();
    let nodes = Nodes { concerned: concerned.unwrap_or_default(), enforcing };
    let errors = if held.is_none_or(|held| held.standing != Standing::Fresh) {
        vec!["spec: wrong [word]".to_owned()]
    } else {
        vec![]
    };
    judge(held, &errors, &nodes, &state)
}

fn short(said: &Said) -> Vec<(&str, &str)> {
    said.conditions.iter().map(|condition| (condition.status, condition.reason)).collect()
}

#[test]
fn enforced_is_what_all_concerned_nodes_have_said() {
    let object = policy(json!({"rules": [{"from": [{"source": {"namespaces": ["shop"]}}]}]}));
    let none = said(&object, &[]);
    assert_eq!(short(&none), [("True", "Valid"), ("False", "NotAllNodes")]);
    assert_eq!(none.conditions[1].message, "0/2 nodes at L4, waiting for n1, n2");
    assert_eq!(said(&object, &["n1"]).conditions[1].message, "1/2 nodes at L4, waiting for n2");
    let all = said(&object, &["n1", "n2"]);
    assert_eq!((short(&all)[1], all.conditions[1].message.as_str()), (("True", "Enforced"), "2/2 nodes at L4"));
    assert!(all.ineffective.is_empty());
}

#[test]
fn only_nodes_with_enrolled_pods_that_it_selects_are_concerned() {
    let web = policy(json!({"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]}));
    assert_eq!(said(&web, &["n1"]).conditions[1].message, "1/1 nodes at L4");
    let mut of_another = web.clone();
    of_another["metadata"]["namespace"] = json!("bank");
    assert_eq!(short(&said(&of_another, &[]))[1], ("True", "NoWorkloads"));
    let mut of_everybody = web;
    of_everybody["metadata"]["namespace"] = json!("istio-system");
    assert_eq!(said(&of_everybody, &[]).conditions[1].message, "0/1 nodes at L4, waiting for n1");
    let nobody = policy(json!({"selector": {"matchLabels": {"app": "nobody"}}, "rules": [{}]}));
    assert_eq!(short(&said(&nobody, &[]))[1], ("True", "NoWorkloads"));
}

#[test]
fn a_peer_authentication_beside_an_older_one_is_not_said_to_be_enforced() {
    let peer = |name: &str, created: &str| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created}, "spec": {"mtls": {"mode": "STRICT"}}})
    };
    let (old, new) = (peer("old", "2024-01-01T00:00:00Z"), peer("new", "2024-01-02T00:00:00Z"));
    let mut catalog = catalog(&old);
    drop(catalog.put(&new));
    let state = state(&catalog);
    let of = |object: &Value| {
        let held = catalog.get(&culvert_manifests::ObjectKey::of(object).unwrap());
        judge(held, &[], &Nodes::default(), &state).conditions[1].clone()
    };
    assert_eq!((of(&old).status, of(&old).reason), ("True", "NoWorkloads"));
    assert_eq!((of(&new).status, of(&new).reason), ("False", "Overruled"));
    assert!(of(&new).message.contains("shop/old"), "{}", of(&new).message);
}

#[test]
fn a_broken_older_peer_authentication_overrules_nothing() {
    let peer = |name: &str, created: &str, mode: &str| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": created}, "spec": {"mtls": {"mode": mode}}})
    };
    let mut catalog = catalog(&peer("old", "2024-01-01T00:00:00Z", "STRIKT"));
    let new = peer("new", "2024-01-02T00:00:00Z", "STRICT");
    drop(catalog.put(&new));
    let held = catalog.get(&culvert_manifests::ObjectKey::of(&new).unwrap());
    let said = judge(held, &[], &Nodes::default(), &state(&catalog));
    assert_eq!((said.conditions[1].status, said.conditions[1].reason), ("True", "NoWorkloads"));
}

#[test]
fn rules_that_l4_takes_otherwise_are_named_by_number_and_field() {
    let rules = json!([
        {"from": [{"source": {"namespaces": ["shop"]}}]},
        {"from": [{"source": {"namespaces": ["shop"]}}], "to": [{"operation": {"methods": ["GET"], "paths": ["/a"]}}]},
        {"to": [{"operation": {"ports": ["80"]}}, {"operation": {"hosts": ["a"]}}]},
    ]);
    let said = said(&policy(json!({"rules": rules})), &["n1", "n2"]);
    assert_eq!(short(&said)[1], ("True", "Inexact"));
    let found: Vec<(u64, &str)> = said
        .ineffective
        .iter()
        .map(|rule| (rule["rule"].as_u64().unwrap(), rule["verdict"].as_str().unwrap()))
        .collect();
    assert_eq!(found, [(1, "dead"), (2, "narrowed")]);
    let message = &said.conditions[1].message;
    assert!(message.contains("rules[1]") && message.contains("methods") && message.contains("paths"), "{message}");
    let deny = super::tests::said(
        &policy(json!({"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]})),
        &[],
    );
    assert_eq!(deny.ineffective[0]["verdict"], "widened");
}

#[test]
fn what_is_refused_or_no_layers_is_said_so() {
    let invalid = said(&policy(json!({"action": "DENY"})), &["n1", "n2"]);
    assert_eq!(short(&invalid), [("False", "Invalid"), ("False", "Invalid")]);
    assert!(invalid.conditions[1].message.contains("refuses everything"), "{}", invalid.conditions[1].message);
    let mut dry_run = policy(json!({"action": "DENY"}));
    dry_run["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"});
    let targets = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "web"}]);
    for (broken, holds) in [
        (dry_run, "it is a dry run and refuses nothing"),
        (policy(json!({"action": "AUDIT", "rule": []})), "it only marks, and refuses nothing"),
        (policy(json!({"targetRefs": targets, "rule": []})), "refuses nothing here"),
    ] {
        let said = said(&broken, &["n1", "n2"]);
        assert_eq!(short(&said)[1], ("False", "Invalid"), "{broken}");
        assert!(said.conditions[1].message.contains(holds), "{}", said.conditions[1].message);
    }
    assert_eq!(short(&said(&policy(json!({"targetRefs": targets, "rules": [{}]})), &[]))[1], ("False", "NoL7Layer"));
    let tokens = json!({"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "p", "namespace": "shop"}, "spec": {}});
    assert_eq!(short(&said(&tokens, &[])), [("True", "Valid"), ("False", "NoL7Layer")]);
}

#[test]
fn a_status_is_written_once_and_leaves_others_conditions_alone() {
    let said = said(&policy(json!({"rules": [{}]})), &["n1"]);
    let others = json!({"type": "ZtunnelAccepted", "status": "True"});
    let before = json!({"conditions": [others]});
    let first = status(&said, &before, 3, "t1").unwrap();
    assert_eq!(first["conditions"][0], others);
    assert_eq!(
        (&first["conditions"][1]["lastTransitionTime"], &first["observedGeneration"]),
        (&json!("t1"), &json!(3))
    );
    let mut kept = first.clone();
    kept.as_object_mut().unwrap().remove("ineffectiveRules");
    assert_eq!(status(&said, &kept, 3, "t2"), None, "it is said already");
    let next = status(&said, &kept, 4, "t2").unwrap();
    assert_eq!(next["conditions"][1]["lastTransitionTime"], "t1", "its status has not changed");
    assert_eq!(next["conditions"][1]["observedGeneration"], 4);
}
