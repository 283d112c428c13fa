//! What each kind of mistake is called, and what stays in force.

use super::*;
use crate::{complaint::Severity, kinds::Object, object::ObjectKind};

fn file(name: &str, text: &str) -> File {
    File { name: name.to_owned(), text: Ok(text.to_owned()) }
}

fn read(text: &str) -> (Catalog, Vec<Complaint>) {
    Catalog::read(&[file("a.yaml", text)], &Catalog::default())
}

fn after(before: &str, text: &str) -> (Catalog, Vec<Complaint>) {
    Catalog::read(&[file("a.yaml", text)], &read(before).0)
}

fn standing(catalog: &Catalog, name: &str) -> Option<Standing> {
    let find = |(key, held): (&ObjectKey, &Held)| (key.to_string() == name).then_some(held.standing);
    catalog.objects().find_map(find)
}

/// `severity reason field` of each complaint, without the notes on what stays in force.
fn said(complaints: &[Complaint]) -> Vec<String> {
    let say = |c: &Complaint| format!("{} {} {}", c.severity, c.reason, c.field).trim_end().to_owned();
    complaints.iter().filter(|c| c.reason != "fallback").map(say).collect()
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  nodeName: n1
  containers:
  - name: c
    ports: [{name: http, containerPort: 8080}]
";

#[test]
fn a_good_pod_gives_no_complaint() {
    let (catalog, complaints) = read(POD);
    assert_eq!(said(&complaints), Vec::<String>::new());
    assert_eq!(standing(&catalog, "Pod shop/web"), Some(Standing::Fresh));
}

#[test]
fn an_emptied_file_keeps_what_it_said_until_it_is_removed() {
    for emptied in ["", "\n", "# to be written\n---\n", "null\n"] {
        let (catalog, complaints) = after(POD, emptied);
        assert_eq!(said(&complaints), ["error file_emptied"], "{emptied:?}");
        assert_eq!(standing(&catalog, "Pod shop/web"), Some(Standing::LastGood), "{emptied:?}");
        let (again, _) = Catalog::read(&[file("a.yaml", emptied)], &catalog);
        assert_eq!(standing(&again, "Pod shop/web"), Some(Standing::LastGood), "{emptied:?}, read once more");
    }
    let (before, _) = read(POD);
    let (removed, _) = Catalog::read(&[], &before);
    assert!(removed.is_empty());
    let (moved, complaints) = Catalog::read(&[file("a.yaml", ""), file("b.yaml", POD)], &before);
    assert_eq!(standing(&moved, "Pod shop/web"), Some(Standing::Fresh));
    let (_, later) = Catalog::read(&[file("a.yaml", ""), file("b.yaml", POD)], &moved);
    assert_eq!((said(&complaints), said(&later)), (vec!["error file_emptied".to_owned()], vec![]));
    assert_eq!(said(&read("").1), Vec::<String>::new(), "a file that never said anything");
}

#[test]
fn what_a_stand_in_closes_stays_closed_while_its_file_is_damaged() {
    let broken = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: shop}, \
                  spec: {mtls: {mode: STRCT}}}";
    let key = "PeerAuthentication shop/p";
    assert_eq!(standing(&read(broken).0, key), Some(Standing::Invalid));
    for damaged in ["", "{apiVersion: security"] {
        let (catalog, _) = after(broken, damaged);
        assert_eq!(standing(&catalog, key), Some(Standing::Invalid), "{damaged:?}");
        let (again, _) = Catalog::read(&[file("a.yaml", damaged)], &catalog);
        assert_eq!(standing(&again, key), Some(Standing::Invalid), "{damaged:?}, read once more");
        assert!(Catalog::read(&[], &again).0.is_empty());
    }
}

#[test]
fn the_parts_of_a_name_have_no_length_of_their_own() {
    let named = |name: &str| {
        let text = format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{rules: [{{}}]}}}}"
        );
        standing(&read(&text).0, &format!("AuthorizationPolicy shop/{name}"))
    };
    assert_eq!(named(&"a".repeat(253)), Some(Standing::Fresh));
    assert_eq!(named(&format!("{}.b", "a".repeat(64))), Some(Standing::Fresh));
    assert_eq!(named(&"a".repeat(254)), Some(Standing::Invalid));
}

#[test]
fn who_is_wrong_a_thousand_times_is_not_told_so_a_thousand_times() {
    let labels: String = (0..1000).map(|number| format!("l{number}: {number}, ")).collect();
    let (_, complaints) = read(&POD.replacen("namespace: shop", &format!("namespace: shop, labels: {{{labels}}}"), 1));
    assert_eq!(said(&complaints).len(), 101);
    assert!(complaints.iter().any(|last| last.reason == "and_more" && last.text.starts_with("900 more")));
}

/// Lines added to the good pod, and what is said about them. An error leaves the pod out, a warning does not.
#[test]
fn each_mistake_in_a_pod_has_its_field_and_its_word() {
    let table = [
        ("  nodeNam: n1", "warning unknown_field spec.nodeNam"),
        ("  hostNetwork: \"true\"", "error bad_type spec.hostNetwork"),
        ("  serviceAccountName: a_b", "error bad_name spec.serviceAccountName"),
        ("  serviceAccount: a1\n  serviceAccountName: b1", "error conflict spec.serviceAccount"),
        (
            "  initContainers: [{name: i, livenessProbe: {httpGet: {port: http}}}]",
            "error unknown_port spec.initContainers[0].livenessProbe.httpGet.port",
        ),
        (
            "  initContainers: [{name: i, livenessProbe: {grpc: {service: x}}}]",
            "error field_missing spec.initContainers[0].livenessProbe.grpc.port",
        ),
        (
            "  initContainers: [{name: i, livenessProbe: {tcpSocket: {port: 1, host: x}}}]",
            "warning unsupported spec.initContainers[0].livenessProbe.tcpSocket.host",
        ),
        (
            "  initContainers: [{name: i, ports: [{containerPort: 0}]}]",
            "error bad_port spec.initContainers[0].ports[0].containerPort",
        ),
        (
            "  initContainers: [{name: i, ports: [{containerPort: 1, name: HTTP}]}]",
            "error bad_port spec.initContainers[0].ports[0].name",
        ),
        (
            "  initContainers: [{name: i, ports: [{containerPort: 1, name: http}]}]",
            "warning duplicate_port spec.initContainers[0].ports[0].name",
        ),
        (
            "  initContainers: [{name: i, ports: [{containerPort: 53, protocol: UDP}]}]",
            "info not_tcp spec.initContainers[0].ports[0].protocol",
        ),
        (
            "  initContainers: [{name: i, ports: [{containerPort: 53, protocol: ICMP}]}]",
            "error bad_value spec.initContainers[0].ports[0].protocol",
        ),
        (
            "  initContainers: [{name: i, ports: [{containerPort: 15008}]}]",
            "warning reserved_port spec.initContainers[0].ports[0].containerPort",
        ),
        ("status: {podIP: 10.0.0.300}", "error bad_address status.podIP"),
        ("status: {podIP: 127.0.0.1}", "error bad_address status.podIP"),
        ("status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}", ""),
        ("status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.2}]}", "error duplicate_address status.podIPs[0].ip"),
        ("status: {phase: running}", "error bad_value status.phase"),
        ("status: {conditions: [{type: Ready, status: \"True\"}]}", ""),
        ("statu: {}", "warning unknown_field statu"),
    ];
    for (lines, expected) in table {
        let (catalog, complaints) = read(&format!("{POD}{lines}\n"));
        let expected: Vec<&str> = expected.split('|').filter(|text| !text.is_empty()).collect();
        assert_eq!(said(&complaints), expected, "{lines}");
        assert!(complaints.iter().all(|c| c.origin.file == "a.yaml" && c.origin.line == 2), "{lines}");
        let kept = !expected.iter().any(|text| text.starts_with("error"));
        assert_eq!(standing(&catalog, "Pod shop/web").is_some(), kept, "{lines}");
    }
}

#[test]
fn each_mistake_in_metadata_has_its_field_and_its_word() {
    let table = [
        ("name: Web, namespace: shop", "error bad_name metadata.name"),
        ("name: a..b, namespace: shop", "error bad_name metadata.name"),
        ("name: web, namespace: sh.op", "error bad_name metadata.namespace"),
        ("name: web", "info no_namespace"),
        ("namespace: shop", "error no_name"),
        ("name: web, namespace: shop, uid: 'a/b'", "error bad_uid metadata.uid"),
        ("name: web, namespace: shop, label: {}", "warning unknown_field metadata.label"),
        ("name: web, namespace: shop, labels: {a: 1}", "error bad_type metadata.labels.a"),
        ("name: web, namespace: shop, labels: {culvert.dev/enroll: 'yes'}", "error bad_enroll metadata.labels"),
        ("name: web, namespace: shop, labels: {culvert.dev/enrol: 'true'}", "warning unknown_key metadata.labels"),
        (
            "name: web, namespace: shop, annotations: {culvert.dev/non-tcp: drop}",
            "error bad_value metadata.annotations",
        ),
        (
            "name: web, namespace: shop, labels: {culvert.dev/enroll: 'true'}, annotations: {culvert.dev/enroll: 'false'}",
            "warning enroll_conflict metadata.annotations",
        ),
        (
            "name: web, namespace: shop, annotations: {ambient.istio.io/bypass-inbound-capture: 'true'}",
            "warning unsupported metadata.annotations",
        ),
    ];
    for (metadata, expected) in table {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{{metadata}}}\nspec: {{nodeName: n1, containers: [{{name: c}}]}}"
        );
        assert_eq!(said(&read(&text).1), [expected], "{metadata}");
    }
}

#[test]
fn each_mistake_in_a_service_has_its_field_and_its_word() {
    let good = "clusterIP: 10.96.0.1, selector: {app: web}";
    let table = [
        ("ports: [{port: 80, targetPort: http}]", ""),
        ("ports: [{port: 80, targetPort: 8080, nodePort: 30000}], type: NodePort", ""),
        ("ports: [{port: 80, targetPort: '8080'}]", "error bad_port spec.ports[0].targetPort"),
        ("ports: [{port: 80}, {port: 80}]", "error duplicate_port spec.ports[1].port"),
        ("ports: [{name: http}]", "error field_missing spec.ports[0].port"),
        ("ports: [{port: 70000}]", "error bad_port spec.ports[0].port"),
        ("ports: [{port: 53, protocol: UDP}]", "info not_tcp spec.ports[0].protocol"),
        ("sessionAffinity: ClientIP", ""),
        ("sessionAffinity: Sticky", "error bad_value spec.sessionAffinity"),
        ("internalTrafficPolicy: Local", ""),
        ("internalTrafficPolicy: Near", "error bad_value spec.internalTrafficPolicy"),
        ("trafficDistribution: PreferClose", "warning unsupported spec.trafficDistribution"),
        ("externalIPs: [192.0.2.1]", "warning unsupported spec.externalIPs"),
        ("type: ExternalName", "warning unsupported spec.type"),
        ("type: Internal", "error bad_value spec.type"),
        ("clusterIPs: [10.96.0.1, 10.96.0.1]", "error duplicate_address spec.clusterIPs[1]"),
        ("clusterIPs: [nowhere]", "error bad_address spec.clusterIPs[0]"),
        ("publishNotReadyAddresses: 1", "error bad_type spec.publishNotReadyAddresses"),
        ("port: []", "warning unknown_field spec.port"),
    ];
    for (spec, expected) in table {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop}}, spec: {{{good}, {spec}}}}}"
        );
        let expected: Vec<&str> = expected.split('|').filter(|text| !text.is_empty()).collect();
        assert_eq!(said(&read(&text).1), expected, "{spec}");
    }
    let bare = |spec: &str| {
        let text =
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop}}, spec: {{{spec}}}}}");
        said(&read(&text).1).join("|")
    };
    assert_eq!(bare("selector: {app: web}"), "info no_vip spec.clusterIP");
    assert_eq!(bare("clusterIP: None, selector: {app: web}"), "");
    assert_eq!(bare("clusterIP: None"), "info no_selector spec.selector");
}

#[test]
fn each_mistake_in_mesh_and_node_has_its_field_and_its_word() {
    let mesh = |spec: &str| format!("{{apiVersion: culvert.dev/v1alpha1, kind: Mesh, spec: {{{spec}}}}}");
    let node = |spec: &str| format!("{{apiVersion: v1, kind: Node, metadata: {{name: n1}}, {spec}}}");
    let table = [
        (mesh("defaultMode: STRICT, defaultAction: DENY, podCIDRs: [10.0.0.0/8], rootNamespace: root"), ""),
        (mesh("defaultMode: strict"), "error bad_value spec.defaultMode"),
        (mesh("defaultAction: AUDIT"), "error bad_value spec.defaultAction"),
        (mesh("trustDomain: Upper"), "error bad_trust_domain spec.trustDomain"),
        (mesh("trustDomainAliases: [ok, 'spiffe://no']"), "error bad_trust_domain spec.trustDomainAliases[1]"),
        (mesh("rootNamespace: ''"), "error bad_name spec.rootNamespace"),
        (mesh("podCIDRs: [10.0.0.0]"), "error bad_cidr spec.podCIDRs[0]"),
        (mesh("podCidrs: [10.0.0.0/8]"), "error unknown_field spec.podCidrs"),
        (mesh("}, defaultMode: STRICT, status: {"), "error unknown_field defaultMode"),
        ("{apiVersion: culvert.dev/v1alpha1, kind: Mesh, specs: {}}".to_owned(), "error unknown_field specs"),
        (node("spec: {podCIDR: 10.0.0.0/24}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}"), ""),
        (node("spec: {podCIDRs: [x]}"), "error bad_cidr spec.podCIDRs[0]"),
        (
            node("status: {addresses: [{type: InternalIP, address: x}]}"),
            "error bad_address status.addresses[0].address",
        ),
    ];
    for (text, expected) in table {
        let expected: Vec<&str> = expected.split('|').filter(|text| !text.is_empty()).collect();
        assert_eq!(said(&read(&text).1), expected, "{text}");
    }
}

#[test]
fn remedies_name_the_field_that_was_meant() {
    let (_, complaints) = read(&format!("{POD}  hostnetwork: true\n"));
    let text = complaints[0].to_string();
    assert_eq!(
        text,
        "warning: a.yaml:2: Pod shop/web: spec.hostnetwork: unknown field, without any effect; did you mean \
         \"hostNetwork\"? [unknown_field]"
    );
}

#[test]
fn other_kinds_are_listed_once_and_versions_nobody_knows_are_errors() {
    let deployment = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}\n";
    let (catalog, complaints) = read(&format!("{deployment}---\n{deployment}---\n{POD}"));
    assert_eq!(said(&complaints), ["info kind_ignored"]);
    assert!(complaints[0].text.contains("Deployment (apps/v1)") && complaints[0].text.contains("(2)"));
    assert!(standing(&catalog, "Pod shop/web").is_some());
    let foreign = "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: web}}";
    assert_eq!(said(&read(foreign).1), ["info kind_ignored"]);
    let old =
        "{apiVersion: security.istio.io/v1alpha1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}}";
    let (catalog, complaints) = read(old);
    assert_eq!(said(&complaints), ["error unknown_version"]);
    assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(Standing::Invalid));
    let (catalog, complaints) = read(&old.replace("/v1alpha1", ""));
    assert_eq!(said(&complaints), ["error unknown_version"], "the version was forgotten");
    assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(Standing::Invalid));
}

#[test]
fn a_policy_with_a_slip_in_its_kind_or_group_is_not_passed_over_like_a_kind_of_others() {
    let object = |version: &str, kind: &str| {
        read(&format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: p, namespace: shop}}}}")).1
    };
    for (version, kind) in [
        ("security.istio.io/v1", "AuthorisationPolicy"),
        ("security.istio.io/v1", "authorizationpolicy"),
        ("security.istio.io/v1", "AuthorizationPolicys"),
        ("security.istio.oi/v1", "AuthorizationPolicy"),
        ("security.istio.io/v1beta1", "PeerAuthentification"),
    ] {
        let complaints = object(version, kind);
        assert_eq!(said(&complaints), ["error kind_misspelt"], "{version} {kind}");
        assert!(complaints[0].remedy.contains("did you mean kind "), "{complaints:?}");
    }
    for (version, kind) in [
        ("policy.linkerd.io/v1alpha1", "AuthorizationPolicy"),
        ("kuma.io/v1alpha1", "Mesh"),
        ("appmesh.k8s.aws/v1beta2", "Mesh"),
        ("v1", "Test"),
        ("security.istio.io/v1", "Namespace"),
        ("networking.istio.io/v1", "DestinationRule"),
        ("batch/v1", "Job"),
    ] {
        assert_eq!(said(&object(version, kind)), ["info kind_ignored"], "{version} {kind}");
    }
}

#[test]
fn a_slip_in_kind_or_group_keeps_the_last_good_version_and_else_closes() {
    let mesh = "{apiVersion: culvert.dev/v1alpha1, kind: Mesh, metadata: {name: x}, spec: {defaultMode: STRICT}}";
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/enroll: 'true'}}}";
    let policy = "AuthorizationPolicy shop/p";
    let table = [
        (POLICY, "kind: AuthorizationPolicy", "kind: AuthorizationPolicys", policy),
        (POLICY, "security.istio.io", "security.istio.oi", policy),
        (POLICY, "security.istio.io", "networking.istio.io", policy),
        (POLICY, "security.istio.io/v1", "v1", policy),
        (mesh, "kind: Mesh", "kind: mesh", "Mesh mesh"),
        (mesh, "kind: Mesh", "kind: Mash", "Mesh mesh"),
        (mesh, "culvert.dev", "culvert.io", "Mesh mesh"),
        (mesh, "culvert.dev/v1alpha1", "v1alpha1", "Mesh mesh"),
        (namespace, "kind: Namespace", "kind: namespace", "Namespace shop"),
    ];
    for (good, right, wrong, key) in table {
        let bad = good.replace(right, wrong);
        let (catalog, complaints) = after(good, &bad);
        assert_eq!(said(&complaints), ["error kind_misspelt"], "{wrong}");
        assert_eq!(standing(&catalog, key), Some(Standing::LastGood), "{wrong}");
        assert_eq!(standing(&read(&bad).0, key), Some(Standing::Invalid), "{wrong}");
    }
}

#[test]
fn a_policy_without_version_closes_its_namespace() {
    let bad = POLICY.replace("apiVersion: security.istio.io/v1\n", "");
    let (catalog, complaints) = read(&bad);
    assert_eq!(said(&complaints), ["error not_an_object"]);
    assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(Standing::Invalid));
    assert_eq!(standing(&after(POLICY, &bad).0, "AuthorizationPolicy shop/p"), Some(Standing::LastGood));
}

#[test]
fn a_namespace_that_is_no_text_moves_nothing_to_another_one() {
    for (written, closed) in [
        ("123", "123"),
        ("true", "true"),
        ("no", "no"),
        ("y", "y"),
        ("off", "off"),
        ("[shop]", "default"),
        ("{a: b}", "default"),
    ] {
        let bad = POLICY.replace("namespace: shop", &format!("namespace: {written}"));
        let (catalog, complaints) = read(&bad);
        assert_eq!(said(&complaints), ["error bad_namespace"], "{written}");
        let stand_in = format!("AuthorizationPolicy {closed}/p");
        assert_eq!(standing(&catalog, &stand_in), Some(Standing::Invalid), "{written}");
        let (catalog, _) = after(POLICY, &bad);
        assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(Standing::LastGood), "{written}");
    }
    let (catalog, complaints) = read(&POD.replace("namespace: shop", "namespace: 7"));
    assert_eq!((said(&complaints), catalog.is_empty()), (vec!["error bad_namespace".to_owned()], true));
    for absent in ["~", "''"] {
        let (catalog, complaints) = read(&POLICY.replace("namespace: shop", &format!("namespace: {absent}")));
        assert_eq!(said(&complaints), ["info no_namespace"], "{absent}");
        assert_eq!(standing(&catalog, "AuthorizationPolicy default/p"), Some(Standing::Fresh), "{absent}");
    }
}

#[test]
fn what_stands_for_a_broken_policy_is_said_as_it_is() {
    let table = [
        ("action: DENI", "it refuses everything that it selects"),
        ("action: AUDIT\n  rule: 1", "it only marks, and refuses nothing"),
        ("action: AUDIT\n  provider: {name: x}", "it refuses everything that it selects"),
        ("targetRefs: [{kind: Service, name: x}]\n  rule: 1", "it refuses everything that it selects"),
        (
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: x}]\n  rule: 1",
            "it is a waypoint's business and refuses nothing here",
        ),
    ];
    for (spec, expected) in table {
        let bad = POLICY.replace("  selector: {matchLabels: {app: web}}\n", "").replace("action: DENY", spec);
        let (_, complaints) = read(&bad);
        let text = complaints.iter().find(|c| c.reason == "fallback").map(|c| c.text.as_str());
        assert_eq!(text, Some(format!("until it is mended {expected}").as_str()), "{spec}");
    }
}

/// The stand-in must close the namespace that the policy is for, whatever the style it is written in.
#[test]
fn a_broken_policy_in_flow_style_closes_its_own_namespace() {
    let broken =
        "kind: AuthorizationPolicy\napiVersion: security.istio.io/v1\nmetadata: {name: p, namespace: shop}\nspec: {\n";
    let (catalog, complaints) = read(broken);
    assert!(said(&complaints).contains(&"error not_yaml".to_owned()), "{complaints:?}");
    assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(Standing::Invalid));
}

/// Which namespaces refuse everything after a first reading.
fn closed(text: &str) -> Vec<String> {
    let (catalog, complaints) = read(text);
    assert!(complaints.iter().any(|complaint| complaint.severity == Severity::Error), "{text}: {complaints:?}");
    let objects = catalog.objects().filter(|(key, held)| key.kind.fails_closed() && held.standing == Standing::Invalid);
    let namespaces: std::collections::BTreeSet<String> = objects.map(|(key, _)| key.namespace.clone()).collect();
    namespaces.into_iter().collect()
}

#[test]
fn what_cannot_be_read_closes_every_namespace_that_it_may_be_for() {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n";
    for (text, expected) in [
        // The policy is the list's second item, or only the list's kind says what its items are.
        (
            format!(
                "kind: List\nitems:\n- {{kind: Pod, metadata: {{namespace: a}}}}\n- {}\n- {{a: 1, a: 2}}\n",
                "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}}"
            ),
            "a shop",
        ),
        (
            "kind: AuthorizationPolicyList\nitems:\n- metadata: {namespace: shop, name: p}\n  spec: {\n".to_owned(),
            "shop",
        ),
        // An owner's kind and a label's namespace stand before its own.
        (
            format!("metadata:\n  ownerReferences: [{{kind: Deployment}}]\n  namespace: shop\n{policy}spec: {{\n"),
            "shop",
        ),
        (format!("{policy}metadata:\n  labels: {{namespace: other}}\n  namespace: shop\nspec: {{\n"), "other shop"),
        // Two objects without a line between them.
        (format!("{policy}metadata: {{namespace: a}}\n{policy}metadata: {{namespace: b}}\n"), "a b"),
        (format!("{policy}metadata: {{name: p, namespace: shop}}\nspec: {{\n").replace('\n', "\r"), "shop"),
        (format!("{policy}Metadata: {{name: p, namespace: shop}}\nspec: {{}}\n"), "shop"),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthPolicy\nmetadata: {name: p, namespace: shop}\n".to_owned(),
            "shop",
        ),
    ] {
        assert_eq!(closed(&text).join(" "), expected, "{text}");
    }
}

/// As an API server prunes them; but a label without a value would select more.
#[test]
fn what_is_null_counts_as_left_out() {
    for (spec, standing_expected) in [
        (
            "{selector: null, action: null, rules: [{from: null, to: [{operation: {methods: null, ports: ['80']}}]}]}",
            Standing::Fresh,
        ),
        ("{action: DENY, rules: null}", Standing::Invalid),
        ("{selector: {matchLabels: {app: null}}, rules: [{}]}", Standing::Invalid),
        ("{rules: [null]}", Standing::Invalid),
    ] {
        let text = format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
        );
        let (catalog, complaints) = read(&text);
        assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(standing_expected), "{spec}: {complaints:?}");
    }
}

#[test]
fn a_bare_sequence_and_a_list_in_other_letters_are_opened() {
    let item = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}";
    for text in
        [format!("- {item}\n"), format!("kind: list\nItems: [{item}]\n"), format!("kind: List\nItems: [{item}]\n")]
    {
        let (catalog, complaints) = read(&text);
        assert_eq!((said(&complaints).len(), catalog.objects().count()), (0, 1), "{text}");
    }
}

#[test]
fn lists_are_opened() {
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n",
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}",
        "{apiVersion: v1, kind: NodeList, items: [{metadata: {name: n1}}, {metadata: {name: n2}}]}"
    );
    let (catalog, complaints) = read(&list);
    assert_eq!(said(&complaints), Vec::<String>::new());
    let names: Vec<String> = catalog.objects().map(|(key, _)| key.to_string()).collect();
    assert_eq!(names, ["Namespace shop", "Node n1", "Node n2"]);
}

#[test]
fn items_that_are_no_list_are_none_or_one_and_never_passed_over() {
    let item = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}";
    for (list, expected, names) in [
        ("{apiVersion: v1, kind: List, items: ~}".to_owned(), "", 0),
        ("{apiVersion: v1, kind: PodList, items: ~}".to_owned(), "", 0),
        (format!("{{apiVersion: v1, kind: List, items: {item}}}"), "", 1),
        ("{apiVersion: v1, kind: NamespaceList, items: {metadata: {name: shop}}}".to_owned(), "", 1),
        ("{apiVersion: v1, kind: List, items: shop}".to_owned(), "error not_an_object", 0),
        ("{apiVersion: a.b/v1, kind: AllowList, items: {a: b}}".to_owned(), "info kind_ignored", 0),
    ] {
        let (catalog, complaints) = read(&list);
        assert_eq!((said(&complaints).concat().as_str(), catalog.objects().count()), (expected, names), "{list}");
    }
}

#[test]
fn a_broken_document_takes_neither_its_neighbours_nor_its_last_good_version_down() {
    let other = POD.replace("web", "api");
    let good = format!("{POD}---{other}");
    let bad = format!("{}---{other}", POD.replace("spec:", "spec: [:"));
    let (catalog, complaints) = read(&bad);
    assert_eq!(said(&complaints), ["error not_yaml"]);
    assert!((5..=6).contains(&complaints[0].origin.line), "{}", complaints[0]);
    assert_eq!(standing(&catalog, "Pod shop/web"), None);
    assert_eq!(standing(&catalog, "Pod shop/api"), Some(Standing::Fresh));
    let (catalog, _) = after(&good, &bad);
    assert_eq!(standing(&catalog, "Pod shop/web"), Some(Standing::LastGood));
    assert_eq!(standing(&catalog, "Pod shop/api"), Some(Standing::Fresh));
}

#[test]
fn not_yaml_not_an_object_and_not_readable_are_said() {
    let table = [
        ("a: b: c", "error not_yaml"),
        ("a: 1\na: 2", "error not_yaml"),
        ("[1, 2]", "error not_an_object|error not_an_object"),
        ("{kind: Pod}", "error not_an_object"),
        ("# nothing\n---\n", ""),
        ("%YAML 1.2\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n...\n", ""),
    ];
    for (text, expected) in table {
        assert_eq!(said(&read(text).1).join("|"), expected, "{text}");
    }
    let before = read(POD).0;
    let unreadable = File { name: "a.yaml".into(), text: Err("permission denied".into()) };
    let (catalog, complaints) = Catalog::read(&[unreadable], &before);
    assert_eq!(said(&complaints), ["error file_unreadable"]);
    assert_eq!(standing(&catalog, "Pod shop/web"), Some(Standing::LastGood));
}

#[test]
fn what_is_gone_from_a_sound_file_is_gone() {
    let (catalog, _) = after(&format!("{POD}---{}", POD.replace("web", "api")), POD);
    assert_eq!(standing(&catalog, "Pod shop/api"), None);
    let (catalog, _) = Catalog::read(&[file("b.yaml", "# empty\n")], &read(POD).0);
    assert!(catalog.is_empty());
}

const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules: [{from: [{source: {namespaces: [bad]}}]}]
";

fn invalid_of(catalog: &Catalog) -> Option<String> {
    catalog.objects().find_map(|(_, held)| match &held.object {
        Object::AuthorizationPolicy(policy) => policy.invalid.as_deref().map(str::to_owned),
        _ => None,
    })
}

#[test]
fn a_broken_policy_keeps_its_last_good_version_and_else_refuses_what_it_selects() {
    let broken = POLICY.replace("DENY", "DENI");
    let (catalog, complaints) = read(&broken);
    assert!(complaints.iter().any(|c| c.severity == Severity::Error && c.field == "spec.action"), "{complaints:?}");
    assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(Standing::Invalid));
    assert!(invalid_of(&catalog).is_some());
    let Some((_, Held { object: Object::AuthorizationPolicy(stand_in), .. })) = catalog.objects().next() else {
        panic!()
    };
    assert!(
        matches!(&stand_in.selector, culvert_policy::Selector::Labels(labels) if labels["app"] == "web"),
        "no more than it selects"
    );
    let (catalog, _) = after(POLICY, &broken);
    assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(Standing::LastGood));
    assert_eq!(invalid_of(&catalog), None);
    let (mended, complaints) = after(&broken, POLICY);
    assert_eq!((standing(&mended, "AuthorizationPolicy shop/p"), said(&complaints)), (Some(Standing::Fresh), vec![]));
    let (still, _) = Catalog::read(&[file("a.yaml", &broken)], &read(&broken).0);
    assert_eq!(
        standing(&still, "AuthorizationPolicy shop/p"),
        Some(Standing::Invalid),
        "a stand-in is no good version"
    );
}

#[test]
fn a_policy_that_is_not_even_yaml_refuses_its_namespace() {
    let broken = POLICY.replace("action: DENY", "action: [DENY");
    let (catalog, complaints) = read(&broken);
    assert_eq!(said(&complaints), ["error not_yaml"]);
    let policies: Vec<_> = catalog.objects().filter(|(key, _)| key.kind == ObjectKind::AuthorizationPolicy).collect();
    assert_eq!(policies.len(), 1);
    assert_eq!((policies[0].0.namespace.as_str(), policies[0].1.standing), ("shop", Standing::Invalid));
    let block = broken.replace("metadata: {name: p, namespace: shop}", "metadata:\n  name: p\n  namespace: shop");
    assert_eq!(standing(&read(&block).0, "AuthorizationPolicy shop/p"), Some(Standing::Invalid));
}

#[test]
fn what_would_open_something_by_being_broken_is_closed_instead() {
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {culvert.dev/enroll: true}}}";
    let (catalog, complaints) = read(namespace);
    assert_eq!(said(&complaints), ["error bad_type metadata.labels.culvert.dev/enroll"]);
    let Some((_, Held { object: Object::Namespace(closed), .. })) = catalog.objects().next() else { panic!() };
    assert_eq!(closed.enroll.wanted, Some(true));
    let mesh = "{apiVersion: culvert.dev/v1alpha1, kind: Mesh, spec: {defaultMode: STRCT, defaultAction: ALLOW, \
                rootNamespace: root, podCIDRs: [10.0.0.0/8], trustDomainAliases: [old]}}";
    let (catalog, _) = read(mesh);
    let Some((_, Held { object: Object::Mesh(closed), .. })) = catalog.objects().next() else { panic!() };
    assert_eq!(closed.default_action, Some(culvert_workload::ActionDefault::Deny));
    assert_eq!(closed.default_mode, Some(culvert_workload::MtlsDefault::Strict));
    // What could be read decides whom other policies concern, and what is inside of the cluster.
    assert_eq!(closed.root_namespace.as_deref(), Some("root"));
    assert_eq!((closed.pod_ranges.len(), closed.trust_domain_aliases.as_ref().map(Vec::len)), (1, Some(1)));
}

#[test]
fn written_twice_is_said_and_never_opens_anything() {
    let twice = |a: &str, b: &str| Catalog::read(&[file("a.yaml", a), file("b.yaml", b)], &Catalog::default());
    let (catalog, complaints) = twice(POD, POD);
    assert_eq!(said(&complaints), ["warning duplicate_object"]);
    assert_eq!(standing(&catalog, "Pod shop/web"), Some(Standing::Fresh));
    let (catalog, complaints) = twice(POD, &POD.replace("n1", "n2"));
    assert_eq!(said(&complaints), ["error duplicate_object"]);
    assert_eq!(complaints.iter().find(|c| c.reason == "duplicate_object").unwrap().origin.file, "b.yaml");
    assert_eq!(standing(&catalog, "Pod shop/web"), Some(Standing::Fresh));
    let (catalog, _) = twice(POLICY, &POLICY.replace("DENY", "ALLOW"));
    assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(Standing::Invalid));
    let (catalog, _) =
        Catalog::read(&[file("a.yaml", POLICY), file("b.yaml", &POLICY.replace("DENY", "ALLOW"))], &read(POLICY).0);
    assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(Standing::LastGood));
}

#[test]
fn what_was_kept_on_disk_comes_back_as_last_good() {
    let (catalog, _) = read(&format!("{POD}---{POLICY}"));
    let text = serde_json::to_string(&catalog.saved()).unwrap();
    let restored = Catalog::restore(serde_json::from_str(&text).unwrap());
    assert_eq!(standing(&restored, "Pod shop/web"), Some(Standing::LastGood));
    let broken = format!("{}---{}", POD.replace("nodeName: n1", "nodeName: N1"), POLICY.replace("DENY", "DENI"));
    let (catalog, _) = Catalog::read(&[file("a.yaml", &broken)], &restored);
    assert_eq!(standing(&catalog, "Pod shop/web"), Some(Standing::LastGood));
    assert_eq!(standing(&catalog, "AuthorizationPolicy shop/p"), Some(Standing::LastGood));
    let (invalid, _) = read(&POLICY.replace("DENY", "DENI"));
    assert!(invalid.saved().is_empty(), "a stand-in is not kept");
}

#[test]
fn request_authentication_is_taken_and_said_not_to_hold_at_l4() {
    let text = "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: r, namespace: shop}, spec: {}}";
    let (catalog, complaints) = read(text);
    assert_eq!(said(&complaints), ["warning not_enforced_at_l4"]);
    assert_eq!(catalog.objects().count(), 1);
}

mod any_text {
    use proptest::{collection, prelude::*, sample::select};

    use super::*;

    /// Pieces of which manifests are made, whole ones and torn ones.
    const PIECES: &[&str] = &[
        "apiVersion: v1\n",
        "apiVersion: security.istio.io/v1\n",
        "apiVersion: culvert.dev/v1alpha1\n",
        "kind: Pod\n",
        "kind: Service\n",
        "kind: List\n",
        "kind: PodList\n",
        "kind: AuthorizationPolicy\n",
        "kind: Mesh\n",
        "kind: Namespace\n",
        "metadata: {name: a1, namespace: b1}\n",
        "metadata:\n  name: a1\n",
        "metadata: {labels: {culvert.dev/enroll: 'true'}, name: 7}\n",
        "spec: {nodeName: n1, containers: [{ports: [{containerPort: 80, name: http}]}]}\n",
        "spec: {clusterIP: 10.0.0.1, selector: {a: b}, ports: [{port: 80, targetPort: x}]}\n",
        "spec: {action: DENY, rules: [{}]}\n",
        "spec: [{}, null, 3]\n",
        "spec: ~\n",
        "status: {podIPs: [{ip: 'fd00::1'}, null, 7]}\n",
        "items: [{kind: Pod}, {metadata: {name: x1}}, [], 3]\n",
        "items:\n- ",
        "---\n",
        "...\n",
        "&a [*a]\n",
        "\t",
        "{",
        "]",
        "é\u{feff}",
    ];

    proptest! {
        #[test]
        fn neither_makes_it_panic_nor_takes_down_what_is_good(
            pieces in collection::vec(select(PIECES), 0..12),
            noise in "\\PC{0,20}",
        ) {
            let text = format!("{}{noise}", pieces.concat());
            let (before, _) = read(POD);
            let files = [file("a.yaml", POD), file("b.yaml", &text)];
            let (catalog, complaints) = Catalog::read(&files, &before);
            prop_assert!(standing(&catalog, "Pod shop/web").is_some());
            for complaint in &complaints {
                prop_assert!(!complaint.to_string().is_empty());
            }
            let again = Catalog::restore(catalog.saved());
            let kept = |catalog: &Catalog| {
                catalog.objects().filter(|(_, held)| held.standing != Standing::Invalid).count()
            };
            prop_assert_eq!(kept(&again), kept(&catalog), "what is kept on disk is what is good");
        }
    }
}
