//! Objects seen together.

use culvert_identity::TrustDomain;
use culvert_workload::{ActionDefault, MtlsDefault, Phase, Protocol};

use super::*;
use crate::{catalog::File, kinds::pod_uid};

const BASE: &str = "
apiVersion: culvert.dev/v1alpha1
kind: Mesh
spec: {podCIDRs: [10.0.0.0/16], serviceCIDRs: [10.96.0.0/16]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {culvert.dev/enroll: 'true'}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
";

fn overrides() -> MeshOverrides {
    MeshOverrides {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        default_mode: None,
        default_action: None,
        cluster_ranges: vec![],
    }
}

fn put_together(text: &str, reported: &BTreeMap<WorkloadUid, Vec<IpAddr>>) -> Assembly {
    let file = File { name: "a.yaml".into(), text: Ok(format!("{BASE}---\n{text}")) };
    let (catalog, complaints) = Catalog::read(&[file], &Catalog::default());
    assert!(complaints.iter().all(|c| c.severity != Severity::Error), "{complaints:?}");
    assemble(&catalog, &overrides(), reported)
}

fn pod(namespace: &str, name: &str, metadata: &str, spec: &str, status: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}{metadata}}}, \
         spec: {{nodeName: n1, containers: [{{name: c}}]{spec}}}, status: {{{status}}}}}\n"
    )
}

fn said(assembly: &Assembly) -> Vec<String> {
    assembly.complaints.iter().map(|c| format!("{} {} {}", c.severity, c.reason, c.field)).collect()
}

fn only(assembly: &Assembly) -> &Workload {
    assert_eq!(assembly.state.workloads.len(), 1);
    assembly.state.workloads.values().next().unwrap()
}

#[test]
fn a_pod_is_enrolled_by_its_namespace_and_by_itself() {
    let on = ", labels: {culvert.dev/enroll: 'true'}";
    let off = ", labels: {culvert.dev/enroll: 'false'}";
    let off_by_annotation = ", annotations: {culvert.dev/enroll: 'false'}";
    let ambient = ", labels: {istio.io/dataplane-mode: ambient}";
    let proxy = ", initContainers: [{name: istio-proxy, restartPolicy: Always}]";
    let table = [
        ("shop", "", "", "", Protocol::Hbone, ""),
        ("shop", off, "", "", Protocol::Plain, ""),
        ("shop", off_by_annotation, "", "", Protocol::Plain, ""),
        ("plain", "", "", "", Protocol::Plain, ""),
        ("plain", on, "", "", Protocol::Hbone, ""),
        ("shop", "", ", hostNetwork: true", "", Protocol::Plain, ""),
        ("shop", on, ", hostNetwork: true", "", Protocol::Plain, "warning host_network metadata.labels"),
        ("shop", "", proxy, "", Protocol::Plain, "warning sidecar metadata.labels"),
        ("shop", ambient, "", "", Protocol::Plain, "error claimed_twice metadata.labels"),
        ("plain", ambient, "", "", Protocol::Plain, ""),
        ("shop", "", "", "phase: Succeeded", Protocol::Plain, ""),
    ];
    for (namespace, metadata, spec, status, protocol, expected) in table {
        let assembly = put_together(&pod(namespace, "web", metadata, spec, status), &BTreeMap::new());
        assert_eq!(only(&assembly).protocol, protocol, "{namespace} {metadata} {spec}");
        assert_eq!(said(&assembly).join("|"), expected, "{namespace} {metadata} {spec}");
    }
}

#[test]
fn status_decides_on_phase_readiness_and_addresses() {
    let reported = BTreeMap::from([(pod_uid("shop", "web"), vec!["10.0.0.7".parse().unwrap()])]);
    let table = [
        ("", Phase::Running, true, "10.0.0.7"),
        ("podIP: 10.0.0.1", Phase::Running, true, "10.0.0.1"),
        ("podIP: 10.0.0.1, phase: Pending", Phase::Pending, false, "10.0.0.1"),
        ("podIP: 10.0.0.1, phase: Failed", Phase::Ended, false, "10.0.0.1"),
        (
            "podIP: 10.0.0.1, phase: Running, conditions: [{type: Ready, status: 'False'}]",
            Phase::Running,
            false,
            "10.0.0.1",
        ),
        ("podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]", Phase::Running, true, "10.0.0.1"),
        ("podIP: 10.0.0.1, conditions: [{type: PodScheduled, status: 'True'}]", Phase::Running, false, "10.0.0.1"),
    ];
    for (status, phase, ready, address) in table {
        let assembly = put_together(&pod("shop", "web", "", "", status), &reported);
        let pod = only(&assembly);
        assert_eq!((pod.phase, pod.ready), (phase, ready), "{status}");
        assert_eq!(pod.addresses, [address.parse::<IpAddr>().unwrap()], "{status}");
    }
    let unknown = put_together(&pod("shop", "web", "", "", ""), &BTreeMap::new());
    assert!(only(&unknown).addresses.is_empty() && !only(&unknown).ready);
    let host = put_together(&pod("shop", "web", "", ", hostNetwork: true", ""), &reported);
    assert!(only(&host).addresses.is_empty(), "a report never gives a host-network pod an address");
    let leaving = put_together(
        &pod("shop", "web", ", deletionTimestamp: '2026-01-01T00:00:00Z'", "", "podIP: 10.0.0.1"),
        &reported,
    );
    assert!(!only(&leaving).ready);
}

#[test]
fn the_uid_is_the_manifests_or_follows_from_the_name() {
    let assembly = put_together(&pod("shop", "web", ", uid: 0f3c", "", ""), &BTreeMap::new());
    assert_eq!(only(&assembly).uid.as_str(), "0f3c");
    let assembly = put_together(&pod("shop", "web", "", "", ""), &BTreeMap::new());
    assert_eq!(only(&assembly).uid, pod_uid("shop", "web"));
    assert_eq!(pod_uid("shop", "web").as_str().as_bytes()[14], b'5', "version 5");
    assert_ne!(pod_uid("shop", "web"), pod_uid("sho", "pweb"));
}

#[test]
fn services_find_their_pods_by_labels_of_their_namespace() {
    let labels = ", labels: {app: web, tier: front}";
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, \
                   spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http}]}}\n";
    let spec = ", initContainers: [{name: i, ports: [{name: http, containerPort: 8080}]}]";
    let text = [
        service.to_owned(),
        pod("shop", "a", labels, spec, ""),
        pod("plain", "b", labels, spec, ""),
        pod("shop", "c", ", labels: {app: api}", "", ""),
        pod("shop", "d", labels, "", ""),
    ];
    let assembly = put_together(&text.join("---\n"), &BTreeMap::new());
    let mut members: Vec<&str> =
        assembly.state.workloads.values().filter(|pod| !pod.services.is_empty()).map(|pod| &*pod.name).collect();
    members.sort_unstable();
    assert_eq!(members, ["a", "d"]);
    assert_eq!(said(&assembly), ["warning unknown_port spec.ports[0].targetPort"]);
    let nobody = put_together(service, &BTreeMap::new());
    assert_eq!(said(&nobody), ["warning selects_nothing spec.selector"]);
}

#[test]
fn what_does_not_fit_together_is_said() {
    let other = |status: &str| pod("shop", "b", "", "", status);
    let policy = |labels: &str| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: p, namespace: shop}}, \
             spec: {{selector: {{matchLabels: {labels}}}, mtls: {{mode: STRICT}}}}}}\n"
        )
    };
    let service = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{clusterIP: 10.96.0.1, selector: {{app: a}}}}}}\n"
        )
    };
    let targeting = |name: &str| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, \
             spec: {{targetRefs: [{{kind: Service, name: {name}}}], action: DENY, rules: [{{}}]}}}}\n"
        )
    };
    let here = |metadata: &str, spec: &str, status: &str| pod("shop", "a", metadata, spec, status);
    let table = [
        (vec![pod("nowhere", "a", "", "", "")], "warning unknown_namespace metadata.namespace"),
        (vec![here("", ", serviceAccountName: x", "")], "warning unknown_service_account spec.serviceAccountName"),
        (
            vec![here("", "", ""), "{apiVersion: v1, kind: Node, metadata: {name: n2}}\n".into()],
            "warning unknown_node spec.nodeName",
        ),
        (vec![here("", "", "podIP: 192.0.2.1")], "warning outside_ranges status.podIP"),
        (
            vec![here("", "", "podIP: 10.0.0.1"), other("podIP: 10.0.0.1")],
            "error address_conflict status.podIP|error address_conflict status.podIP",
        ),
        (vec![here("", "", "podIP: 10.0.0.1"), other("podIP: 10.0.0.1, phase: Failed")], ""),
        (vec![here(", uid: u", "", ""), pod("shop", "b", ", uid: u", "", "")], "error uid_conflict metadata.uid"),
        (vec![here(", labels: {app: a}", "", ""), policy("{app: a}")], ""),
        (
            vec![here(", labels: {app: a}", "", ""), policy("{app: b}")],
            "warning selects_nothing spec.selector.matchLabels",
        ),
        (vec![here(", labels: {app: a}", "", ""), service("x"), targeting("x")], ""),
        (
            vec![
                here(", labels: {app: a}", "", ""),
                policy("{app: a}"),
                policy("{app: a}").replace("name: p", "name: q"),
            ],
            "warning overruled spec",
        ),
        (
            vec![here(", labels: {app: a}", "", ""), service("x"), targeting("x1")],
            "warning selects_nothing spec.targetRefs",
        ),
        (
            vec![here(", labels: {app: a}", "", ""), service("x1"), service("y1")],
            "error address_conflict spec.clusterIPs",
        ),
    ];
    for (objects, expected) in table {
        let assembly = put_together(&objects.join("---\n"), &BTreeMap::new());
        assert_eq!(said(&assembly).join("|"), expected, "{objects:?}");
    }
}

#[test]
fn flags_go_before_the_mesh_object_and_that_before_istios_defaults() {
    let read = |text: &str| {
        let file = File { name: "a.yaml".into(), text: Ok(text.to_owned()) };
        Catalog::read(&[file], &Catalog::default()).0
    };
    let bare = assemble(&Catalog::default(), &overrides(), &BTreeMap::new());
    assert_eq!(said(&bare), ["warning no_cluster_ranges spec.podCIDRs"]);
    assert_eq!(&*bare.state.mesh.root_namespace, "istio-system");
    assert_eq!(
        (bare.state.mesh.default_mode, bare.state.mesh.default_action),
        (MtlsDefault::Permissive, ActionDefault::Allow)
    );
    let written = read(
        "{apiVersion: culvert.dev/v1alpha1, kind: Mesh, spec: {defaultMode: STRICT, defaultAction: DENY, \
         rootNamespace: root, trustDomainAliases: [old.local], podCIDRs: [10.0.0.0/8]}}\n---\n\
         {apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDRs: [10.1.0.0/24, 'fd00::/64']}}",
    );
    let closed = assemble(&written, &overrides(), &BTreeMap::new());
    assert_eq!(
        (closed.state.mesh.default_mode, closed.state.mesh.default_action),
        (MtlsDefault::Strict, ActionDefault::Deny)
    );
    assert_eq!(&*closed.state.mesh.root_namespace, "root");
    assert_eq!(closed.state.mesh.cluster_ranges.len(), 3);
    let flags = MeshOverrides { default_mode: Some(MtlsDefault::Permissive), ..overrides() };
    assert_eq!(assemble(&written, &flags, &BTreeMap::new()).state.mesh.default_mode, MtlsDefault::Permissive);
    let other =
        read("{apiVersion: culvert.dev/v1alpha1, kind: Mesh, spec: {trustDomain: other, podCIDRs: [10.0.0.0/8]}}");
    let fixed = assemble(&other, &overrides(), &BTreeMap::new());
    assert_eq!(said(&fixed), ["error trust_domain_fixed spec.trustDomain"]);
    assert_eq!(fixed.state.mesh.trust_domain.as_str(), "cluster.local");
}

#[test]
fn a_broken_mesh_refuses_all_traffic_whatever_policies_let_in() {
    let spec = |spec: &str| format!("{{apiVersion: culvert.dev/v1alpha1, kind: Mesh, spec: {spec}}}");
    let (good, broken) = (spec("{rootNamespace: root}"), spec("{rootNamespace: root, podCIDR: [10.0.0.0/8]}"));
    let allow = rules("open", "ALLOW", "[{}]");
    let flags = MeshOverrides { default_action: Some(ActionDefault::Allow), ..overrides() };
    let answer = |mesh: &str, before: &Catalog| {
        let file = File { name: "a.yaml".into(), text: Ok(format!("{mesh}\n---\n{allow}")) };
        let (catalog, _) = Catalog::read(&[file], before);
        let state = assemble(&catalog, &flags, &BTreeMap::new()).state;
        let mut settings = culvert_policy::MeshSettings::new(culvert_policy::TrustDomains::new("cluster.local", []));
        settings.root_namespace = state.mesh.root_namespace.clone();
        let labels = BTreeMap::new();
        let refusals = ["shop", "root", "other"].map(|namespace| {
            let subject = culvert_policy::Subject { namespace, labels: &labels, services: &[] };
            let set = culvert_policy::RuleSet::compile(subject, &settings, state.authorization.values(), []);
            set.invalid().map(|(name, text)| format!("{name}: {text}")).collect::<Vec<_>>().concat()
        });
        (refusals, catalog)
    };
    let refused = |root: &str| format!("{root}/Mesh: the Mesh has errors and has no last good version");
    let (open, catalog) = answer(&good, &Catalog::default());
    assert_eq!(open, [""; 3]);
    assert_eq!(answer(&broken, &catalog).0, [""; 3], "its last good version holds");
    let (closed, catalog) = answer(&broken, &Catalog::default());
    assert_eq!(closed, [(); 3].map(|()| refused("root")));
    assert_eq!(answer(&broken.replace("root,", "R,"), &catalog).0, [(); 3].map(|()| refused("istio-system")));
    assert_eq!(answer(&good, &catalog).0, [""; 3], "mended");
}

#[test]
fn a_service_without_selector_has_no_pods_and_one_of_another_namespace_neither() {
    let text = pod("shop", "web", ", labels: {app: web}", "", "podIP: 10.0.0.1")
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: bare, namespace: shop}, \
           spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}\n"
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: far, namespace: plain}, \
           spec: {clusterIP: 10.96.0.2, selector: {app: web}, ports: [{port: 80}]}}\n"
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: near, namespace: shop}, \
           spec: {clusterIP: 10.96.0.3, selector: {app: web}, ports: [{port: 80}]}}\n";
    let assembly = put_together(&text, &BTreeMap::new());
    let names: Vec<String> = only(&assembly).services.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["shop/near"]);
}

#[test]
fn a_pod_may_be_denied_what_is_not_tcp() {
    let denies = |metadata: &str| {
        let assembly = put_together(&pod("shop", "web", metadata, "", ""), &BTreeMap::new());
        only(&assembly).deny_non_tcp
    };
    assert!(!denies("") && !denies(", annotations: {culvert.dev/non-tcp: allow}"));
    assert!(denies(", annotations: {culvert.dev/non-tcp: deny}"));
    assert!(denies(", labels: {culvert.dev/non-tcp: deny}"));
}

/// An AuthorizationPolicy of namespace `shop` with these rules.
fn rules(name: &str, action: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{action: {action}, rules: {rules}}}}}\n"
    )
}

#[test]
fn a_policy_that_names_nobody_is_warned_of_by_field_and_taken_all_the_same() {
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: batch, namespace: shop}}\n";
    let mesh = "{apiVersion: culvert.dev/v1alpha1, kind: Mesh, \
                spec: {podCIDRs: [10.0.0.0/8], trustDomainAliases: [old.local]}}\n---\n\
                {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n\
                {apiVersion: v1, kind: Namespace, metadata: {name: plain}}\n";
    let table = [
        ("source: {namespaces: [shop, plain, pl*, '*in', '*']}", ""),
        ("source: {namespaces: [shop, shap]}", "unknown_namespace namespaces[1] did you mean \"shop\"?"),
        ("source: {namespaces: ['x*']}", "unknown_namespace namespaces[0] add the Namespace or mend the name"),
        ("source: {notNamespaces: [shap]}", "unknown_namespace notNamespaces[0] did you mean \"shop\"?"),
        ("source: {serviceAccounts: [batch, shop/batch, default, plain/default]}", ""),
        ("source: {serviceAccounts: [bitch]}", "unknown_service_account serviceAccounts[0] did you mean \"batch\"?"),
        (
            "source: {serviceAccounts: [plain/batch]}",
            "unknown_service_account serviceAccounts[0] add the ServiceAccount or mend the name",
        ),
        (
            "source: {serviceAccounts: [nowhere/batch]}",
            "unknown_namespace serviceAccounts[0] add the Namespace or mend the name",
        ),
        ("source: {principals: [cluster.local/ns/shop/sa/batch, old.local/ns/shop/sa/batch]}", ""),
        ("source: {principals: ['cluster.local/ns/shop/*', '*/sa/batch', '*', '*/ns/shop/sa/batch']}", ""),
        (
            "source: {principals: [cluster.local/ns/shop/sa/bitch]}",
            "unknown_service_account principals[0] did you mean \"batch\"?",
        ),
        (
            "source: {principals: [cluster.local/ns/nowhere/sa/x]}",
            "unknown_namespace principals[0] add the Namespace or mend the name",
        ),
        (
            "source: {principals: ['cluster.local/ns/nowhere/*']}",
            "unknown_principal principals[0] compare it with the service accounts",
        ),
        (
            "source: {principals: [far.example/ns/shop/sa/batch]}",
            "unknown_trust_domain principals[0] mend it, or add it to spec.trustDomainAliases of the Mesh",
        ),
        (
            "source: {trustDomains: [cluster.locl]}",
            "unknown_trust_domain trustDomains[0] did you mean \"cluster.local\"?",
        ),
        ("source: {trustDomains: ['*.local', old.local]}", ""),
    ];
    for (source, expected) in table {
        let policy = rules("p", "ALLOW", &format!("[{{from: [{{{source}}}]}}]"));
        let file = File { name: "a.yaml".into(), text: Ok([mesh, account, policy.as_str()].join("---\n")) };
        let (catalog, complaints) = Catalog::read(&[file], &Catalog::default());
        assert!(complaints.iter().all(|c| c.severity != Severity::Error), "{complaints:?}");
        let assembly = assemble(&catalog, &overrides(), &BTreeMap::new());
        let say = |c: &Complaint| {
            assert_eq!(c.severity, Severity::Warning);
            let field = c.field.strip_prefix("spec.rules[0].from[0].source.").unwrap();
            format!("{} {field} {}", c.reason, c.remedy)
        };
        let said: Vec<String> = assembly.complaints.iter().map(say).collect();
        assert_eq!(said.join("|"), expected, "{source}");
        assert_eq!(assembly.state.authorization.len(), 1, "a warning never refuses");
    }
}

#[test]
fn the_default_trust_domain_in_a_principal_is_that_of_the_mesh() {
    let overrides = MeshOverrides { trust_domain: TrustDomain::parse("mesh.example").unwrap(), ..overrides() };
    for (source, expected) in [
        ("principals: [cluster.local/ns/shop/sa/default]", vec![]),
        ("principals: [cluster.local/ns/shop/sa/nobody]", vec!["unknown_service_account"]),
        ("trustDomains: [cluster.local]", vec!["unknown_trust_domain"]),
    ] {
        let text = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n".to_owned()
            + &rules("p", "ALLOW", &format!("[{{from: [{{source: {{{source}}}}}]}}]"));
        let (catalog, _) = Catalog::read(&[File { name: "a.yaml".into(), text: Ok(text) }], &Catalog::default());
        let assembly = assemble(&catalog, &overrides, &BTreeMap::new());
        let names = assembly.complaints.iter().filter(|c| c.field.contains("source")).map(|c| c.reason);
        assert_eq!(names.collect::<Vec<_>>(), expected, "{source}");
    }
}

#[test]
fn names_count_in_conditions_and_those_of_pods_are_known() {
    let text = pod("shop", "a", "", ", serviceAccountName: written-nowhere", "")
        + "---\n"
        + &rules(
            "p",
            "DENY",
            "[{when: [{key: source.namespace, values: [shop], notValues: [shap]}, \
              {key: source.serviceAccount, values: [written-nowhere]}, {key: source.principal, values: ['*/sa/web']}]}]",
        );
    let assembly = put_together(&text, &BTreeMap::new());
    let expected = [
        "warning unknown_namespace spec.rules[0].when[0].notValues[0]",
        "warning unknown_principal spec.rules[0].when[2].values[0]",
        "warning unknown_service_account spec.serviceAccountName",
    ];
    let mut said = said(&assembly);
    said.sort();
    assert_eq!(said, expected);
}

#[test]
fn a_rule_without_effect_is_warned_of_with_the_one_that_makes_it_so() {
    let whole = "[{from: [{source: {namespaces: [shop]}}]}, {from: [{source: {serviceAccounts: [shop/default]}}]}]";
    let text = rules("a", "ALLOW", whole) + "---\n" + &rules("z", "DENY", "[{from: [{source: {namespaces: ['*']}}]}]");
    let assembly = put_together(&text, &BTreeMap::new());
    let said: Vec<String> = assembly.complaints.iter().map(ToString::to_string).collect();
    let line = 14;
    assert_eq!(
        said,
        [
            format!(
                "warning: a.yaml:{line}: AuthorizationPolicy shop/a: spec.rules[0]: spec.rules[0] of shop/z denies \
                 whatever this rule lets in: it lets nothing in; narrow one of them [shadowed_rule]"
            ),
            format!(
                "warning: a.yaml:{line}: AuthorizationPolicy shop/a: spec.rules[1]: spec.rules[0] says as much already: \
                 this rule changes nothing; remove one of them [shadowed_rule]"
            ),
        ]
    );
    assert_eq!(assembly.state.authorization.len(), 2);
}

#[test]
fn of_many_names_that_nobody_has_the_first_are_told() {
    let names: Vec<String> = (0..150).map(|n| format!("nowhere{n}")).collect();
    let text = rules("p", "ALLOW", &format!("[{{from: [{{source: {{namespaces: [{}]}}}}]}}]", names.join(", ")));
    let assembly = put_together(&text, &BTreeMap::new());
    let count = |reason: &str| assembly.complaints.iter().filter(|c| c.reason == reason).count();
    assert_eq!((count("unknown_namespace"), count("not_all_compared")), (100, 1));
    let rest = assembly.complaints.iter().find(|c| c.reason == "not_all_compared").unwrap();
    assert_eq!((rest.severity, rest.object.as_ref().unwrap().name.as_str()), (Severity::Info, "p"));
}

#[test]
fn the_comparison_of_names_is_bounded_and_says_so() {
    let namespaces: String = (0..1100)
        .map(|n| format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: place{n}}}}}\n---\n"))
        .collect();
    let strangers: Vec<String> = (0..90).map(|n| format!("stranger{n}")).collect();
    let policies: String = (0..12)
        .map(|n| {
            let source = format!("[{{from: [{{source: {{namespaces: [{}]}}}}]}}]", strangers.join(", "));
            rules(&format!("p{n:02}"), "ALLOW", &source) + "---\n"
        })
        .collect();
    let assembly = put_together(&(namespaces + &policies), &BTreeMap::new());
    let of = |name: &str, reason: &str| {
        let own = |c: &&Complaint| c.object.as_ref().is_some_and(|key| key.name == name) && c.reason == reason;
        assembly.complaints.iter().filter(own).count()
    };
    assert_eq!((of("p00", "unknown_namespace"), of("p00", "not_all_compared")), (90, 0));
    assert_eq!(assembly.complaints.iter().filter(|c| c.reason == "not_all_compared").count(), 1);
    assert_eq!(of("p10", "not_all_compared"), 1);
    assert_eq!(of("p11", "unknown_namespace"), 0, "behind the one at which it stopped");
}

#[test]
fn of_many_rules_without_effect_the_first_are_told() {
    let many: Vec<&str> = std::iter::repeat_n("{from: [{source: {namespaces: [shop]}}]}", 140).collect();
    let assembly = put_together(&rules("p", "ALLOW", &format!("[{}]", many.join(", "))), &BTreeMap::new());
    let count = |reason: &str| assembly.complaints.iter().filter(|c| c.reason == reason).count();
    assert_eq!((count("shadowed_rule"), count("and_more")), (100, 1));
}
