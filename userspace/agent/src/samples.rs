//! Small worlds for unit tests.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use culvert_identity::TrustDomain;
use culvert_policy::{Action, AuthorizationPolicy, PolicyName, Rule, Selector, Source};
use culvert_workload::{
    ActionDefault, Mesh, MtlsDefault, Phase, Protocol, Roster, Service, ServiceName, ServicePort, TargetPort, Workload,
    WorkloadUid,
};

use crate::snapshot::{Snapshot, policy_settings};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn mesh() -> Mesh {
    Mesh {
        trust_domain: TrustDomain::parse("cluster.local").expect("a trust domain"),
        trust_domain_aliases: Vec::new(),
        root_namespace: "istio-system".into(),
        default_mode: MtlsDefault::Strict,
        default_action: ActionDefault::Deny,
        cluster_ranges: vec!["10.0.0.0/8".parse().expect("a range")],
    }
}

/// An enrolled, ready pod of namespace `shop` on node `n1`; uid, name and account are `name`.
pub(crate) fn pod(name: &str, address: &str) -> Workload {
    Workload {
        uid: WorkloadUid::new(name),
        kubelet_uid: None,
        name: name.into(),
        namespace: "shop".into(),
        service_account: name.into(),
        trust_domain: mesh().trust_domain,
        node: "n1".into(),
        addresses: vec![ip(address)],
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        named_ports: BTreeMap::from([("http".to_owned(), 8080)]),
        probe_ports: Vec::new(),
        protocol: Protocol::Hbone,
        ready: true,
        phase: Phase::Running,
        host_network: false,
        deny_non_tcp: false,
        services: Vec::new(),
    }
}

/// Service `shop/NAME` with port 80 to the port named `http`.
pub(crate) fn service(name: &str, vip: &str) -> Service {
    Service {
        name: ServiceName::new("shop", name),
        vips: vec![ip(vip)],
        ports: vec![ServicePort { name: "".into(), port: 80, target: TargetPort::Name("http".into()) }],
        publish_not_ready: false,
        client_ip_affinity: false,
        local: false,
    }
}

/// An ALLOW policy of namespace `shop` for everybody of these service accounts.
pub(crate) fn allow(name: &str, principals: &[&str]) -> AuthorizationPolicy {
    AuthorizationPolicy {
        name: PolicyName::new("shop", name),
        selector: Selector::Namespace,
        action: Action::Allow,
        dry_run: false,
        rules: vec![Rule {
            from: vec![Source {
                principals: principals.iter().map(|sa| format!("cluster.local/ns/shop/sa/{sa}")).collect(),
                ..Source::default()
            }],
            ..Rule::default()
        }],
        invalid: None,
    }
}

pub(crate) fn snapshot(
    pods: impl IntoIterator<Item = Workload>,
    services: impl IntoIterator<Item = Service>,
    policies: impl IntoIterator<Item = AuthorizationPolicy>,
) -> Snapshot {
    let mesh = mesh();
    let mut edit = Roster::new(&mesh.cluster_ranges).edit();
    pods.into_iter().for_each(|pod| edit.put_workload(Arc::new(pod)));
    services.into_iter().for_each(|service| edit.put_service(Arc::new(service)));
    Snapshot {
        generation: 1,
        settings: Arc::new(policy_settings(&mesh)),
        mesh: Arc::new(mesh),
        roster: edit.finish(),
        authorizations: policies.into_iter().map(|policy| (policy.name.clone(), Arc::new(policy))).collect(),
        authentications: BTreeMap::new(),
        bundles: BTreeMap::new(),
        namespaces: Arc::default(),
        coverage: crate::coverage::Coverage::default(),
    }
}
