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

fn open(snapshot: Arc<Snapshot>) -> Session {
    Session::new(snapshot, "n1", usize::MAX)
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
    assert_eq!(read_synced(marker.resource.as_ref()).map(|marker| marker.generation), Ok(generation));
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
    let mut session = open(first(2));
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
    let mut session = open(first(1500));
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
    let mut session = open(Arc::clone(&before));
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
    let responses = send(&mut open(snapshot), &request);
    let mut expected = [pod_uid("shop", "p1").to_string(), pod_uid("shop", "p2").to_string()];
    expected.sort();
    assert_eq!(names(&responses, 7), expected);
    assert_eq!(responses[0].removed_resources, ["gone"]);
}

#[test]
fn a_refusal_is_an_answer_and_names_its_type() {
    let mut session = open(first(1));
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
    let mut session = open(first(1));
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

/// Two nodes; `web` of n2 is behind a service, `db` is not, and `stray` has an address outside of the ranges.
const LARGE: &str = "
---
{apiVersion: culvert.dev/v1alpha1, kind: Mesh, spec: {podCIDRs: [10.0.0.0/16], serviceCIDRs: [10.96.0.0/16]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/enroll: 'true'}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}], selector: {app: web}}}
---
{apiVersion: v1, kind: Service, metadata: {name: own, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}], selector: {app: own}}}
";

fn large(pods: &[(&str, &str, &str, &str)]) -> State {
    super::super::testing::state(&large_text(pods))
}

fn large_text(pods: &[(&str, &str, &str, &str)]) -> String {
    let pod = |(name, node, address, app): &(&str, &str, &str, &str)| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}, \
             spec: {{nodeName: {node}, containers: [{{name: c}}]}}, status: {{podIP: {address}, phase: Running}}}}\n"
        )
    };
    LARGE.to_owned() + &pods.iter().map(pod).collect::<String>()
}

const PODS: [(&str, &str, &str, &str); 5] = [
    ("own", "n1", "10.0.0.1", "own"),
    ("far-own", "n2", "10.0.0.2", "own"),
    ("web", "n2", "10.0.0.3", "web"),
    ("db", "n2", "10.0.0.4", "db"),
    ("stray", "n2", "192.0.2.9", "stray"),
];

fn subscribe_all(session: &mut Session) -> HashMap<Kind, Vec<String>> {
    let mut held = HashMap::new();
    for kind in Kind::ALL {
        let responses = send(session, &ask(kind));
        answer_all(session, &responses);
        let names = responses.iter().flat_map(|response| &response.resources).map(|resource| resource.name.clone());
        held.insert(kind, names.filter(|name| name != SYNCED_NAME).collect());
    }
    held
}

fn uids(pods: &[&str]) -> Vec<String> {
    let mut uids: Vec<String> = pods.iter().map(|pod| pod_uid("shop", pod).to_string()).collect();
    uids.sort();
    uids
}

fn addresses(subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest {
        resource_names_subscribe: texts(subscribe),
        resource_names_unsubscribe: texts(unsubscribe),
        ..ask(Kind::Workload)
    }
}

/// What the marker behind the services says.
fn last_marker(responses: &[DeltaDiscoveryResponse]) -> Marker {
    let last = responses.iter().rfind(|response| response.type_url == Kind::Service.type_url()).unwrap();
    read_synced(last.resources.last().unwrap().resource.as_ref()).unwrap()
}

#[test]
fn a_node_of_a_large_mesh_is_sent_its_own_pods_what_strays_and_what_it_asks_for() {
    let snapshot = Arc::new(Snapshot::new(7, &large(&PODS), &bundle()));
    let mut session = Session::new(snapshot, "n1", 4);
    let held = subscribe_all(&mut session);
    assert_eq!(held[&Kind::Workload], uids(&["own", "stray"]));
    assert_eq!(held[&Kind::Service], ["shop/own"]);
    let responses = send(&mut session, &addresses(&["10.96.0.1", "10.0.0.4"], &[]));
    assert_eq!(names(&responses[..1], 7), uids(&["web", "db"]));
    assert_eq!(names(&responses[1..], 7), ["shop/web"]);
    let marker = last_marker(&responses);
    assert!(marker.partial && marker.addresses.len() == 2, "{marker:?}");
    answer_all(&mut session, &responses);
    let nobody = send(&mut session, &addresses(&["10.0.0.99"], &[]));
    assert_eq!(last_marker(&nobody).addresses, ["10.0.0.99".parse::<IpAddr>().unwrap()], "nobody is an answer");
    answer_all(&mut session, &nobody);
    let responses = send(&mut session, &addresses(&[], &["10.96.0.1"]));
    assert_eq!(responses[0].removed_resources, uids(&["web"]));
    assert_eq!(responses[1].removed_resources, ["shop/web"]);
}

#[test]
fn a_change_elsewhere_is_not_told_and_one_that_concerns_the_node_is() {
    let before = Arc::new(Snapshot::new(7, &large(&PODS), &bundle()));
    let mut session = Session::new(Arc::clone(&before), "n1", 4);
    subscribe_all(&mut session);
    let responses = send(&mut session, &addresses(&["10.96.0.1", "10.0.0.9"], &[]));
    answer_all(&mut session, &responses);
    let mut latest = before;
    let mut pods = PODS.to_vec();
    let mut step = |pods: &[(&str, &str, &str, &str)]| {
        latest = Arc::new(latest.next(&large(pods), &bundle()).unwrap());
        let responses = session.advance(Arc::clone(&latest));
        answer_all(&mut session, &responses);
        assert_eq!(session.generation(), latest.generation);
        let workloads = responses.iter().find(|response| response.type_url == Kind::Workload.type_url())?;
        assert_eq!(responses.len(), Kind::ALL.len(), "every type stands at the generation");
        Some((names(std::slice::from_ref(workloads), latest.generation), workloads.removed_resources.clone()))
    };
    pods.push(("db2", "n2", "10.0.0.5", "db"));
    assert_eq!(step(&pods), None);
    pods.push(("web2", "n3", "10.0.0.6", "web"));
    assert_eq!(step(&pods), Some((uids(&["web2"]), vec![])), "an endpoint of a service that was asked for");
    pods.push(("late", "n3", "10.0.0.9", "late"));
    assert_eq!(step(&pods), Some((uids(&["late"]), vec![])), "nobody had the address when it was asked for");
    pods.push(("twin", "n3", "10.0.0.1", "twin"));
    assert_eq!(step(&pods), Some((uids(&["twin"]), vec![])), "it claims an address of the node's own pod");
    pods.retain(|(name, ..)| *name != "web");
    assert_eq!(step(&pods), Some((vec![], uids(&["web"]))));
    pods.push(("own2", "n1", "10.0.0.7", "own"));
    assert_eq!(step(&pods), Some((uids(&["own2"]), vec![])));
}

#[test]
fn what_becomes_of_a_namespace_is_told_to_every_node_of_a_large_mesh() {
    let with = |extra: &str| super::super::testing::state(&format!("{}{extra}", large_text(&PODS)));
    let tools = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: tools}}\n";
    let before = Arc::new(Snapshot::new(7, &with(tools), &bundle()));
    let mut session = Session::new(Arc::clone(&before), "n1", 4);
    assert_eq!(subscribe_all(&mut session)[&Kind::Namespace], ["shop", "tools"]);
    let pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: saw, namespace: tools, labels: {culvert.dev/enroll: \
               'true'}}, spec: {nodeName: n2, containers: [{name: c}]}, status: {podIP: 10.0.0.8, phase: Running}}\n";
    let after = Arc::new(before.next(&with(&format!("{tools}{pod}")), &bundle()).unwrap());
    let responses = session.advance(Arc::clone(&after));
    assert_eq!(responses.len(), Kind::ALL.len());
    for response in &responses {
        let names = names(std::slice::from_ref(response), 8);
        let told = response.type_url == Kind::Namespace.type_url();
        assert_eq!(names, if told { vec!["tools"] } else { vec![] }, "a pod elsewhere that is enrolled by itself");
    }
    answer_all(&mut session, &responses);
    let gone = Arc::new(after.next(&with(""), &bundle()).unwrap());
    let responses = session.advance(gone);
    let namespaces = responses.iter().find(|response| response.type_url == Kind::Namespace.type_url());
    assert_eq!(namespaces.unwrap().removed_resources, ["tools"]);
}

#[test]
fn an_answer_after_changes_that_were_not_told_brings_all_types_to_its_generation() {
    let before = Arc::new(Snapshot::new(7, &large(&PODS), &bundle()));
    let mut session = Session::new(Arc::clone(&before), "n1", 4);
    subscribe_all(&mut session);
    let mut pods = PODS.to_vec();
    pods.push(("db2", "n2", "10.0.0.5", "db"));
    let after = Arc::new(before.next(&large(&pods), &bundle()).unwrap());
    assert_eq!(session.advance(after), [], "it is nobody's here");
    let responses = send(&mut session, &addresses(&["10.0.0.5"], &[]));
    // An agent takes what it is told when all types stand at one generation, and would wait for the others for ever.
    let types: BTreeSet<_> = responses.iter().map(|response| response.type_url.clone()).collect();
    assert_eq!(types.len(), Kind::ALL.len());
    for response in &responses {
        let held = names(std::slice::from_ref(response), 8);
        let expected = if response.type_url == Kind::Workload.type_url() { uids(&["db2"]) } else { vec![] };
        assert_eq!(held, expected, "{}", response.type_url);
    }
    assert_eq!(last_marker(&responses).addresses, ["10.0.0.5".parse::<IpAddr>().unwrap()]);
    answer_all(&mut session, &responses);
    let again = send(&mut session, &addresses(&["10.0.0.4"], &[]));
    assert_eq!(again.len(), 2, "the others stand there already");
}

#[test]
fn before_all_types_are_subscribed_to_nothing_is_passed_over_in_silence() {
    let before = Arc::new(Snapshot::new(7, &large(&PODS), &bundle()));
    let mut session = Session::new(Arc::clone(&before), "n1", 4);
    let responses = send(&mut session, &ask(Kind::Mesh));
    answer_all(&mut session, &responses);
    let mut pods = PODS.to_vec();
    pods.push(("db2", "n2", "10.0.0.5", "db"));
    let after = Arc::new(before.next(&large(&pods), &bundle()).unwrap());
    let responses = session.advance(after);
    assert_eq!(names(&responses, 8), Vec::<String>::new(), "the marker of the type that was sent");
}

#[test]
fn a_mesh_that_grows_beyond_the_limit_is_taken_back_to_the_nodes_part_and_the_other_way_round() {
    let before = Arc::new(Snapshot::new(7, &large(&PODS[..4]), &bundle()));
    let mut session = Session::new(Arc::clone(&before), "n1", 4);
    assert_eq!(subscribe_all(&mut session)[&Kind::Workload].len(), 4);
    let grown = Arc::new(before.next(&large(&PODS), &bundle()).unwrap());
    let responses = session.advance(Arc::clone(&grown));
    let workloads = responses.iter().find(|response| response.type_url == Kind::Workload.type_url()).unwrap();
    assert_eq!(workloads.removed_resources, uids(&["far-own", "web", "db"]));
    assert!(last_marker(&responses).partial);
    answer_all(&mut session, &responses);
    let small = Arc::new(grown.next(&large(&PODS[..3]), &bundle()).unwrap());
    let responses = session.advance(small);
    assert!(!last_marker(&responses).partial);
    let workloads = responses.iter().find(|response| response.type_url == Kind::Workload.type_url()).unwrap();
    assert_eq!(names(std::slice::from_ref(workloads), 9), uids(&["far-own", "web"]));
}

#[test]
fn an_agent_that_comes_back_asks_again_and_is_sent_what_it_lacks() {
    let snapshot = Arc::new(Snapshot::new(7, &large(&PODS), &bundle()));
    let mut session = Session::new(Arc::clone(&snapshot), "n1", 4);
    let mut request = addresses(&["10.96.0.1"], &[]);
    let held = |pod: &str| {
        let uid = pod_uid("shop", pod).to_string();
        let version = snapshot.table(Kind::Workload)[uid.as_str()].version.clone();
        (uid, version)
    };
    request.initial_resource_versions = [held("own"), held("stray"), held("db")].into();
    let workloads = send(&mut session, &request);
    assert_eq!(names(&workloads, 7), uids(&["web"]));
    assert_eq!(workloads[0].removed_resources, uids(&["db"]), "nobody asks for it any more");
    let services = send(&mut session, &ask(Kind::Service));
    assert_eq!(last_marker(&services).addresses, ["10.96.0.1".parse::<IpAddr>().unwrap()]);
    let many: Vec<String> = (0..=MOST_ADDRESSES as u32).map(|index| IpAddr::V4(index.into()).to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(session.request(&addresses(&many, &[])).unwrap_err().reason(), "too_many_addresses");
}

/// A sequence of numbers that is the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

#[test]
fn a_part_that_is_followed_is_the_part_that_would_be_cut_anew() {
    let (mut told, mut silent) = (0, 0);
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut pods: Vec<(String, String, String, String)> = Vec::new();
        let texts = |pods: &[(String, String, String, String)]| {
            let borrowed: Vec<_> = pods.iter().map(|(a, b, c, d)| (&**a, &**b, &**c, &**d)).collect();
            large(&borrowed)
        };
        let mut snapshot = Arc::new(Snapshot::new(7, &texts(&pods), &bundle()));
        let mut session = Session::new(Arc::clone(&snapshot), "n1", 0);
        // With nobody there the mesh is no larger than the limit.
        pods.push(("first".into(), "n2".into(), "10.0.0.200".into(), "web".into()));
        snapshot = Arc::new(snapshot.next(&texts(&pods), &bundle()).unwrap());
        session.advance(Arc::clone(&snapshot));
        subscribe_all(&mut session);
        for _ in 0..25 {
            let address = format!("10.0.0.{}", dice.roll(12));
            match dice.roll(8) {
                0 => {
                    let service = format!("10.96.0.{}", 1 + dice.roll(2));
                    let responses = send(&mut session, &addresses(&[&address, &service], &[]));
                    answer_all(&mut session, &responses);
                }
                1 => {
                    let responses = send(&mut session, &addresses(&[], &[&address, "10.96.0.1"]));
                    answer_all(&mut session, &responses);
                }
                2 | 3 if pods.len() > 1 => {
                    let gone = 1 + dice.roll(pods.len() - 1);
                    pods.remove(gone);
                }
                _ => {
                    let name = format!("p{}", dice.roll(10));
                    pods.retain(|(other, ..)| *other != name);
                    let address = if dice.roll(8) == 0 { format!("192.0.2.{}", dice.roll(9)) } else { address };
                    let app = ["own", "web", "db"][dice.roll(3)].to_owned();
                    pods.push((name, format!("n{}", 1 + dice.roll(3)), address, app));
                }
            }
            let Some(next) = snapshot.next(&texts(&pods), &bundle()) else { continue };
            snapshot = Arc::new(next);
            let responses = session.advance(Arc::clone(&snapshot));
            match responses.is_empty() {
                true => silent += 1,
                false => told += 1,
            }
            answer_all(&mut session, &responses);
            let anew = session.scope.part(&snapshot);
            let followed = session.part.as_ref().unwrap();
            assert_eq!(followed.workloads, anew.workloads, "seed {seed}");
            assert_eq!(followed.services, anew.services, "seed {seed}");
        }
    }
    assert!(told > 100 && silent > 100, "{told} told, {silent} silent");
}
