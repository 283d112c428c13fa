use std::net::SocketAddr;

use culvert_workload::{EndpointError, Protocol, ServiceName};

use super::{
    attribute::{AttributeError, Target, find, told},
    authorize::{Way, draw, ways},
    leads,
};
use crate::samples::{pod, service, snapshot};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn member(name: &str, address: &str, of: &str) -> culvert_workload::Workload {
    let mut member = pod(name, address);
    member.services.push(ServiceName::new("shop", of));
    member
}

fn nobody(_: SocketAddr) -> bool {
    false
}

#[test]
fn an_enrolled_pod_is_reached_by_mutual_tls_only() {
    let state = snapshot([pod("db", "10.0.0.3")], [], []);
    let target = find(&state.roster, address("10.0.0.3:5432")).expect("known");
    let ways = ways(target, address("10.0.0.3:5432"), nobody);
    let [Way::Tunnel { identity, address: to, .. }] = &ways[..] else { panic!("{ways:?}") };
    assert_eq!(identity.as_str(), "spiffe://cluster.local/ns/shop/sa/db");
    assert_eq!(*to, address("10.0.0.3:5432"));
}

#[test]
fn an_enrolled_pod_without_a_valid_identity_has_no_way_at_all() {
    let mut odd = pod("db", "10.0.0.3");
    odd.service_account = "not an account".into();
    let state = snapshot([odd], [], []);
    let target = find(&state.roster, address("10.0.0.3:5432")).expect("known");
    assert_eq!(ways(target, address("10.0.0.3:5432"), nobody), [], "never plaintext instead");
}

#[test]
fn plaintext_goes_only_where_nobody_is_enrolled() {
    let mut plain = pod("old", "10.0.0.4");
    plain.protocol = Protocol::Plain;
    let state = snapshot([plain], [], []);
    for (to, transport) in [("10.0.0.4:80", "passthrough"), ("192.0.2.1:443", "passthrough")] {
        let ways = leads(&state, "n1", address(to), nobody).expect("known");
        assert_eq!((ways.len(), ways[0].transport), (1, transport), "{to}");
    }
    let unknown = find(&state.roster, address("10.0.0.99:80")).expect_err("inside, and nobody is there");
    assert_eq!(unknown, AttributeError::UnknownDestination);
    assert_eq!(unknown.reason(), "unknown_destination");
}

#[test]
fn a_way_is_not_taken_once_its_destination_has_changed() {
    use crate::{live::Ground, pod::still_leads};
    let to = address("10.0.0.4:80");
    let mut plain = pod("old", "10.0.0.4");
    plain.protocol = Protocol::Plain;
    let (before, after) = (snapshot([plain], [], []), snapshot([pod("old", "10.0.0.4")], [], []));
    let in_clear = Ground::NotEnrolled(to);
    assert!(still_leads(&before, &in_clear));
    assert!(!still_leads(&after, &in_clear), "it is enrolled now");
    let old = pod("old", "10.0.0.4");
    let by_tunnel =
        Ground::Destination { address: to, identity: old.identity().expect("a good name"), workload: old.uid };
    assert!(still_leads(&after, &by_tunnel));
    let other = snapshot([pod("other", "10.0.0.4")], [], []);
    assert!(!still_leads(&other, &by_tunnel), "the address is another's now");
}

#[test]
fn a_service_leads_to_its_ready_endpoints_each_by_its_own_way() {
    let mut unready = member("c", "10.0.0.7", "web");
    unready.ready = false;
    let mut plain = member("b", "10.0.0.6", "web");
    plain.protocol = Protocol::Plain;
    let state = snapshot([member("a", "10.0.0.5", "web"), plain, unready], [service("web", "10.96.0.1")], []);
    let ways = leads(&state, "n1", address("10.96.0.1:80"), nobody).expect("known");
    let found: Vec<_> = ways.iter().map(|way| (way.address.to_string(), way.transport)).collect();
    assert_eq!(found, [("10.0.0.5:8080".to_owned(), "hbone"), ("10.0.0.6:8080".to_owned(), "passthrough")]);
}

#[test]
fn a_local_service_leads_to_endpoints_of_the_callers_node_or_nowhere() {
    let mut far = member("b", "10.0.0.6", "web");
    far.node = "n2".into();
    let mut local = service("web", "10.96.0.1");
    local.local = true;
    let state = snapshot([member("a", "10.0.0.5", "web"), far], [local], []);
    let found = |node| {
        let ways = leads(&state, node, address("10.96.0.1:80"), nobody)?;
        Ok::<_, AttributeError>(ways.iter().map(|way| way.address.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(found("n1"), Ok(vec!["10.0.0.5:8080".to_owned()]));
    assert_eq!(found("n2"), Ok(vec!["10.0.0.6:8080".to_owned()]));
    assert_eq!(found("n3"), Err(AttributeError::Endpoint(EndpointError::NoEndpoint)));
}

#[test]
fn each_client_draws_the_same_endpoint_again_and_clients_are_spread_over_all_of_them() {
    let endpoints: Vec<_> = (1..=4).map(|number| address(&format!("10.0.0.{number}:8080"))).collect();
    let drawn = |client: u8, endpoints: &[SocketAddr]| {
        let client = format!("10.1.0.{client}").parse().expect("an address");
        *endpoints.iter().min_by_key(|endpoint| draw(client, **endpoint)).expect("one")
    };
    let mut counts = std::collections::BTreeMap::new();
    for client in 0..=255 {
        let first = drawn(client, &endpoints);
        *counts.entry(first).or_insert(0) += 1;
        let mut rest = endpoints.clone();
        rest.retain(|endpoint| *endpoint != endpoints[0]);
        assert!(first == endpoints[0] || drawn(client, &rest) == first, "{client} moved without need");
        // By another port of the service too.
        assert_eq!(
            draw("10.1.0.1".parse().expect("an address"), first),
            draw("10.1.0.1".parse().expect("an address"), SocketAddr::new(first.ip(), 9))
        );
    }
    assert!(counts.len() == 4 && counts.values().all(|count| *count > 32), "{counts:?}");
}

#[test]
fn a_pod_that_calls_its_own_service_calls_itself_plainly() {
    let state = snapshot([member("a", "10.0.0.5", "web")], [service("web", "10.96.0.1")], []);
    let own = |address: SocketAddr| address.ip().to_string() == "10.0.0.5";
    let ways = leads(&state, "n1", address("10.96.0.1:80"), own).expect("known");
    assert_eq!(ways[0].transport, "hairpin");
    let ways = leads(&state, "n1", address("10.0.0.5:9999"), own).expect("itself");
    assert_eq!((ways[0].transport, ways[0].address), ("hairpin", address("10.0.0.5:9999")));
}

#[test]
fn a_service_port_that_is_not_served_is_an_answer_not_a_way_around() {
    let state = snapshot([], [service("web", "10.96.0.1")], []);
    let error = |to: &str| find(&state.roster, address(to)).expect_err("nobody serves it");
    assert_eq!(error("10.96.0.1:80"), AttributeError::Endpoint(EndpointError::NoEndpoint));
    assert_eq!(error("10.96.0.1:81"), AttributeError::Endpoint(EndpointError::UnknownPort));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_address_is_waited_for() {
    use std::{sync::Arc, time::Duration};

    use crate::snapshot::Current;
    let current = Arc::new(Current::default());
    current.set(Arc::new(snapshot([], [], [])));
    let later = current.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        later.set(Arc::new(snapshot([pod("db", "10.0.0.3")], [], [])));
    });
    let look = |s: &Arc<crate::snapshot::Snapshot>| find(&s.roster, address("10.0.0.3:1")).ok();
    let found = current.wait_for(Duration::from_secs(5), look).await;
    assert!(matches!(found, Some(Target::Enrolled(_))), "{found:?}");
    let never = |s: &Arc<crate::snapshot::Snapshot>| find(&s.roster, address("10.0.0.4:1")).ok();
    let begun = tokio::time::Instant::now();
    assert!(current.wait_for(Duration::from_secs(5), never).await.is_none());
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[test]
fn in_a_part_of_the_mesh_a_service_is_not_called_before_all_its_endpoints_are_known() {
    let mut state = snapshot([member("a", "10.0.0.5", "web")], [service("web", "10.96.0.1")], []);
    state.coverage.partial = true;
    assert!(told(&state, address("10.96.0.1:80")).is_none(), "it may have other endpoints than the one known here");
    assert!(
        told(&state, address("10.0.0.5:8080")).is_some(),
        "whoever is known is known with all who have the address"
    );
    assert!(told(&state, address("10.0.0.6:8080")).is_none(), "never taken for nobody's");
    assert!(matches!(told(&state, address("192.0.2.7:443")), Some(Ok(Target::Outside))));
    state.coverage.answered = std::sync::Arc::new(["10.96.0.1".parse().expect("an address")].into());
    assert!(matches!(told(&state, address("10.96.0.1:80")), Some(Ok(Target::Service { .. }))));
}
