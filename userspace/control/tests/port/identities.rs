//! Workload identities: whose, for whom, and what is written down.

use culvert_identity::SpiffeId;
use tonic::Code;

use super::{
    client::{Caller, Key, identity_of, verified, word},
    discovery::Watcher,
    plane::{MESH, Plane, pod},
};

#[tokio::test]
async fn a_node_gets_the_identities_of_its_own_live_pods_and_no_other() {
    let text = format!(
        "{}{}{}",
        pod("web", "n1"),
        pod("far", "n2"),
        pod("done", "n1").replace("}\n", ", status: {phase: Succeeded}}\n")
    );
    let plane = Plane::start(&text);
    let node = Caller::node(&plane, "n1").await;
    let chain = node.issue("web", &identity_of("web"), &Key::new()).await.unwrap();
    let (roots, chain) = chain.split_last().unwrap();
    assert_eq!(*roots, std::fs::read_to_string(plane.state("root.pem")).unwrap());
    assert_eq!(verified(&plane, chain), SpiffeId::parse(&identity_of("web")).unwrap());
    let line = plane.audit(|line| line["action"] == "issue" && line["granted"] == true);
    assert_eq!(line["node"], "n1");
    assert_eq!((line["pod"].as_str(), line["identity"].as_str()), (Some("uid-web"), Some(identity_of("web").as_str())));
    let table = [
        ("far", identity_of("far"), "pod_on_other_node"),
        ("done", identity_of("done"), "pod_ended"),
        ("none", identity_of("web"), "unknown_pod"),
        ("web", identity_of("far"), "not_the_pods_identity"),
        ("web", identity_of("web").replace("cluster", "other"), "other_trust_domain"),
        ("web", "spiffe://cluster.local/culvert/node/n1".to_owned(), "not_the_pods_identity"),
    ];
    for (pod, identity, reason) in table {
        let refused = node.issue(pod, &identity, &Key::new()).await.unwrap_err();
        assert_eq!(word(&refused), (Code::PermissionDenied, reason.to_owned()));
        plane.audit(|line| line["action"] == "issue" && line["reason"] == reason && line["identity"] == identity);
    }
    let bad = node.issue("web", "not an id", &Key::new()).await.unwrap_err();
    assert_eq!(word(&bad), (Code::InvalidArgument, "bad_identity".to_owned()));
}

#[tokio::test]
async fn a_pod_that_is_gone_has_no_identity_any_more() {
    let plane = Plane::start(&pod("web", "n1"));
    let node = Caller::node(&plane, "n1").await;
    node.issue("web", &identity_of("web"), &Key::new()).await.unwrap();
    let mut watcher = Watcher::open(&node).await.unwrap();
    watcher.first_state().await;
    plane.put("a.yaml", &pod("other", "n1"));
    watcher.next_state().await;
    let refused = node.issue("web", &identity_of("web"), &Key::new()).await.unwrap_err();
    assert_eq!(word(&refused), (Code::PermissionDenied, "unknown_pod".to_owned()));
}

#[tokio::test]
async fn the_root_key_may_be_moved_away_and_keys_are_nobody_elses() {
    use std::os::unix::fs::MetadataExt;
    let mut plane = Plane::start(&pod("web", "n1"));
    for file in ["root.key", "issuing.key", "root.pem", "audit.log", "last-good.json"] {
        let mode = std::fs::metadata(plane.state(file)).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{file}");
    }
    let root = std::fs::read_to_string(plane.state("root.pem")).unwrap();
    plane.kill();
    std::fs::remove_file(plane.state("root.key")).unwrap();
    plane.run();
    assert_eq!(std::fs::read_to_string(plane.state("root.pem")).unwrap(), root);
    let node = Caller::node(&plane, "n1").await;
    node.issue("web", &identity_of("web"), &Key::new()).await.unwrap();
    plane.kill();
    std::os::unix::fs::symlink("issuing.key", plane.state("elsewhere")).unwrap();
    std::fs::rename(plane.state("elsewhere"), plane.state("issuing.pem")).unwrap();
    let output = plane.run_to_end(&[]);
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("symbolic link"));
}

#[test]
fn another_trust_domain_needs_another_state_folder() {
    let mut plane = Plane::stopped(&[]);
    plane.put("mesh.yaml", MESH);
    plane.put("a.yaml", &pod("web", "n1"));
    plane.run();
    plane.kill();
    let output = plane.run_to_end(&["--trust-domain", "other.local"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("other.local"));
}
