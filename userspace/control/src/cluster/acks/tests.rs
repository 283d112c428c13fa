//! What a digest stands for, here and elsewhere.

use culvert_identity::TrustDomain;
use culvert_manifests::{Catalog, Live, MeshOverrides, assemble};
use culvert_wire::{TrustBundle, report::NodeStatus};

use super::*;

fn snapshot(before: Option<&Snapshot>, modes: &[(&str, &str)]) -> Snapshot {
    let mut catalog = Catalog::of_api_server(Live::default());
    for (name, mode) in modes {
        catalog.put(&json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": name, "namespace": "shop"}, "spec": {"mtls": {"mode": mode}}}));
    }
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    let overrides = MeshOverrides {
        trust_domain: trust_domain.clone(),
        default_mode: None,
        default_action: None,
        cluster_ranges: vec![],
    };
    let state = assemble(&catalog, &overrides, &Default::default()).state;
    let bundle = TrustBundle { trust_domain, authorities: vec![vec![1]], sequence: 1 };
    match before {
        None => Snapshot::new(5, &state, &bundle),
        Some(before) => before.next(&state, &bundle).unwrap(),
    }
}

fn acks() -> Acks {
    let nowhere = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
    Acks::new(Api::of(nowhere), "culvert-system", "me".to_owned())
}

fn report(book: &NodeBook, node: &str, enforced_generation: u64) {
    let status = NodeStatus { enforced_generation, pods: vec![] };
    book.update(node, |entry| (entry.streams, entry.report) = (1, Some((SystemTime::now(), status))));
}

#[tokio::test]
async fn a_node_enforces_what_its_generation_stood_for_and_nothing_newer() {
    let (mut acks, book) = (acks(), NodeBook::default());
    let first = snapshot(None, &[("a", "STRICT")]);
    let second = snapshot(Some(&first), &[("a", "STRICT"), ("b", "STRICT")]);
    acks.observe(&first);
    acks.observe(&first);
    acks.observe(&second);
    assert_eq!(acks.states.len(), 2);
    report(&book, "behind", 5);
    report(&book, "level", 6);
    report(&book, "new", 1);
    let nodes = acks.nodes(&book);
    let table = second.table(Kind::PeerAuthentication);
    let has = |node: &str, name: &str| {
        let version = &table[name].version;
        nodes.get(node).is_some_and(|digest| acks.has(digest, Kind::PeerAuthentication, name, version))
    };
    assert!(has("behind", "shop/a") && !has("behind", "shop/b"));
    assert!(has("level", "shop/a") && has("level", "shop/b"));
    assert!(!has("new", "shop/a"), "before all that is remembered");
    assert!(!acks.has(&nodes["level"], Kind::AuthorizationPolicy, "shop/a", &table["shop/a"].version));
    assert!(!acks.has(&nodes["level"], Kind::PeerAuthentication, "shop/a", "another version"));
}

#[tokio::test]
async fn another_control_planes_digest_stands_for_the_same_policies() {
    let (mut here, mut there) = (acks(), acks());
    let (first, own) = (snapshot(None, &[]), snapshot(None, &[("a", "STRICT")]));
    here.observe(&own);
    // The other one came to it by another way, at another generation.
    there.observe(&first);
    there.observe(&snapshot(Some(&first), &[("a", "STRICT")]));
    let book = NodeBook::default();
    report(&book, "n2", 6);
    let written = serde_json::to_string(&Written { at: 100, nodes: there.own(&book) }).unwrap();
    let (elsewhere, gone) = read(&json!({"there": written, "me": "mine"}), "me", 110);
    assert!(gone.is_empty());
    let version = &own.table(Kind::PeerAuthentication)["shop/a"].version;
    assert!(here.has(&elsewhere["n2"], Kind::PeerAuthentication, "shop/a", version));
}

#[tokio::test]
async fn what_a_node_said_before_it_went_to_another_control_plane_counts_no_more() {
    let (mut acks, book) = (acks(), NodeBook::default());
    acks.observe(&snapshot(None, &[("a", "STRICT")]));
    report(&book, "n1", 5);
    acks.elsewhere.insert("n1".to_owned(), "newer".to_owned());
    assert_ne!(acks.nodes(&book)["n1"], "newer", "it is here");
    book.update("n1", |entry| entry.streams = 0);
    assert_eq!(acks.nodes(&book)["n1"], "newer");
    assert!(acks.own(&book).is_empty(), "and others are told no more of it");
}

#[test]
fn what_was_written_long_ago_counts_no_more_and_is_taken_away() {
    let entry = |at: u64, digest: &str| json!({"at": at, "nodes": {"n1": digest}}).to_string();
    let data = json!({"old": entry(10, "x"), "a": entry(95, "older"), "b": entry(99, "newer"), "c": "nonsense"});
    let (elsewhere, gone) = read(&data, "me", 100);
    assert_eq!(elsewhere["n1"], "newer");
    assert_eq!(gone, ["c", "old"]);
}
