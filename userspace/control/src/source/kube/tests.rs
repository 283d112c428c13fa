//! Watches put together: what holds before all have been heard, and what a list that shows less takes away.

use culvert_manifests::{ObjectKey, ObjectKind};
use serde_json::{Value, json};

use super::*;

const NAMESPACES: Watched = WATCHED[0];
const PODS: Watched = WATCHED[3];
const POLICIES: Watched = WATCHED[6];

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn pod(name: &str, phase: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "uid": name},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}, "status": {"phase": phase, "podIP": "10.0.0.1"}})
}

fn policy(mode: &str, generation: i64) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "p", "namespace": "shop", "uid": "u", "generation": generation},
        "spec": {"mtls": {"mode": mode}}})
}

fn list(gather: &mut Gather, watched: Watched, objects: Vec<Value>) -> bool {
    gather.hear(watched, Heard::Begin);
    objects.into_iter().for_each(|object| {
        gather.hear(watched, Heard::Put(object));
    });
    gather.hear(watched, Heard::End)
}

fn names(gather: &mut Gather) -> Vec<String> {
    gather.catalog().0.objects().map(|(key, _)| key.to_string()).collect()
}

#[test]
fn nothing_is_complete_before_every_kind_has_been_listed() {
    let mut gather = Gather::new(Live::default());
    for watched in WATCHED {
        assert!(!gather.is_complete(), "before {}", watched.name());
        list(&mut gather, watched, vec![]);
    }
    assert!(gather.is_complete());
}

#[test]
fn a_list_that_broke_off_takes_nothing_away() {
    let mut gather = Gather::new(Live::default());
    list(&mut gather, NAMESPACES, vec![namespace("a"), namespace("b")]);
    gather.hear(NAMESPACES, Heard::Begin);
    gather.hear(NAMESPACES, Heard::Put(namespace("a")));
    gather.hear(NAMESPACES, Heard::Failing("gone".to_owned()));
    assert_eq!(names(&mut gather), ["Namespace a", "Namespace b"]);
    assert!(gather.failing().is_some());
    assert!(list(&mut gather, NAMESPACES, vec![namespace("a")]), "the whole list does");
    assert_eq!(names(&mut gather), ["Namespace a"]);
    assert_eq!(gather.failing(), None);
}

#[test]
fn a_list_of_one_kind_takes_nothing_of_another_away() {
    let mut gather = Gather::new(Live::default());
    list(&mut gather, NAMESPACES, vec![namespace("shop")]);
    list(&mut gather, PODS, vec![pod("web", "Running")]);
    list(&mut gather, NAMESPACES, vec![]);
    assert_eq!(names(&mut gather), ["Pod shop/web"]);
}

#[test]
fn a_pod_that_has_ended_is_gone() {
    for phase in ["Succeeded", "Failed"] {
        let mut gather = Gather::new(Live::default());
        list(&mut gather, PODS, vec![pod("web", "Running"), pod("job", phase)]);
        assert_eq!(names(&mut gather), ["Pod shop/web"], "{phase}");
        assert!(gather.hear(PODS, Heard::Put(pod("web", phase))));
        assert!(names(&mut gather).is_empty(), "{phase}");
    }
}

#[test]
fn a_watch_that_says_what_is_known_already_changes_nothing_but_what_it_deletes_is_gone() {
    let mut gather = Gather::new(Live::default());
    list(&mut gather, PODS, vec![pod("web", "Running")]);
    assert!(!gather.hear(PODS, Heard::Fine));
    assert!(!gather.hear(PODS, Heard::Gone(pod("other", "Running"))));
    assert!(gather.hear(PODS, Heard::Gone(pod("web", "Running"))));
    assert!(names(&mut gather).is_empty());
}

#[test]
fn a_policys_record_follows_it() {
    let key = ObjectKey { kind: ObjectKind::PeerAuthentication, namespace: "shop".to_owned(), name: "p".to_owned() };
    let mut gather = Gather::new(Live::default());
    list(&mut gather, POLICIES, vec![policy("STRICT", 1)]);
    gather.hear(POLICIES, Heard::Put(policy("NONSENSE", 2)));
    assert_eq!(gather.records()[&key].generation, 2);
    let (catalog, complaints) = gather.catalog();
    assert!(catalog.get(&key).is_some(), "the last good version");
    assert!(complaints.iter().any(|complaint| complaint.reason == "fallback"));
    gather.hear(POLICIES, Heard::Gone(policy("STRICT", 3)));
    assert!(gather.records().is_empty() && gather.catalog().1.is_empty());
}
