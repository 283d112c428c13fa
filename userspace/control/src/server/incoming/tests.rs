use culvert_identity::TrustDomain;
use culvert_wire::TrustBundle;

use super::*;
use crate::server::testing::{pod, state};

#[test]
fn a_pods_address_is_told_from_that_of_its_node() {
    let text = [
        pod("web", "n1", "", "podIP: 10.244.1.5"),
        pod("agent", "n1", ", hostNetwork: true", "podIP: 172.30.0.11, hostIP: 172.30.0.11"),
    ];
    let bundle = TrustBundle {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        authorities: vec![vec![1]],
        sequence: 1,
    };
    let snapshot = Snapshot::new(1, &state(&text.concat()), &bundle);
    for (address, expected) in
        [("10.244.1.5", true), ("::ffff:10.244.1.5", true), ("172.30.0.11", false), ("10.244.1.6", false)]
    {
        assert_eq!(is_of_a_pod(&snapshot, address.parse().unwrap()), expected, "{address}");
    }
}

#[test]
fn one_address_does_not_take_the_places_of_all() {
    let sources = Sources::default();
    let one: IpAddr = "10.0.0.1".parse().unwrap();
    let mut held: Vec<Place> = (0..FROM_ONE).map(|_| sources.enter(one).unwrap()).collect();
    assert!(sources.enter(one).is_none());
    assert!(sources.enter("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same address");
    assert!(sources.enter("10.0.0.2".parse().unwrap()).is_some());
    drop(held.pop());
    assert!(sources.enter(one).is_some());
    drop(held);
    assert!(sources.0.lock().unwrap().is_empty(), "nothing is left of who has gone");
}
