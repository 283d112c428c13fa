//! Every resource comes back from its bytes as it was, and nothing that was changed on the way is taken for less.

use std::{collections::BTreeMap, net::IpAddr};

use culvert_policy::{
    Action, AuthorizationPolicy, Condition, MtlsMode, Operation, PeerAuthentication, PolicyName, Rule, Selector, Source,
};
use culvert_workload::{
    ActionDefault, Membership, Mesh, MtlsDefault, Phase, Protocol, Service, ServiceName, ServicePort, TargetPort,
    Workload, WorkloadUid,
};
use proptest::{collection, option, prelude::*};

use super::*;

fn word() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9.-]{0,8}[a-z0-9])?"
}

fn domain() -> impl Strategy<Value = TrustDomain> {
    word().prop_map(|text| TrustDomain::parse(&text).unwrap())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
        .prop_filter("IPv4 in IPv6", |address| *address == address.to_canonical())
}

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    collection::btree_set(address(), 0..3).prop_map(|set| set.into_iter().collect())
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    collection::btree_map(word(), "[a-z0-9]{0,6}", 0..4)
}

fn port() -> impl Strategy<Value = u16> {
    1..=u16::MAX
}

fn mesh() -> impl Strategy<Value = Resource> {
    let ranges = collection::vec((any::<[u8; 4]>(), 0u8..=32), 0..3);
    (domain(), collection::vec(domain(), 0..3), word(), any::<[bool; 2]>(), ranges).prop_map(
        |(trust_domain, trust_domain_aliases, root, [strict, deny], ranges)| {
            Resource::Mesh(Mesh {
                trust_domain,
                trust_domain_aliases,
                root_namespace: root.into(),
                default_mode: if strict { MtlsDefault::Strict } else { MtlsDefault::Permissive },
                default_action: if deny { ActionDefault::Deny } else { ActionDefault::Allow },
                cluster_ranges: ranges
                    .into_iter()
                    .map(|(octets, len)| ipnet::IpNet::new(IpAddr::from(octets), len).unwrap())
                    .collect(),
            })
        },
    )
}

fn workload() -> impl Strategy<Value = Resource> {
    let names = (word(), word(), word(), word(), domain(), "[a-z0-9]{0,6}");
    let lists = (
        addresses(),
        labels(),
        collection::btree_map(word(), port(), 0..3),
        collection::btree_set(port(), 0..3),
        collection::btree_set((word(), word()), 0..3),
    );
    let phase = prop_oneof![Just(Phase::Pending), Just(Phase::Running), Just(Phase::Ended)];
    (names, lists, any::<[bool; 4]>(), phase).prop_map(|(names, lists, flags, phase)| {
        let (uid, name, namespace, account, trust_domain, node) = names;
        let (addresses, labels, named_ports, probes, services) = lists;
        let [enrolled, ready, host, deny_non_tcp] = flags;
        Resource::Workload(Workload {
            uid: WorkloadUid::new(&uid),
            kubelet_uid: ready.then(|| format!("{uid}-of-kubelet").into()),
            name: name.into(),
            namespace: namespace.into(),
            service_account: account.into(),
            trust_domain,
            node: node.into(),
            addresses,
            labels,
            named_ports,
            probe_ports: probes.into_iter().collect(),
            protocol: if enrolled && !host { Protocol::Hbone } else { Protocol::Plain },
            ready,
            phase,
            host_network: host,
            deny_non_tcp,
            services: services.iter().map(|(namespace, name)| ServiceName::new(namespace, name)).collect(),
        })
    })
}

fn service() -> impl Strategy<Value = Resource> {
    let target =
        prop_oneof![port().prop_map(TargetPort::Number), word().prop_map(|name| TargetPort::Name(name.into()))];
    let ports = collection::btree_map(port(), ("[a-z]{0,4}", target), 0..4);
    (word(), word(), addresses(), ports, any::<[bool; 3]>()).prop_map(|(namespace, name, vips, ports, flags)| {
        let ports = ports.into_iter().map(|(port, (name, target))| ServicePort { name: name.into(), port, target });
        Resource::Service(Service {
            name: ServiceName::new(&namespace, &name),
            vips,
            ports: ports.collect(),
            publish_not_ready: flags[0],
            client_ip_affinity: flags[1],
            local: flags[2],
        })
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        Just(Selector::Namespace),
        prop::collection::btree_set("[a-z]{1,5}", 1..3).prop_map(Selector::Services),
        Just(Selector::Waypoint),
        collection::btree_map(word(), word(), 1..3).prop_map(Selector::Labels),
    ]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    collection::vec("[a-zA-Z0-9*/._:-]{1,9}", 0..3)
}

fn source() -> impl Strategy<Value = Source> {
    collection::vec(texts(), 14).prop_map(|lists| {
        let mut lists = lists.into_iter();
        let mut next = || lists.next().unwrap();
        let mut source = Source {
            principals: next(),
            not_principals: next(),
            request_principals: next(),
            not_request_principals: next(),
            namespaces: next(),
            not_namespaces: next(),
            service_accounts: next(),
            not_service_accounts: next(),
            trust_domains: next(),
            not_trust_domains: next(),
            ip_blocks: next(),
            not_ip_blocks: next(),
            remote_ip_blocks: next(),
            not_remote_ip_blocks: next(),
        };
        if source == Source::default() {
            source.principals.push("*".to_owned());
        }
        source
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    collection::vec(texts(), 8).prop_map(|lists| {
        let mut lists = lists.into_iter();
        let mut next = || lists.next().unwrap();
        let mut operation = Operation {
            hosts: next(),
            not_hosts: next(),
            ports: next(),
            not_ports: next(),
            methods: next(),
            not_methods: next(),
            paths: next(),
            not_paths: next(),
        };
        if operation == Operation::default() {
            operation.ports.push("80".to_owned());
        }
        operation
    })
}

fn condition() -> impl Strategy<Value = Condition> {
    (word(), texts(), collection::vec("[a-z]{1,3}", 1..3)).prop_map(|(key, values, not_values)| Condition {
        key,
        values,
        not_values,
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule =
        (collection::vec(source(), 0..3), collection::vec(operation(), 0..3), collection::vec(condition(), 0..3))
            .prop_map(|(from, to, when)| Rule { from, to, when });
    collection::vec(rule, 0..3)
}

fn authorization() -> impl Strategy<Value = Resource> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Audit), Just(Action::Custom)];
    (word(), word(), selector(), action, any::<bool>(), rules(), option::of(word())).prop_map(
        |(namespace, name, selector, action, dry_run, rules, invalid)| {
            Resource::AuthorizationPolicy(AuthorizationPolicy {
                name: PolicyName::new(&namespace, &name),
                selector,
                action,
                dry_run,
                rules,
                invalid: invalid.map(Into::into),
            })
        },
    )
}

fn mode() -> impl Strategy<Value = MtlsMode> {
    prop_oneof![Just(MtlsMode::Unset), Just(MtlsMode::Disable), Just(MtlsMode::Permissive), Just(MtlsMode::Strict)]
}

fn authentication() -> impl Strategy<Value = Resource> {
    let ports = collection::btree_map(port(), mode(), 0..3);
    (word(), word(), selector(), mode(), ports, any::<i64>(), option::of(word())).prop_map(
        |(namespace, name, selector, mode, port_modes, created, invalid)| {
            Resource::PeerAuthentication(PeerAuthentication {
                name: PolicyName::new(&namespace, &name),
                selector,
                mode,
                port_modes,
                created,
                invalid: invalid.map(Into::into),
            })
        },
    )
}

fn bundle() -> impl Strategy<Value = Resource> {
    (domain(), collection::vec(collection::vec(any::<u8>(), 1..9), 0..3), any::<u64>()).prop_map(
        |(trust_domain, authorities, sequence)| Resource::Bundle(TrustBundle { trust_domain, authorities, sequence }),
    )
}

fn namespace() -> impl Strategy<Value = Resource> {
    let membership = prop_oneof![Just(Membership::Enrolled), Just(Membership::Mixed), Just(Membership::Outside)];
    (word(), membership).prop_map(|(name, membership)| Resource::Namespace(Namespace { name: name.into(), membership }))
}

fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![mesh(), workload(), service(), authorization(), authentication(), bundle(), namespace()]
}

proptest! {
    #[test]
    fn what_is_sent_is_what_is_read(resource in resource()) {
        let body = resource.encode();
        let read = Resource::decode(resource.kind(), &resource.name(), Some(&body));
        prop_assert_eq!(read, Ok(resource));
    }

    #[test]
    fn an_unknown_field_is_never_dropped(resource in resource(), number in 100u32..5000, value in any::<u32>()) {
        let mut body = resource.encode();
        prost::encoding::encode_key(number, prost::encoding::WireType::Varint, &mut body.value);
        prost::encoding::encode_varint(value.into(), &mut body.value);
        let error = Resource::decode(resource.kind(), &resource.name(), Some(&body)).unwrap_err();
        prop_assert_eq!(error.reason(), "unknown_fields");
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in collection::vec(any::<u8>(), 0..200), index in 0..Kind::ALL.len()) {
        let kind = Kind::ALL[index];
        let body = Any { type_url: kind.type_url().to_owned(), value: bytes };
        let _ = Resource::decode(kind, "x", Some(&body));
    }

    #[test]
    fn another_name_or_type_is_refused(resource in resource()) {
        let body = resource.encode();
        let error = Resource::decode(resource.kind(), "another name", Some(&body)).unwrap_err();
        prop_assert_eq!(error.reason(), "resource_wrong_name");
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != resource.kind()) {
            let error = Resource::decode(kind, &resource.name(), Some(&body)).unwrap_err();
            prop_assert_eq!(error.reason(), "resource_wrong_type");
        }
    }
}

fn refused<M: Message>(kind: Kind, name: &str, raw: &M) -> (String, &'static str) {
    let body = Any { type_url: kind.type_url().to_owned(), value: raw.encode_to_vec() };
    match Resource::decode(kind, name, Some(&body)) {
        Err(ResourceError::Field { error, .. }) => (error.path, error.fault.reason()),
        other => panic!("expected a refused field, got {other:?}"),
    }
}

fn good_workload() -> message::Workload {
    message::Workload {
        uid: "u".into(),
        name: "web".into(),
        namespace: "shop".into(),
        service_account: "web".into(),
        trust_domain: "cluster.local".into(),
        ..Default::default()
    }
}

#[test]
fn a_bad_workload_names_its_field() {
    type Change = fn(&mut message::Workload);
    let table: [(Change, &str, &str); 12] = [
        (|w| w.uid.clear(), "uid", "field_missing"),
        (|w| w.namespace.clear(), "namespace", "field_missing"),
        (|w| w.service_account = "a b".into(), "service_account", "bad_identity"),
        (|w| w.trust_domain = "UPPER".into(), "trust_domain", "bad_trust_domain"),
        (|w| w.addresses = vec![vec![10, 0, 0, 1], vec![1, 2, 3]], "addresses[1]", "bad_address"),
        (
            |w| w.addresses = vec!["::ffff:10.0.0.1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec()],
            "addresses[0]",
            "bad_address",
        ),
        (|w| w.addresses = vec![vec![10, 0, 0, 1]; 2], "addresses[1]", "duplicate_entry"),
        (|w| w.named_ports = [("http".into(), 65536)].into(), "named_ports[\"http\"]", "bad_port"),
        (|w| w.probe_ports = vec![80, 0], "probe_ports[1]", "bad_port"),
        (|w| w.phase = 9, "phase", "unknown_value"),
        (|w| w.services = vec!["shop".into()], "services[0]", "bad_name"),
        (|w| (w.enrolled, w.host_network) = (true, true), "enrolled", "unknown_value"),
    ];
    for (change, path, reason) in table {
        let mut raw = good_workload();
        change(&mut raw);
        assert_eq!(refused(Kind::Workload, "u", &raw), (path.to_owned(), reason));
    }
}

#[test]
fn a_rule_that_lost_something_is_refused_rather_than_widened() {
    type Change = fn(&mut message::AuthorizationPolicy);
    let source = || message::Source { principals: vec!["*".into()], ..Default::default() };
    let good = || message::AuthorizationPolicy {
        namespace: "shop".into(),
        name: "p".into(),
        selector: Some(message::Selector::default()),
        rules: vec![message::Rule { from: vec![source()], ..Default::default() }],
        ..Default::default()
    };
    let table: [(Change, &str, &str); 9] = [
        (|p| p.selector = None, "selector", "field_missing"),
        (|p| p.selector.as_mut().unwrap().scope = 7, "selector.scope", "unknown_value"),
        (|p| p.selector.as_mut().unwrap().scope = 1, "selector.labels", "matches_all"),
        (
            |p| p.selector.as_mut().unwrap().labels = [("a".into(), "b".into())].into(),
            "selector.labels",
            "unknown_value",
        ),
        (|p| p.action = 9, "action", "unknown_value"),
        (|p| p.rules[0].from[0] = message::Source::default(), "rules[0].from[0].(Source)", "matches_all"),
        (|p| p.rules[0].from[0].principals[0].clear(), "rules[0].from[0].principals[0]", "field_missing"),
        (|p| p.rules[0].to = vec![message::Operation::default()], "rules[0].to[0].(Operation)", "matches_all"),
        (
            |p| p.rules[0].when = vec![message::Condition { key: "source.ip".into(), ..Default::default() }],
            "rules[0].when[0].values",
            "matches_all",
        ),
    ];
    for (change, path, reason) in table {
        let mut raw = good();
        change(&mut raw);
        assert_eq!(refused(Kind::AuthorizationPolicy, "shop/p", &raw), (path.to_owned(), reason));
    }
}

#[test]
fn other_bad_fields_are_named() {
    let selector = || Some(message::Selector::default());
    let peer = message::PeerAuthentication {
        namespace: "shop".into(),
        name: "p".into(),
        selector: selector(),
        port_modes: [(70000, 1)].into(),
        ..Default::default()
    };
    assert_eq!(refused(Kind::PeerAuthentication, "shop/p", &peer), ("port_modes[70000]".into(), "bad_port"));
    let peer = message::PeerAuthentication { port_modes: [(80, 8)].into(), ..peer };
    assert_eq!(refused(Kind::PeerAuthentication, "shop/p", &peer), ("port_modes[80]".into(), "unknown_value"));
    let mesh = message::Mesh {
        trust_domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
        cluster_ranges: vec!["10.0.0.0/33".into()],
        ..Default::default()
    };
    assert_eq!(refused(Kind::Mesh, "mesh", &mesh), ("cluster_ranges[0]".into(), "bad_cidr"));
    let namespace = message::Namespace { name: "shop".into(), membership: 9 };
    assert_eq!(refused(Kind::Namespace, "shop", &namespace), ("membership".into(), "unknown_value"));
    let namespace = message::Namespace::default();
    assert_eq!(refused(Kind::Namespace, "", &namespace), ("name".into(), "field_missing"));
    let port = message::ServicePort { port: 80, ..Default::default() };
    let service =
        message::Service { namespace: "shop".into(), name: "web".into(), ports: vec![port], ..Default::default() };
    assert_eq!(refused(Kind::Service, "shop/web", &service), ("ports[0].target".into(), "field_missing"));
    let port =
        message::ServicePort { target: Some(message::service_port::Target::Number(8080)), ..service.ports[0].clone() };
    let service = message::Service { ports: vec![port.clone(), port], ..service };
    assert_eq!(refused(Kind::Service, "shop/web", &service), ("ports[1].port".into(), "duplicate_entry"));
}

#[test]
fn a_namespace_of_which_nothing_is_said_is_not_outside() {
    let raw = message::Namespace { name: "shop".into(), ..Default::default() };
    let body = Any { type_url: Kind::Namespace.type_url().to_owned(), value: raw.encode_to_vec() };
    let silent = Namespace { name: "shop".into(), membership: Membership::Enrolled };
    assert_eq!(Resource::decode(Kind::Namespace, "shop", Some(&body)), Ok(Resource::Namespace(silent)));
}

#[test]
fn the_marker_carries_its_generation_and_nothing_else_is_a_marker() {
    let addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    let marker = Marker { generation: 7, partial: true, addresses };
    assert_eq!(read_synced(Some(&synced(&marker))), Ok(marker));
    assert_eq!(read_synced(None).unwrap_err().reason(), "resource_no_body");
    let other = TrustBundle { trust_domain: TrustDomain::parse("td").unwrap(), authorities: vec![], sequence: 1 };
    let error = read_synced(Some(&Resource::Bundle(other).encode())).unwrap_err();
    assert_eq!(error.reason(), "resource_wrong_type");
}

#[test]
fn every_type_url_leads_back_to_its_kind() {
    for kind in Kind::ALL {
        assert_eq!(Kind::of_type_url(kind.type_url()), Some(kind));
    }
    assert_eq!(Kind::of_type_url(SYNCED_TYPE_URL), None);
}
