use culvert_manifests::State;
use culvert_wire::{TrustBundle, report::PodStatus};

use super::{
    super::testing::{pod, state},
    *,
};

fn judged(state: &State, node: &str, status: &NodeStatus) -> Result<Checked, Stranger> {
    let trust_domain = state.mesh.trust_domain.clone();
    let bundle = TrustBundle { trust_domain, authorities: vec![vec![1]], sequence: 1 };
    check(&Snapshot::new(1, state, &bundle), node, status)
}

fn report(pods: &[(&str, &[&str])]) -> NodeStatus {
    let pod = |(uid, addresses): &(&str, &[&str])| PodStatus {
        uid: WorkloadUid::new(uid),
        captured: true,
        reason: "".into(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    };
    NodeStatus { enforced_generation: 1, pods: pods.iter().map(pod).collect() }
}

fn known() -> State {
    let service = "---\n{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, \
                   spec: {clusterIP: 10.96.0.1, selector: {app: web}}}\n";
    let text = [
        pod("a1", "n1", "", ""),
        pod("b1", "n1", "", ""),
        pod("c1", "n2", "", "podIP: 10.0.0.9"),
        pod("d1", "n2", "", "podIP: 10.0.0.8, phase: Failed"),
        pod("e1", "n1", ", hostNetwork: true", ""),
        service.to_owned(),
    ];
    state(&text.concat())
}

fn refused(pods: &[(&str, &[&str])]) -> Vec<&'static str> {
    judged(&known(), "n1", &report(pods)).unwrap().refused.into_iter().map(|(_, _, reason)| reason).collect()
}

#[test]
fn addresses_of_the_nodes_own_pods_are_taken() {
    let checked = judged(&known(), "n1", &report(&[("uid-a1", &["10.0.0.1", "fd00::1"])])).unwrap();
    assert_eq!(checked.addresses[&WorkloadUid::new("uid-a1")].len(), 2);
    assert!(checked.refused.is_empty());
}

#[test]
fn pods_that_nobody_knows_yet_are_taken_by_the_same_rules_and_not_without_end() {
    let checked = judged(&known(), "n1", &report(&[("uid-new", &["10.0.0.2", "10.0.0.9"])])).unwrap();
    assert_eq!(checked.addresses[&WorkloadUid::new("uid-new")].len(), 1);
    let names: Vec<String> = (0..300).map(|index| format!("uid-{index}")).collect();
    let many: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), [].as_slice())).collect();
    assert_eq!(judged(&known(), "n1", &report(&many)).unwrap().addresses.len(), MOST_UNKNOWN);
}

#[test]
fn a_pod_of_another_node_makes_the_whole_report_a_lie() {
    let lie = judged(&known(), "n1", &report(&[("uid-a1", &["10.0.0.1"]), ("uid-c1", &["10.0.0.2"])]));
    assert_eq!(lie, Err(Stranger(WorkloadUid::new("uid-c1"))));
}

#[test]
fn an_address_outside_of_known_ranges_of_its_family_is_not_a_pods() {
    let mut state = known();
    state.mesh.cluster_ranges = vec!["10.0.0.0/16".parse().unwrap()];
    let report = report(&[("uid-a1", &["10.0.0.1", "10.1.0.1", "8.8.8.8", "fd00::1"])]);
    let checked = judged(&state, "n1", &report).unwrap();
    let taken: Vec<String> = checked.addresses[&WorkloadUid::new("uid-a1")].iter().map(IpAddr::to_string).collect();
    assert_eq!(taken, ["10.0.0.1", "fd00::1"]);
    let reasons: Vec<&str> = checked.refused.iter().map(|(_, _, reason)| *reason).collect();
    assert_eq!(reasons, ["address_outside_cluster"; 2]);
}

#[test]
fn nobody_takes_an_address_that_is_somebody_elses_or_nobodys() {
    assert_eq!(refused(&[("uid-a1", &["10.0.0.9"])]), ["address_conflict"]);
    assert_eq!(refused(&[("uid-a1", &["10.0.0.8"])]), [""; 0], "its pod has ended");
    assert_eq!(refused(&[("uid-a1", &["10.0.0.1"]), ("uid-b1", &["10.0.0.1"])]), ["address_conflict"]);
    assert_eq!(refused(&[("uid-a1", &["10.96.0.1"])]), ["address_is_a_service"]);
    let bad = ["127.0.0.1", "169.254.0.1", "224.0.0.1", "0.0.0.0", "::1", "fe80::1", "ff02::1"];
    assert_eq!(refused(&[("uid-a1", &bad)]), ["bad_address"; 7]);
    let host = judged(&known(), "n1", &report(&[("uid-e1", &["10.0.0.1"])])).unwrap();
    assert!(host.addresses.is_empty(), "a host-network pod has no address of its own");
}
