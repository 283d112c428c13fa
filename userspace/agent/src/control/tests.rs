use culvert_policy::{MtlsMode, PeerAuthentication, PolicyName, Selector};
use culvert_wire::{
    Kind, Resource, SYNCED_NAME, TrustBundle,
    proto::discovery::{DeltaDiscoveryResponse, Resource as Item},
    resource::{Marker, synced},
};
use culvert_workload::{Membership, Namespace, WorkloadUid};

use super::state::{State, StateError};
use crate::samples::{allow, mesh, pod, service};

fn marker(generation: u64) -> Item {
    Item {
        name: SYNCED_NAME.to_owned(),
        version: generation.to_string(),
        resource: Some(synced(&Marker { generation, ..Marker::default() })),
        aliases: Vec::new(),
    }
}

fn item(resource: &Resource, version: &str) -> Item {
    Item { name: resource.name(), version: version.to_owned(), resource: Some(resource.encode()), aliases: Vec::new() }
}

fn response(kind: Kind, resources: Vec<Item>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse { type_url: kind.type_url().to_owned(), resources, ..DeltaDiscoveryResponse::default() }
}

fn take(state: &mut State, kind: Kind, resources: Vec<Item>) -> usize {
    state.apply(&response(kind, resources)).expect("a known type").refused.len()
}

/// All types but the given one at a generation, empty but for the mesh.
fn fill(state: &mut State, but: Kind, generation: u64) {
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != but) {
        let mut resources = Vec::new();
        if kind == Kind::Mesh {
            resources.push(item(&Resource::Mesh(mesh()), "1"));
        }
        resources.push(marker(generation));
        assert_eq!(take(state, kind, resources), 0);
    }
}

#[test]
fn nothing_is_published_before_every_type_has_its_marker() {
    for last in Kind::ALL {
        let mut state = State::default();
        fill(&mut state, last, 7);
        assert!(state.publish().is_none(), "{last:?} has said nothing yet");
        let mut resources = vec![marker(7)];
        if last == Kind::Mesh {
            resources.insert(0, item(&Resource::Mesh(mesh()), "1"));
        }
        take(&mut state, last, resources);
        let snapshot = state.publish().expect("complete: an empty set is a set");
        assert_eq!((snapshot.generation, snapshot.roster.workload_count()), (7, 0));
        assert!(state.publish().is_none(), "the same state is published once");
    }
}

#[test]
fn generations_are_never_mixed() {
    let mut state = State::default();
    fill(&mut state, Kind::Workload, 1);
    take(&mut state, Kind::Workload, vec![marker(1)]);
    state.publish().expect("the first state");
    take(&mut state, Kind::Workload, vec![item(&Resource::Workload(pod("web", "10.0.0.2")), "1"), marker(2)]);
    assert!(state.publish().is_none(), "the pod is known, the policies of its generation are not");
    fill(&mut state, Kind::Workload, 2);
    let snapshot = state.publish().expect("all types stand at 2");
    assert!(snapshot.roster.workload(&WorkloadUid::new("web")).is_some());
}

#[test]
fn a_part_of_a_state_is_not_published() {
    let mut state = State::default();
    fill(&mut state, Kind::Workload, 1);
    take(&mut state, Kind::Workload, vec![marker(1)]);
    state.publish().expect("the first state");
    take(&mut state, Kind::Workload, vec![item(&Resource::Workload(pod("web", "10.0.0.2")), "1")]);
    assert!(state.publish().is_none(), "more is to come");
    take(&mut state, Kind::Workload, vec![item(&Resource::Workload(pod("db", "10.0.0.3")), "1"), marker(1)]);
    assert_eq!(state.publish().expect("complete").roster.workload_count(), 2);

    state.begin();
    fill(&mut state, Kind::Workload, 1);
    assert!(state.publish().is_none(), "on a new stream every type says anew where it stands");
    take(&mut state, Kind::Workload, vec![marker(1)]);
    assert!(state.publish().is_some());
}

#[test]
fn a_removed_resource_is_gone_and_not_asked_for_again() {
    let mut state = State::default();
    fill(&mut state, Kind::AuthorizationPolicy, 1);
    let policy = Resource::AuthorizationPolicy(allow("web", &["db"]));
    take(&mut state, Kind::AuthorizationPolicy, vec![item(&policy, "v1"), marker(1)]);
    assert_eq!(state.publish().expect("complete").authorizations.len(), 1);
    assert_eq!(state.versions(Kind::AuthorizationPolicy).len(), 1, "the marker is no resource");
    assert_eq!(state.versions(Kind::AuthorizationPolicy)["shop/web"], "v1");

    fill(&mut state, Kind::AuthorizationPolicy, 2);
    let mut gone = response(Kind::AuthorizationPolicy, vec![marker(2)]);
    gone.removed_resources.push("shop/web".to_owned());
    state.apply(&gone).expect("a known type");
    assert!(state.publish().expect("complete").authorizations.is_empty());
    assert!(state.versions(Kind::AuthorizationPolicy).is_empty());
}

#[test]
fn a_namespace_that_is_gone_or_not_understood_is_not_known_to_be_outside() {
    let namespace = |name: &str| Resource::Namespace(Namespace { name: name.into(), membership: Membership::Outside });
    let mut broken = item(&namespace("tools"), "v2");
    if let Some(body) = &mut broken.resource {
        body.value.extend([0xff, 0xff, 0xff]);
    }
    let mut refused = response(Kind::Namespace, vec![broken, marker(2)]);
    let mut gone = response(Kind::Namespace, vec![marker(2)]);
    gone.removed_resources.push("tools".to_owned());
    for (second, nacked) in [(&mut refused, 1), (&mut gone, 0)] {
        let mut state = State::default();
        fill(&mut state, Kind::Namespace, 1);
        let first = vec![item(&namespace("tools"), "v1"), item(&namespace("other"), "v1"), marker(1)];
        assert_eq!(take(&mut state, Kind::Namespace, first), 0);
        let both = [("other".into(), Membership::Outside), ("tools".into(), Membership::Outside)];
        assert_eq!(*state.publish().expect("complete").namespaces, both.into());
        fill(&mut state, Kind::Namespace, 2);
        assert_eq!(state.apply(second).expect("a known type").refused.len(), nacked);
        let left = [("other".into(), Membership::Outside)];
        assert_eq!(*state.publish().expect("complete").namespaces, left.into());
        assert_eq!(state.versions(Kind::Namespace), [("other".to_owned(), "v1".to_owned())].into());
    }
}

#[test]
fn a_refused_policy_without_a_good_version_refuses_its_namespace() {
    let mut state = State::default();
    fill(&mut state, Kind::AuthorizationPolicy, 1);
    let mut broken = item(&Resource::AuthorizationPolicy(allow("web", &["db"])), "v1");
    if let Some(body) = &mut broken.resource {
        body.value.extend([0xff, 0xff, 0xff]);
    }
    assert_eq!(take(&mut state, Kind::AuthorizationPolicy, vec![broken.clone(), marker(1)]), 1, "a NACK");
    let snapshot = state.publish().expect("complete");
    let policy = &snapshot.authorizations[&PolicyName::new("shop", "web")];
    assert!(policy.invalid.is_some() && policy.selector == Selector::Namespace);
    assert!(state.versions(Kind::AuthorizationPolicy).is_empty(), "a refused version is not held");
}

#[test]
fn a_refused_update_keeps_the_last_good_version() {
    let mut state = State::default();
    fill(&mut state, Kind::PeerAuthentication, 1);
    let strict = PeerAuthentication {
        name: PolicyName::new("shop", "strict"),
        selector: Selector::Namespace,
        mode: MtlsMode::Strict,
        port_modes: Default::default(),
        created: 0,
        invalid: None,
    };
    let good = item(&Resource::PeerAuthentication(strict.clone()), "v1");
    take(&mut state, Kind::PeerAuthentication, vec![good.clone(), marker(1)]);
    let mut broken = good;
    broken.version = "v2".to_owned();
    if let Some(body) = &mut broken.resource {
        body.value.extend([0xff]);
    }
    assert_eq!(take(&mut state, Kind::PeerAuthentication, vec![broken, marker(1)]), 1);
    let snapshot = state.publish().expect("complete");
    assert_eq!(*snapshot.authentications[&strict.name], strict);
    assert_eq!(state.versions(Kind::PeerAuthentication)["shop/strict"], "v1");
}

#[test]
fn a_type_that_was_not_asked_for_is_an_error() {
    let mut state = State::default();
    let strange = DeltaDiscoveryResponse { type_url: "x".to_owned(), ..DeltaDiscoveryResponse::default() };
    assert_eq!(state.apply(&strange).err(), Some(StateError::UnknownType("x".to_owned())));
}

#[test]
fn an_older_bundle_does_not_replace_a_newer_one() {
    let domain = mesh().trust_domain;
    let bundle = |sequence: u64| {
        let bundle =
            TrustBundle { trust_domain: domain.clone(), authorities: vec![sequence.to_be_bytes().to_vec()], sequence };
        item(&Resource::Bundle(bundle), &sequence.to_string())
    };
    let mut state = State::default();
    fill(&mut state, Kind::Bundle, 1);
    take(&mut state, Kind::Bundle, vec![bundle(7), marker(1)]);
    take(&mut state, Kind::Bundle, vec![bundle(6), marker(1)]);
    assert_eq!(state.publish().expect("complete").bundles[&domain].sequence, 7);
    take(&mut state, Kind::Bundle, vec![bundle(8), marker(1)]);
    assert_eq!(state.publish().expect("complete").bundles[&domain].sequence, 8);
}

fn covering(generation: u64, partial: bool, addresses: &[&str]) -> Item {
    let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    Item { resource: Some(synced(&Marker { generation, partial, addresses })), ..marker(generation) }
}

#[test]
fn in_a_part_of_the_mesh_nobody_known_means_nothing_until_the_address_was_asked_for() {
    let mut state = State::default();
    fill(&mut state, Kind::Service, 7);
    take(&mut state, Kind::Service, vec![covering(7, true, &[])]);
    let before = state.publish().expect("complete");
    let address = "10.0.0.9".parse().expect("an address");
    assert!(!before.tells(address), "it may be anybody's");
    assert!(before.tells("192.0.2.7".parse().expect("an address")), "the outside is nobody's to ask for");
    take(&mut state, Kind::Workload, vec![marker(7)]);
    assert!(state.publish().is_none_or(|snapshot| !snapshot.tells(address)), "the services have not said it yet");
    take(&mut state, Kind::Service, vec![covering(7, true, &["10.0.0.9"])]);
    assert!(state.publish().expect("an answer").tells(address));
    state.give_up(&[address]);
    assert!(!state.publish().expect("at once").tells(address), "what is given up may grow old");
}

#[test]
fn a_known_service_tells_nothing_of_its_endpoints_until_it_was_asked_for() {
    let mut state = State::default();
    fill(&mut state, Kind::Service, 7);
    let mut client = pod("client", "10.0.0.2");
    let web = service("web", "10.96.0.1");
    client.services = vec![web.name.clone()];
    take(&mut state, Kind::Workload, vec![item(&Resource::Workload(client), "1"), marker(7)]);
    let vip = web.vips[0];
    take(&mut state, Kind::Service, vec![item(&Resource::Service(web), "1"), covering(7, true, &[])]);
    let snapshot = state.publish().expect("complete");
    assert!(snapshot.tells("10.0.0.2".parse().expect("an address")), "whoever has it is known with all who have it");
    assert!(!snapshot.tells(vip), "the other endpoints are not known");
    take(&mut state, Kind::Service, vec![covering(7, true, &[&vip.to_string()])]);
    assert!(state.publish().expect("an answer").tells(vip));
}

#[test]
fn a_whole_mesh_leaves_nothing_to_ask() {
    let mut state = State::default();
    fill(&mut state, Kind::Service, 7);
    take(&mut state, Kind::Service, vec![marker(7)]);
    assert!(state.publish().expect("complete").tells("10.0.0.9".parse().expect("an address")));
}
