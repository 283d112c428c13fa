//! Generations, versions and what survives a restart.

use culvert_identity::TrustDomain;
use culvert_manifests::{File, MeshOverrides, pod_uid};
use culvert_wire::{Kind, TrustBundle};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::state_dir::StateDir;

fn text(pods: &[&str]) -> String {
    let pod = |name: &&str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{nodeName: n1, containers: [{{name: c}}]}}}}\n"
        )
    };
    pods.iter().map(pod).collect()
}

fn read(text: &str, previous: &Catalog) -> Reading {
    let file = File { name: "a.yaml".to_owned(), text: Ok(text.to_owned()) };
    let (catalog, complaints) = Catalog::read(&[file], previous);
    Reading::Catalog(catalog, complaints)
}

struct Bench {
    _root: tempfile::TempDir,
    state: StateDir,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(&root.path().join("state")).unwrap();
        Self { _root: root, state }
    }

    fn start(&self, reading: Reading) -> (mpsc::Sender<Change>, watch::Receiver<Published>) {
        let bundle = TrustBundle { trust_domain: domain(), authorities: vec![vec![1]], sequence: 1 };
        let sources = Sources { state: self.state.clone(), overrides: overrides(), bundle };
        let (owner, published) = Owner::new(sources, load(&self.state).unwrap(), reading).unwrap();
        let (sender, changes) = mpsc::channel(8);
        tokio::spawn(owner.run(changes));
        (sender, published)
    }
}

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn overrides() -> MeshOverrides {
    MeshOverrides { trust_domain: domain(), default_mode: None, default_action: None, cluster_ranges: vec![] }
}

fn names(published: &watch::Receiver<Published>, kind: Kind) -> Vec<String> {
    published.borrow().snapshot.table(kind).keys().map(ToString::to_string).collect()
}

#[tokio::test]
async fn only_what_changed_gets_a_new_version_and_nothing_no_new_generation() {
    let bench = Bench::new();
    let (changes, mut published) = bench.start(read(&text(&["a1", "b1"]), &Catalog::default()));
    let first = published.borrow_and_update().snapshot.clone();
    assert_eq!(first.generation, 1);
    changes.send(Change::Directory(read(&text(&["a1", "b1"]), &Catalog::default()))).await.unwrap();
    let more = text(&["a1", "b1"]).replacen("nodeName: n1", "nodeName: n2", 1);
    changes.send(Change::Directory(read(&more, &Catalog::default()))).await.unwrap();
    published.changed().await.unwrap();
    let second = published.borrow_and_update().snapshot.clone();
    assert_eq!(second.generation, 2, "the read without a change made none");
    let versions =
        |snapshot: &Snapshot, pod: &str| snapshot.table(Kind::Workload)[pod_uid("shop", pod).as_str()].version.clone();
    assert_ne!(versions(&first, "a1"), versions(&second, "a1"));
    assert_eq!(versions(&first, "b1"), versions(&second, "b1"));
    assert!(Arc::ptr_eq(&first.table(Kind::Mesh), &second.table(Kind::Mesh)));
}

#[tokio::test]
async fn a_namespace_has_a_new_version_only_when_another_thing_is_told_of_it() {
    let namespace = |name: &str, label: &str| {
        format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{label}}}}}}}\n")
    };
    let enrolled =
        |pods: &[&str]| text(pods).replace("namespace: shop", "namespace: shop, labels: {culvert.dev/enroll: 'true'}");
    let (silent, own) = (namespace("shop", ""), namespace("shop", "culvert.dev/enroll: 'true'"));
    let bench = Bench::new();
    let first = format!("{}{silent}", text(&["a1"]));
    let (changes, mut published) = bench.start(read(&first, &Catalog::default()));
    let mut last = published.borrow_and_update().snapshot.table(Kind::Namespace)["shop"].version.clone();
    for (files, new) in [
        (format!("{}{silent}", enrolled(&["a1"])), true),
        (format!("{}{silent}", enrolled(&["a1", "b1"])), false),
        // Enrolled as a whole now: nothing of the pods is different, and still it is another state.
        (format!("{}{own}", enrolled(&["a1", "b1"])), true),
        (format!("{}{own}", text(&["a1", "b1", "c1"])), false),
        (format!("{}{silent}", text(&["a1", "b1"])), true),
    ] {
        changes.send(Change::Directory(read(&files, &Catalog::default()))).await.unwrap();
        published.changed().await.unwrap();
        let now = published.borrow_and_update().snapshot.table(Kind::Namespace)["shop"].version.clone();
        assert_eq!(now != last, new, "{files}");
        last = now;
    }
}

#[tokio::test]
async fn a_restart_keeps_last_good_objects_and_addresses_and_raises_the_generation() {
    let bench = Bench::new();
    let (changes, mut published) = bench.start(read(&text(&["a1"]), &Catalog::default()));
    let pods = BTreeMap::from([(pod_uid("shop", "a1"), vec!["10.0.0.1".parse().unwrap()])]);
    changes.send(Change::Addresses { node: "n1".to_owned(), pods }).await.unwrap();
    published.changed().await.unwrap();
    let generation = published.borrow().snapshot.generation;
    drop(changes);
    while published.changed().await.is_ok() {}
    let kept = load(&bench.state).unwrap();
    assert_eq!(kept.generation, generation);
    let broken = text(&["a1"]).replace("n1", "N1");
    let (_changes, published) = bench.start(read(&broken, &kept.catalog));
    let published = published.borrow();
    assert_eq!(published.snapshot.generation, generation + 1);
    let pod = &published.state.workloads[&pod_uid("shop", "a1")];
    assert_eq!((&*pod.node, pod.addresses.len()), ("n1", 1));
    assert!(published.complaints.iter().any(|complaint| complaint.reason == "fallback"));
}

#[tokio::test]
async fn only_the_node_that_a_pod_is_on_says_its_address_and_may_say_it_before_the_pod_is_known() {
    let bench = Bench::new();
    let (changes, mut published) = bench.start(read(&text(&["a1"]), &Catalog::default()));
    let uid = pod_uid("shop", "b1");
    let say = |node: &str, address: &str| Change::Addresses {
        node: node.to_owned(),
        pods: BTreeMap::from([(uid.clone(), vec![address.parse().unwrap()])]),
    };
    changes.send(say("n1", "10.0.0.1")).await.unwrap();
    changes.send(say("n2", "10.0.0.2")).await.unwrap();
    changes.send(Change::Directory(read(&text(&["a1", "b1"]), &Catalog::default()))).await.unwrap();
    published.changed().await.unwrap();
    let state = Arc::clone(&published.borrow().state);
    assert_eq!(state.workloads[&uid].addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
}

#[tokio::test]
async fn an_unusable_directory_changes_nothing_but_what_is_said() {
    let bench = Bench::new();
    let (changes, mut published) = bench.start(read(&text(&["a1"]), &Catalog::default()));
    let before = published.borrow_and_update().snapshot.clone();
    changes.send(Change::Directory(Reading::Unusable("gone".to_owned()))).await.unwrap();
    published.changed().await.unwrap();
    assert_eq!(published.borrow().snapshot, before);
    assert_eq!(published.borrow().unread.as_deref(), Some("gone"));
    assert_eq!(names(&published, Kind::Workload).len(), 1);
    let (_changes, published) = Bench::new().start(Reading::Unusable("empty".to_owned()));
    assert_eq!(published.borrow().unread.as_deref(), Some("empty"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_is_not_published_until_it_can() {
    let bench = Bench::new();
    let (changes, mut published) = bench.start(read(&text(&["a1"]), &Catalog::default()));
    let file = bench._root.path().join("state/last-good.json");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    changes.send(Change::Directory(read(&text(&["a1", "b1"]), &Catalog::default()))).await.unwrap();
    published.changed().await.unwrap();
    {
        let published = published.borrow_and_update();
        assert_eq!((published.snapshot.generation, published.state.workloads.len()), (1, 1));
        assert!(published.unkept.as_deref().is_some_and(|why| why.contains("last-good.json")), "{published:?}");
    }
    std::fs::remove_dir(&file).unwrap();
    while published.borrow_and_update().unkept.is_some() {
        published.changed().await.unwrap();
    }
    assert_eq!((published.borrow().snapshot.generation, names(&published, Kind::Workload).len()), (2, 2));
    assert_eq!(load(&bench.state).unwrap().generation, 2);
}

#[test]
fn a_beginning_that_cannot_be_kept_is_none() {
    let bench = Bench::new();
    let sources = Sources {
        state: bench.state.clone(),
        overrides: overrides(),
        bundle: TrustBundle { trust_domain: domain(), authorities: vec![vec![1]], sequence: 1 },
    };
    std::fs::create_dir(bench._root.path().join("state/last-good.json")).unwrap();
    assert!(Owner::new(sources, Kept::default(), read(&text(&["a1"]), &Catalog::default())).is_err());
}

#[test]
fn a_last_good_state_that_cannot_be_read_is_an_error_and_not_an_empty_one() {
    let bench = Bench::new();
    bench.state.write("last-good.json", b"{").unwrap();
    assert_eq!(load(&bench.state).unwrap_err().reason(), "last_good_unreadable");
    bench.state.write("last-good.json", br#"{"format":9,"generation":1,"objects":[],"reported":{}}"#).unwrap();
    assert_eq!(load(&bench.state).unwrap_err().reason(), "last_good_unreadable");
}
