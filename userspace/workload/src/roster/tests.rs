//! The roster against a plain model, and the questions that it answers.

use std::collections::HashMap;

use culvert_identity::TrustDomain;
use proptest::{collection, prelude::*};

use super::*;
use crate::ServicePort;

fn workload(uid: &str, address: &str) -> Workload {
    Workload {
        uid: WorkloadUid::new(uid),
        name: uid.into(),
        namespace: "shop".into(),
        service_account: "default".into(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        node: "n1".into(),
        addresses: address.split(',').filter(|text| !text.is_empty()).map(|text| text.parse().unwrap()).collect(),
        labels: BTreeMap::new(),
        named_ports: BTreeMap::new(),
        probe_ports: Vec::new(),
        protocol: Protocol::Hbone,
        ready: true,
        phase: Phase::Running,
        host_network: false,
        kubelet_uid: None,
        deny_non_tcp: false,
        services: vec![ServiceName::new("shop", "web")],
    }
}

fn service(vips: &[&str], target: TargetPort) -> Service {
    Service {
        name: ServiceName::new("shop", "web"),
        vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
        ports: vec![ServicePort { name: "http".into(), port: 80, target }],
        publish_not_ready: false,
        client_ip_affinity: false,
        local: false,
    }
}

fn roster(workloads: Vec<Workload>, services: Vec<Service>) -> Roster {
    let mut edit = Roster::new(&["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]).edit();
    workloads.into_iter().for_each(|workload| edit.put_workload(workload.into()));
    services.into_iter().for_each(|service| edit.put_service(service.into()));
    edit.finish()
}

fn found(roster: &Roster, address: &str) -> String {
    match roster.lookup(address.parse().unwrap()) {
        Found::Enrolled(workload) => format!("enrolled {}", workload.uid),
        Found::NotEnrolled(workload) => format!("plain {}", workload.uid),
        Found::Service(service) => format!("service {}", service.name),
        Found::Host => "host".into(),
        Found::UnknownInside => "inside".into(),
        Found::Outside => "outside".into(),
    }
}

#[test]
fn an_address_has_one_answer() {
    let plain = Workload { protocol: Protocol::Plain, ..workload("b", "10.0.0.2") };
    let host = Workload { protocol: Protocol::Plain, host_network: true, ..workload("h", "10.0.0.9,192.0.2.1") };
    let ended = Workload { phase: Phase::Ended, ..workload("e", "10.0.0.4") };
    let web = service(&["10.96.0.1", "fd00::96"], TargetPort::Number(8080));
    let roster = roster(vec![workload("a", "10.0.0.1,fd00::1"), plain, host, ended], vec![web]);
    let table = [
        ("10.0.0.1", "enrolled a"),
        ("::ffff:10.0.0.1", "enrolled a"),
        ("fd00::1", "enrolled a"),
        ("10.0.0.2", "plain b"),
        ("10.96.0.1", "service shop/web"),
        ("fd00::96", "service shop/web"),
        ("10.0.0.9", "host"),
        ("192.0.2.1", "host"),
        ("10.0.0.4", "inside"),
        ("10.0.0.77", "inside"),
        ("fd00::77", "inside"),
        ("192.0.2.2", "outside"),
        ("2001:db8::1", "outside"),
    ];
    for (address, answer) in table {
        assert_eq!(found(&roster, address), answer, "{address}");
    }
}

#[test]
fn while_two_pods_claim_an_address_the_enrolled_one_has_it_in_any_order() {
    let plain = || Workload { protocol: Protocol::Plain, ..workload("a", "10.0.0.1") };
    let pending = || Workload { phase: Phase::Pending, ..workload("b", "10.0.0.1") };
    let running = || workload("c", "10.0.0.1");
    for order in [vec![plain(), pending(), running()], vec![running(), pending(), plain()]] {
        let all = roster(order, vec![]);
        assert_eq!(found(&all, "10.0.0.1"), "enrolled c");
        let mut edit = all.edit();
        edit.remove_workload(&WorkloadUid::new("c"));
        assert_eq!(found(&edit.finish(), "10.0.0.1"), "enrolled b");
    }
}

#[test]
fn a_host_network_pod_never_hides_a_pod() {
    let host = Workload { protocol: Protocol::Plain, host_network: true, ..workload("0", "10.0.0.1") };
    assert_eq!(found(&roster(vec![host, workload("z", "10.0.0.1")], vec![]), "10.0.0.1"), "enrolled z");
}

fn addresses(roster: &Roster, port: u16, like: &str) -> Result<Vec<String>, &'static str> {
    let endpoints = roster.endpoints(&ServiceName::new("shop", "web"), port, like.parse().unwrap());
    let text = |endpoint: &Endpoint| endpoint.address.to_string();
    endpoints.map(|list| list.iter().map(text).collect()).map_err(|error| error.reason())
}

#[test]
fn endpoints_are_ready_of_the_family_and_have_the_port_by_name() {
    let named =
        |uid, address, port| Workload { named_ports: [("web".to_owned(), port)].into(), ..workload(uid, address) };
    let roster = roster(
        vec![
            named("a", "10.0.0.1,fd00::1", 8080),
            named("b", "10.0.0.2", 9090),
            workload("c", "10.0.0.3"),
            Workload { ready: false, ..named("d", "10.0.0.4", 8080) },
            Workload { phase: Phase::Ended, ..named("e", "10.0.0.5", 8080) },
            Workload { services: vec![], ..named("f", "10.0.0.6", 8080) },
            Workload { named_ports: [("admin".to_owned(), 8081)].into(), ..workload("g", "10.0.0.7") },
        ],
        vec![service(&["10.96.0.1"], TargetPort::Name("web".into()))],
    );
    assert_eq!(addresses(&roster, 80, "10.96.0.1"), Ok(vec!["10.0.0.1:8080".into(), "10.0.0.2:9090".into()]));
    assert_eq!(addresses(&roster, 80, "fd00::96"), Ok(vec!["[fd00::1]:8080".into()]));
    assert_eq!(addresses(&roster, 81, "10.96.0.1"), Err("unknown_service_port"));
}

#[test]
fn not_ready_endpoints_are_published_only_when_asked_but_never_ended_ones() {
    let waiting = Workload { ready: false, ..workload("a", "10.0.0.1") };
    let ended = Workload { phase: Phase::Ended, ..workload("b", "10.0.0.2") };
    let shy = roster(vec![waiting, ended], vec![service(&["10.96.0.1"], TargetPort::Number(80))]);
    assert_eq!(addresses(&shy, 80, "10.96.0.1"), Err("no_endpoint"));
    let mut edit = shy.edit();
    let open = Service { publish_not_ready: true, ..service(&["10.96.0.1"], TargetPort::Number(80)) };
    edit.put_service(open.into());
    assert_eq!(addresses(&edit.finish(), 80, "10.96.0.1"), Ok(vec!["10.0.0.1:80".into()]));
    assert_eq!(addresses(&roster(vec![], vec![]), 80, "10.96.0.1"), Err("unknown_service"));
}

#[test]
fn an_old_snapshot_does_not_change_and_shares_its_entries() {
    let before = roster(vec![workload("a", "10.0.0.1"), workload("b", "10.0.0.2")], vec![]);
    let mut edit = before.edit();
    edit.put_workload(workload("a", "10.0.0.3").into());
    let after = edit.finish();
    assert_eq!((found(&before, "10.0.0.1"), found(&before, "10.0.0.3")), ("enrolled a".into(), "inside".into()));
    assert_eq!((found(&after, "10.0.0.1"), found(&after, "10.0.0.3")), ("inside".into(), "enrolled a".into()));
    let untouched = WorkloadUid::new("b");
    assert!(Arc::ptr_eq(before.workload(&untouched).unwrap(), after.workload(&untouched).unwrap()));
}

#[derive(Debug, Clone)]
enum Step {
    Put { uid: u8, addresses: Vec<u8>, plain: bool, ended: bool, member: bool },
    Remove(u8),
    PutService { name: u8, vip: u8 },
    RemoveService(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let put = (0u8..6, collection::vec(0u8..6, 0..3), any::<[bool; 3]>())
        .prop_map(|(uid, addresses, [plain, ended, member])| Step::Put { uid, addresses, plain, ended, member });
    prop_oneof![
        4 => put,
        2 => (0u8..6).prop_map(Step::Remove),
        1 => (0u8..3, 0u8..8).prop_map(|(name, vip)| Step::PutService { name, vip }),
        1 => (0u8..3).prop_map(Step::RemoveService),
    ]
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn apply(edit: &mut RosterEdit, model: &mut Model, step: &Step) {
    match step {
        Step::Put { uid, addresses, plain, ended, member } => {
            let text = addresses.iter().map(|last| ip(*last).to_string()).collect::<Vec<_>>().join(",");
            let new = Workload {
                protocol: if *plain { Protocol::Plain } else { Protocol::Hbone },
                phase: if *ended { Phase::Ended } else { Phase::Running },
                services: if *member { vec![ServiceName::new("shop", "0")] } else { vec![] },
                ..workload(&uid.to_string(), &text)
            };
            model.workloads.insert(*uid, new.clone());
            edit.put_workload(new.into());
        }
        Step::Remove(uid) => {
            model.workloads.remove(uid);
            edit.remove_workload(&WorkloadUid::new(&uid.to_string()));
        }
        Step::PutService { name, vip } => {
            let name_of = ServiceName::new("shop", &name.to_string());
            let new = Service { name: name_of, ..service(&[&ip(*vip).to_string()], TargetPort::Number(80)) };
            model.services.insert(*name, new.clone());
            edit.put_service(new.into());
        }
        Step::RemoveService(name) => {
            model.services.remove(name);
            edit.remove_service(&ServiceName::new("shop", &name.to_string()));
        }
    }
}

/// The same questions answered by looking at everything.
#[derive(Default)]
struct Model {
    workloads: HashMap<u8, Workload>,
    services: HashMap<u8, Service>,
}

impl Model {
    fn found(&self, address: IpAddr) -> String {
        let live = self.workloads.values().filter(|w| w.phase != Phase::Ended && w.addresses.contains(&address));
        if let Some(w) = live.min_by_key(|w| (w.protocol != Protocol::Hbone, w.uid.clone())) {
            let word = if w.protocol == Protocol::Hbone { "enrolled" } else { "plain" };
            return format!("{word} {}", w.uid);
        }
        let services = self.services.values().filter(|s| s.vips.contains(&address)).map(|s| s.name.clone());
        services.min().map_or("inside".into(), |name| format!("service {name}"))
    }

    fn endpoints(&self) -> usize {
        let member = |w: &&Workload| w.phase != Phase::Ended && !w.services.is_empty() && !w.addresses.is_empty();
        self.workloads.values().filter(member).count()
    }
}

proptest! {
    #[test]
    fn after_any_history_it_answers_like_looking_at_everything(batches in collection::vec(collection::vec(step(), 1..6), 1..12)) {
        let mut model = Model::default();
        let mut current = roster(vec![], vec![]);
        for batch in &batches {
            let mut edit = current.edit();
            batch.iter().for_each(|step| apply(&mut edit, &mut model, step));
            current = edit.finish();
            prop_assert_eq!(current.workload_count(), model.workloads.len());
            for last in 0..8 {
                prop_assert_eq!(found(&current, &ip(last).to_string()), model.found(ip(last)));
            }
            let endpoints = current.endpoints(&ServiceName::new("shop", "0"), 80, ip(0));
            let expected = if model.services.contains_key(&0) { model.endpoints() } else { 0 };
            prop_assert_eq!(endpoints.map_or(0, |list| list.len()), expected);
        }
        let mut edit = current.edit();
        for uid in 0..6 { edit.remove_workload(&WorkloadUid::new(&uid.to_string())); }
        for name in 0..3 { edit.remove_service(&ServiceName::new("shop", &name.to_string())); }
        let empty = edit.finish();
        prop_assert_eq!(empty.by_address.len() + empty.by_vip.len() + empty.members.len(), 0, "nothing is left behind");
    }
}
