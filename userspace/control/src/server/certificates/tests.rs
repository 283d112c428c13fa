use super::{
    super::testing::{pod, state},
    *,
};

fn answer(node: &str, uid: &str, identity: &str) -> &'static str {
    let text = [
        pod("web", "n1", "", "phase: Running"),
        pod("init", "n1", "", "phase: Pending"),
        pod("done", "n1", "", "phase: Succeeded"),
        pod("failed", "n1", "", "phase: Failed"),
        pod("host", "n1", ", hostNetwork: true", ""),
        pod("far", "n2", "", ""),
        pod("nowhere", "''", "", ""),
        pod("plain", "n1", "", "").replace("'true'", "'false'"),
    ];
    let identity = SpiffeId::parse(identity).unwrap();
    entitled(&state(&text.concat()), node, uid, &identity).map_or_else(|error| error.reason(), |()| "ok")
}

#[test]
fn only_the_identity_of_a_live_pod_of_the_callers_node_is_signed() {
    let own = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let table = [
        ("n1", "uid-web", own("web"), "ok"),
        ("n1", "uid-init", own("init"), "ok"),
        ("n1", "uid-done", own("done"), "pod_ended"),
        ("n1", "uid-failed", own("failed"), "pod_ended"),
        ("n1", "uid-host", own("host"), "pod_not_enrolled"),
        ("n1", "uid-plain", own("plain"), "pod_not_enrolled"),
        ("n1", "uid-far", own("far"), "pod_on_other_node"),
        ("n2", "uid-far", own("far"), "ok"),
        ("n2", "uid-web", own("web"), "pod_on_other_node"),
        ("n1", "uid-nowhere", own("nowhere"), "pod_on_other_node"),
        ("", "uid-web", own("web"), "pod_on_other_node"),
        ("n1", "uid-none", own("web"), "unknown_pod"),
        ("n1", "uid-web", own("init"), "not_the_pods_identity"),
        ("n1", "uid-web", "spiffe://other.local/ns/shop/sa/web".to_owned(), "other_trust_domain"),
        ("n1", "uid-web", "spiffe://cluster.local/culvert/node/n1".to_owned(), "not_the_pods_identity"),
        ("n1", "uid-web", "spiffe://cluster.local/culvert/control".to_owned(), "not_the_pods_identity"),
    ];
    for (node, uid, identity, expected) in table {
        assert_eq!(answer(node, uid, &identity), expected, "{node} {uid} {identity}");
    }
}

#[test]
fn an_unscheduled_pod_is_of_no_node_whatever_the_caller_is_called() {
    let state = state(&pod("web", "''", "", ""));
    let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
    assert!(state.workloads.contains_key(&WorkloadUid::new("uid-web")));
    assert_eq!(entitled(&state, "n1", "uid-web", &identity).unwrap_err().reason(), "pod_on_other_node");
}
