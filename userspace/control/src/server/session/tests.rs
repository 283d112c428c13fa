//! The rule of the marker, over real snapshots.

use culvert_identity::TrustDomain;
use culvert_manifests::{Catalog, File, MeshOverrides, State, assemble, pod_uid};
use culvert_wire::{TrustBundle, proto::discovery::Status, resource::read_synced};

use super::*;

fn state(pods: usize, node: &str) -> State {
    let pod = |index: usize| {
        let filler = "x".repeat(2000);
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{index}, namespace: shop, labels: {{filler: {filler}}}}}, \
             spec: {{nodeName: {node}, containers: [{{name: c}}]}}}}\n"
        )
    };
    let file = File { name: "a.yaml".to_owned(), text: Ok((0..pods).map(pod).collect()) };
    let overrides = MeshOverrides {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        default_mode: None,
        default_action: None,
        cluster_ranges: vec![],
    };
    assemble(&Catalog::read(&[file], &Catalog::default()).0, &overrides, &BTreeMap::new()).state
}

fn bundle() -> TrustBundle {
    TrustBundle { trust_domain: TrustDomain::parse("cluster.local").unwrap(), authorities: vec![vec![1]], sequence: 1 }
}

fn first(pods: usize) -> Arc<Snapshot> {
    Arc::new(Snapshot::new(7, &state(pods, "n1"), &bundle()))
}

fn ask(kind: Kind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..Default::default() }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

fn send(session: &mut Session, request: &DeltaDiscoveryRequest) -> Vec<DeltaDiscoveryResponse> {
    match session.request(request) {
        Ok(Step::Send(responses)) => responses,
        other => panic!("{other:?}"),
    }
}

/// Names without the marker, which is checked to be the very last resource and the only marker.
fn names(responses: &[DeltaDiscoveryResponse], generation: u64) -> Vec<String> {
    let mut all: Vec<&Resource> = responses.iter().flat_map(|response| &response.resources).collect();
    let marker = all.pop().unwrap();
    assert_eq!((marker.name.as_str(), marker.version.clone()), (SYNCED_NAME, generation.to_string()));
    assert_eq!(read_synced(marker.resource.as_ref()), Ok(generation));
    assert!(!all.iter().any(|resource| resource.name == SYNCED_NAME));
    all.into_iter().map(|resource| resource.name.clone()).collect()
}

fn answer_all(session: &mut Session, responses: &[DeltaDiscoveryResponse]) {
    for response in responses {
        assert!(matches!(session.request(&ack(response)), Ok(Step::Taken(_))));
    }
}

#[test]
fn the_first_state_of_each_type_ends_with_the_marker_and_an_empty_set_is_the_marker_alone() {
    let mut session = Session::new(first(2));
    for kind in Kind::ALL {
        assert!(!session.complete());
        let responses = send(&mut session, &ask(kind));
        let expected = match kind {
            Kind::Mesh => 1,
            Kind::Bundle => 1,
            Kind::Workload => 2,
            _ => 0,
        };
        assert_eq!(names(&responses, 7).len(), expected, "{kind:?}");
        answer_all(&mut session, &responses);
    }
    assert!(session.complete() && session.idle());
}

#[test]
fn a_large_state_comes_in_parts_of_which_the_last_has_the_marker() {
    let mut session = Session::new(first(1500));
    let responses = send(&mut session, &ask(Kind::Workload));
    assert!(responses.len() >= 3, "{}", responses.len());
    assert_eq!(names(&responses, 7).len(), 1500);
    for response in &responses {
        let size: usize = response.resources.iter().map(|r| r.resource.as_ref().unwrap().value.len()).sum();
        assert!(size < 2 << 20);
        assert!(!session.idle());
        answer_all(&mut session, std::slice::from_ref(response));
    }
    assert!(session.idle());
}

#[test]
fn when_the_generation_moves_every_type_gets_a_marker_and_only_changes_besides() {
    let before = first(2);
    let mut session = Session::new(Arc::clone(&before));
    for kind in Kind::ALL {
        let responses = send(&mut session, &ask(kind));
        answer_all(&mut session, &responses);
    }
    let mut changed = state(3, "n1");
    changed.workloads.remove(&pod_uid("shop", "p0"));
    let after = Arc::new(before.next(&changed, &bundle()).unwrap());
    let responses = session.advance(Arc::clone(&after));
    assert_eq!(responses.len(), Kind::ALL.len());
    for response in &responses {
        let names = names(std::slice::from_ref(response), 8);
        if response.type_url == Kind::Workload.type_url() {
            assert_eq!(names, [pod_uid("shop", "p2").to_string()]);
            assert_eq!(response.removed_resources, [pod_uid("shop", "p0").to_string()]);
        } else {
            assert!(names.is_empty() && response.removed_resources.is_empty());
        }
    }
    let newest = Arc::new(after.next(&state(1, "n2"), &bundle()).unwrap());
    assert!(session.advance(Arc::clone(&newest)).is_empty(), "not before everything is answered");
    answer_all(&mut session, &responses);
    assert_eq!(session.advance(newest).len(), Kind::ALL.len());
}

#[test]
fn a_client_that_comes_back_is_sent_what_it_lacks_and_told_what_is_gone() {
    let snapshot = first(3);
    let version = |pod: &str| snapshot.table(Kind::Workload)[pod_uid("shop", pod).as_str()].version.clone();
    let mut request = ask(Kind::Workload);
    request.initial_resource_versions = [
        (pod_uid("shop", "p0").to_string(), version("p0")),
        (pod_uid("shop", "p1").to_string(), "old".to_owned()),
        ("gone".to_owned(), "1".to_owned()),
        (SYNCED_NAME.to_owned(), "6".to_owned()),
    ]
    .into();
    let responses = send(&mut Session::new(snapshot), &request);
    let mut expected = [pod_uid("shop", "p1").to_string(), pod_uid("shop", "p2").to_string()];
    expected.sort();
    assert_eq!(names(&responses, 7), expected);
    assert_eq!(responses[0].removed_resources, ["gone"]);
}

#[test]
fn a_refusal_is_an_answer_and_names_its_type() {
    let mut session = Session::new(first(1));
    let responses = send(&mut session, &ask(Kind::Workload));
    let mut nack = ack(&responses[0]);
    nack.error_detail = Some(Status { code: 3, message: "bad".to_owned(), details: vec![] });
    assert_eq!(session.request(&nack), Ok(Step::Refused(Kind::Workload, "bad".to_owned())));
    assert!(session.idle());
    assert_eq!(session.request(&nack), Ok(Step::Stale), "a nonce is answered once");
    let mut wrong_type = ack(&send(&mut session, &ask(Kind::Mesh))[0]);
    wrong_type.type_url = Kind::Bundle.type_url().to_owned();
    assert_eq!(session.request(&wrong_type), Ok(Step::Stale));
}

#[test]
fn what_cannot_be_served_ends_the_stream() {
    let mut session = Session::new(first(1));
    let mut unknown = ask(Kind::Mesh);
    unknown.type_url = "type.googleapis.com/other".to_owned();
    assert_eq!(session.request(&unknown).unwrap_err().reason(), "unknown_type");
    let mut single = ask(Kind::Mesh);
    single.resource_names_subscribe = vec!["mesh".to_owned()];
    assert_eq!(session.request(&single).unwrap_err().reason(), "single_names");
    let mut wildcard = ask(Kind::Mesh);
    wildcard.resource_names_subscribe = vec!["*".to_owned()];
    assert!(matches!(session.request(&wildcard), Ok(Step::Send(_))));
}
