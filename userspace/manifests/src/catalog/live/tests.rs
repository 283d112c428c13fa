//! Objects of an API server, one by one, and what they come to together.

use std::{collections::BTreeMap, net::IpAddr};

use culvert_identity::TrustDomain;
use culvert_workload::{Membership, Protocol, Service, ServiceName, TargetPort, Workload};
use serde_json::json;

use super::*;
use crate::{Assembly, MeshOverrides, assemble};

fn put(catalog: &mut Catalog, value: Value) -> Vec<String> {
    let (_, complaints) = catalog.put(&value).expect("an object of ours");
    complaints.iter().map(|complaint| format!("{} {}", complaint.severity, complaint.reason)).collect()
}

fn together(catalog: &Catalog) -> Assembly {
    let overrides = MeshOverrides {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        default_mode: None,
        default_action: None,
        cluster_ranges: vec!["10.244.0.0/16".parse().unwrap(), "10.96.0.0/12".parse().unwrap()],
    };
    assemble(catalog, &overrides, &BTreeMap::new())
}

fn cluster() -> Catalog {
    let mut catalog = Catalog::of_api_server(Live::default());
    put(&mut catalog, namespace("shop", json!({"culvert.dev/enroll": "true"})));
    put(
        &mut catalog,
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.5.0.1"}]}}),
    );
    catalog
}

fn namespace(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

fn pod(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": {"app": name}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn with(mut object: Value, path: &str, value: Value) -> Value {
    *object.pointer_mut(path).expect("a path that is there") = value;
    object
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn slice(service: &str, endpoints: Value, ports: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-x"), "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": ports})
}

fn said(assembly: &Assembly) -> Vec<&'static str> {
    assembly.complaints.iter().map(|complaint| complaint.reason).collect()
}

fn workload<'a>(assembly: &'a Assembly, uid: &str) -> &'a Workload {
    let found = assembly.state.workloads.iter().find(|(known, _)| known.as_str() == uid);
    found.map(|(_, workload)| workload).expect(uid)
}

fn the_service<'a>(assembly: &'a Assembly, name: &str) -> &'a Service {
    &assembly.state.services[&ServiceName::new("shop", name)]
}

#[test]
fn a_broken_object_keeps_its_last_good_version_and_never_touches_others() {
    let mut catalog = cluster();
    let policy = |name: &str, mode: &str| {
        json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": name, "namespace": "shop"}, "spec": {"mtls": {"mode": mode}}})
    };
    assert_eq!(put(&mut catalog, policy("a", "PERMISSIVE")), [""; 0]);
    assert_eq!(put(&mut catalog, policy("b", "PERMISSIVE")), [""; 0]);
    let complaints = put(&mut catalog, policy("a", "OPEN"));
    assert!(complaints.iter().any(|text| text.starts_with("error")), "{complaints:?}");
    let state = together(&catalog).state;
    assert!(state.authentication.values().all(|policy| policy.invalid.is_none()), "the last good versions hold");
    put(&mut catalog, policy("c", "OPEN"));
    let state = together(&catalog).state;
    let invalid: Vec<String> =
        state.authentication.values().filter(|policy| policy.invalid.is_some()).map(|p| p.name.to_string()).collect();
    assert_eq!(invalid, ["shop/c"], "what never was good refuses what it selects");
    put(&mut catalog, policy("c", "STRICT"));
    assert!(together(&catalog).state.authentication.values().all(|policy| policy.invalid.is_none()));
}

#[test]
fn a_mesh_of_another_name_neither_replaces_the_mesh_nor_takes_it_away() {
    let mesh = |name: &str, spec: Value| json!({"apiVersion": "culvert.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": name}, "spec": spec});
    let mut catalog = cluster();
    assert_eq!(put(&mut catalog, mesh("mesh", json!({"defaultMode": "STRICT", "defaultAction": "DENY"}))), [""; 0]);
    let before = catalog.clone();
    let other = mesh("other", json!({"defaultMode": "PERMISSIVE", "defaultAction": "ALLOW"}));
    let (key, complaints) = catalog.put(&other).unwrap();
    assert_eq!(
        complaints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "error: kubernetes: Mesh other: metadata.name: there is one Mesh, and it is called \"mesh\": this one is not \
             read; write its spec into the Mesh \"mesh\" and delete this one [mesh_name]"
        ]
    );
    assert_eq!((&catalog, ObjectKey::of(&other)), (&before, Some(key.clone())));
    assert!(!catalog.remove(&key));
    assert_eq!(catalog, before, "what the Mesh says stays");
    assert!(catalog.remove(&ObjectKey::of(&mesh("mesh", json!({}))).unwrap()));
}

#[test]
fn a_pod_of_a_namespace_that_is_not_known_yet_is_left_out() {
    let mut catalog = Catalog::of_api_server(Live::default());
    put(&mut catalog, pod("web", "10.244.0.2"));
    assert!(together(&catalog).state.workloads.is_empty(), "not taken for one that is not enrolled");
    put(&mut catalog, namespace("shop", json!({"culvert.dev/enroll": "true"})));
    assert_eq!(workload(&together(&catalog), "uid-web").protocol, Protocol::Hbone);
}

#[test]
fn enrolment_follows_labels_and_istios_only_when_told_to() {
    let table = [
        // istio_labels, namespace's labels, pod's labels, enrolled, complaint
        (false, json!({"culvert.dev/enroll": "true"}), json!({}), true, ""),
        (false, json!({"culvert.dev/enroll": "true"}), json!({"culvert.dev/enroll": "false"}), false, ""),
        (false, json!({"istio.io/dataplane-mode": "ambient"}), json!({}), false, ""),
        (true, json!({"istio.io/dataplane-mode": "ambient"}), json!({}), true, ""),
        (true, json!({"istio.io/dataplane-mode": "ambient"}), json!({"istio.io/dataplane-mode": "none"}), false, ""),
        (true, json!({}), json!({"istio.io/dataplane-mode": "ambient"}), true, ""),
        (true, json!({"culvert.dev/enroll": "false", "istio.io/dataplane-mode": "ambient"}), json!({}), false, ""),
        (
            false,
            json!({"culvert.dev/enroll": "true", "istio.io/dataplane-mode": "ambient"}),
            json!({}),
            false,
            "claimed_twice",
        ),
    ];
    for (istio_labels, on_namespace, on_pod, enrolled, complaint) in table {
        let mut catalog = Catalog::of_api_server(Live { istio_labels });
        put(&mut catalog, namespace("shop", on_namespace.clone()));
        put(&mut catalog, with(pod("web", "10.244.0.2"), "/metadata/labels", on_pod.clone()));
        let assembly = together(&catalog);
        let protocol = workload(&assembly, "uid-web").protocol;
        assert_eq!(protocol == Protocol::Hbone, enrolled, "{istio_labels} {on_namespace} {on_pod}");
        assert_eq!(said(&assembly).concat(), complaint, "{istio_labels} {on_namespace} {on_pod}");
    }
}

#[test]
fn of_a_namespace_is_told_what_a_silent_pod_of_it_is() {
    let (ours, istios) = ("culvert.dev/enroll", "istio.io/dataplane-mode");
    for (labels, without, with_istios) in [
        (json!({}), Membership::Outside, Membership::Outside),
        (json!({ours: "true"}), Membership::Enrolled, Membership::Enrolled),
        (json!({ours: "false"}), Membership::Outside, Membership::Outside),
        // Broken, and never was good.
        (json!({ours: "yes"}), Membership::Enrolled, Membership::Enrolled),
        (json!({istios: "ambient"}), Membership::Outside, Membership::Enrolled),
        (json!({ours: "true", istios: "ambient"}), Membership::Outside, Membership::Enrolled),
        (json!({ours: "false", istios: "ambient"}), Membership::Outside, Membership::Outside),
    ] {
        for (istio_labels, expected) in [(false, without), (true, with_istios)] {
            let mut catalog = Catalog::of_api_server(Live { istio_labels });
            put(&mut catalog, namespace("shop", labels.clone()));
            let told = |catalog: &Catalog| together(catalog).state.namespaces.told().get("shop").copied();
            assert_eq!(told(&catalog), Some(expected), "{istio_labels} {labels}");
            put(&mut catalog, with(pod("web", "10.244.0.2"), "/metadata/labels", json!({})));
            let protocol = workload(&together(&catalog), "uid-web").protocol;
            assert_eq!(protocol == Protocol::Hbone, expected == Membership::Enrolled, "{istio_labels} {labels}");
            assert_eq!(told(&catalog), Some(expected), "a pod that says nothing changes nothing");
        }
    }
}

#[test]
fn a_namespace_in_which_somebody_is_enrolled_is_not_outside() {
    let enroll = |value: &str| json!({"culvert.dev/enroll": value});
    let mut ended = with(pod("web", "10.244.0.2"), "/metadata/labels", enroll("true"));
    ended["status"]["phase"] = json!("Succeeded");
    let mut on_host = with(pod("web", "10.5.0.1"), "/metadata/labels", enroll("true"));
    on_host["spec"]["hostNetwork"] = json!(true);
    for (on_namespace, pod, expected) in [
        ("false", with(pod("web", "10.244.0.2"), "/metadata/labels", enroll("true")), Membership::Mixed),
        ("false", with(pod("web", "10.244.0.2"), "/metadata/labels", enroll("false")), Membership::Outside),
        ("false", ended, Membership::Outside),
        ("false", on_host, Membership::Outside),
        ("true", with(pod("web", "10.244.0.2"), "/metadata/labels", enroll("true")), Membership::Enrolled),
        ("true", with(pod("web", "10.244.0.2"), "/metadata/labels", enroll("false")), Membership::Enrolled),
    ] {
        let mut catalog = Catalog::of_api_server(Live::default());
        put(&mut catalog, namespace("shop", enroll(on_namespace)));
        put(&mut catalog, namespace("other", json!({})));
        put(&mut catalog, pod.clone());
        let told = together(&catalog).state.namespaces.told().clone();
        let all = [("shop".into(), expected), ("other".into(), Membership::Outside)];
        assert_eq!(*told, all.into(), "{on_namespace} {pod}");
    }
}

#[test]
fn host_network_pods_are_reported_and_not_enrolled() {
    let mut catalog = cluster();
    let mut on_host = pod("agent", "10.5.0.1");
    on_host["spec"]["hostNetwork"] = json!(true);
    put(&mut catalog, on_host);
    let assembly = together(&catalog);
    assert_eq!(workload(&assembly, "uid-agent").protocol, Protocol::Plain);
    assert_eq!(said(&assembly), ["host_network"]);
}

#[test]
fn a_pending_pod_counts_as_soon_as_it_has_an_address_and_a_terminating_one_is_not_picked() {
    let mut catalog = cluster();
    let mut pending = pod("init", "10.244.0.3");
    pending["status"]["phase"] = json!("Pending");
    pending["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    put(&mut catalog, pending);
    let mut going = pod("going", "10.244.0.4");
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    put(&mut catalog, going);
    let assembly = together(&catalog);
    let init = workload(&assembly, "uid-init");
    assert_eq!((init.protocol, init.ready, init.addresses.len()), (Protocol::Hbone, false, 1));
    assert!(!workload(&assembly, "uid-going").ready);
}

/// Each shape of Service: what it comes to, or the word with which it is refused.
#[test]
fn services_of_every_shape() {
    let ip = |text: &str| -> Vec<IpAddr> { vec![text.parse().unwrap()] };
    let port = |json: Value| json!({"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "ports": [json]});
    let table = [
        (
            "named target",
            port(json!({"port": 80, "targetPort": "web"})),
            vec![(80, TargetPort::Name("web".into()))],
            "",
        ),
        ("differing target", port(json!({"port": 80, "targetPort": 8080})), vec![(80, TargetPort::Number(8080))], ""),
        ("same target", port(json!({"port": 8080})), vec![(8080, TargetPort::Number(8080))], ""),
        (
            "several ports",
            json!({"clusterIP": "10.96.0.9", "selector": {"app": "web"},
                "ports": [{"name": "a", "port": 80, "targetPort": 8080}, {"name": "b", "port": 81, "targetPort": 8081},
                    {"name": "dns", "port": 80, "protocol": "UDP"}]}),
            vec![(80, TargetPort::Number(8080)), (81, TargetPort::Number(8081))],
            "",
        ),
        (
            "client IP affinity",
            json!({"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "sessionAffinity": "ClientIP",
                "ports": [{"port": 80}]}),
            vec![(80, TargetPort::Number(80))],
            "",
        ),
        (
            "internalTrafficPolicy Local",
            json!({"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "internalTrafficPolicy": "Local",
                "ports": [{"port": 80}]}),
            vec![(80, TargetPort::Number(80))],
            "",
        ),
    ];
    for (what, spec, ports, complaint) in table {
        let mut catalog = cluster();
        put(&mut catalog, pod("web", "10.244.0.2"));
        let complaints = put(&mut catalog, service("s", spec)).join(" ");
        assert!(complaints.ends_with(complaint), "{what}: {complaints}");
        let assembly = together(&catalog);
        let service = the_service(&assembly, "s");
        let got: Vec<_> = service.ports.iter().map(|port| (port.port, port.target.clone())).collect();
        assert_eq!((got, &service.vips), (ports, &ip("10.96.0.9")), "{what}");
        let kept = (service.client_ip_affinity, service.local);
        assert_eq!(kept, (what == "client IP affinity", what == "internalTrafficPolicy Local"), "{what}");
        assert_eq!(workload(&assembly, "uid-web").services, [ServiceName::new("shop", "s")], "{what}");
    }
}

#[test]
fn services_without_one_address_of_their_own() {
    let table = [
        (
            "headless",
            json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"app": "web"}, "ports": [{"port": 80}]}),
            vec![],
            1,
            false,
        ),
        (
            "dual stack",
            json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"], "selector": {"app": "web"}, "ports": [{"port": 80}]}),
            vec!["10.96.0.9", "fd00::9"],
            1,
            false,
        ),
        (
            "not ready too",
            json!({"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "publishNotReadyAddresses": true, "ports": [{"port": 80}]}),
            vec!["10.96.0.9"],
            1,
            true,
        ),
        ("external name", json!({"type": "ExternalName", "externalName": "example.com"}), vec![], 0, false),
    ];
    for (what, spec, vips, members, not_ready) in table {
        let mut catalog = cluster();
        put(&mut catalog, pod("web", "10.244.0.2"));
        put(&mut catalog, service("s", spec));
        let assembly = together(&catalog);
        let service = the_service(&assembly, "s");
        let vips: Vec<IpAddr> = vips.iter().map(|vip| vip.parse().unwrap()).collect();
        assert_eq!((&service.vips, service.publish_not_ready), (&vips, not_ready), "{what}");
        assert_eq!(workload(&assembly, "uid-web").services.len(), members, "{what}");
    }
}

#[test]
fn slices_serve_services_that_select_nothing() {
    let vip = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]});
    let ports = json!([{"name": "https", "port": 6444, "protocol": "TCP"}]);
    let by_name = json!([{"addresses": ["10.244.0.2"], "targetRef": {"kind": "Pod", "name": "web"}}]);
    let by_address = json!([{"addresses": ["10.244.0.2"], "conditions": {"ready": true}}]);
    let not_ready = json!([{"addresses": ["10.244.0.2"], "conditions": {"ready": false}}]);
    let terminating = json!([{"addresses": ["10.244.0.2"], "conditions": {"ready": true, "terminating": true}}]);
    let table = [
        ("by name", by_name, 1),
        ("by address", by_address, 1),
        ("not ready", not_ready, 0),
        ("terminating", terminating, 0),
    ];
    for (what, endpoints, members) in table {
        let mut catalog = cluster();
        put(&mut catalog, pod("web", "10.244.0.2"));
        put(&mut catalog, service("s", vip.clone()));
        put(&mut catalog, slice("s", endpoints, ports.clone()));
        let assembly = together(&catalog);
        let web = workload(&assembly, "uid-web");
        assert_eq!((web.services.len(), web.protocol), (members, Protocol::Hbone), "{what}");
        let target = if members == 0 { 6443 } else { 6444 };
        assert_eq!(the_service(&assembly, "s").ports[0].target, TargetPort::Number(target), "{what}");
    }
}

#[test]
fn an_endpoint_that_is_no_pod_is_reached_outside_of_the_mesh_and_never_inside_of_its_ranges() {
    let vip = json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]});
    let ports = json!([{"name": "https", "port": 6443}]);
    for (address, taken) in [("10.5.0.1", true), ("192.0.2.7", true), ("10.244.0.77", false)] {
        let mut catalog = cluster();
        put(&mut catalog, service("kubernetes", vip.clone()));
        put(&mut catalog, slice("kubernetes", json!([{"addresses": [address]}]), ports.clone()));
        let assembly = together(&catalog);
        let found = assembly.state.workloads.values().next();
        assert_eq!(found.is_some(), taken, "{address}");
        if let Some(found) = found {
            assert_eq!((found.protocol, found.host_network, found.ready), (Protocol::Plain, true, true));
            assert_eq!(found.services, [ServiceName::new("shop", "kubernetes")]);
        }
        assert_eq!(said(&assembly).contains(&"foreign_endpoint"), !taken, "{address}");
    }
}

#[test]
fn endpoints_of_servers_without_slices_say_the_same() {
    let mut catalog = cluster();
    put(&mut catalog, pod("web", "10.244.0.2"));
    put(&mut catalog, service("s", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 443}]})));
    put(
        &mut catalog,
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s", "namespace": "shop"},
        "subsets": [{"addresses": [{"ip": "10.244.0.2"}], "notReadyAddresses": [{"ip": "10.244.0.3"}], "ports": [{"port": 6443}]}]}),
    );
    let assembly = together(&catalog);
    assert_eq!(workload(&assembly, "uid-web").services.len(), 1);
    assert_eq!(the_service(&assembly, "s").ports[0].target, TargetPort::Number(6443));
}

#[test]
fn a_port_with_two_numbers_is_refused() {
    let mut catalog = cluster();
    put(&mut catalog, service("s", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 443}]})));
    for (name, port) in [("a", 1), ("b", 2)] {
        let mut slice = slice("s", json!([{"addresses": ["192.0.2.1"]}]), json!([{"port": port}]));
        slice["metadata"]["name"] = json!(name);
        put(&mut catalog, slice);
    }
    let assembly = together(&catalog);
    assert!(the_service(&assembly, "s").ports.is_empty());
    assert!(said(&assembly).contains(&"mixed_target_ports"));
}

#[test]
fn fields_of_newer_servers_raise_no_complaint_but_those_of_policies_do() {
    let mut catalog = cluster();
    let mut newer = pod("web", "10.244.0.2");
    newer["spec"]["fieldOfTomorrow"] = json!(1);
    newer["status"]["fieldOfTomorrow"] = json!(1);
    assert_eq!(put(&mut catalog, newer), [""; 0]);
    let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "a", "namespace": "shop"}, "spec": {"ruels": []}, "status": {"conditions": []}});
    let complaints = put(&mut catalog, policy);
    assert!(complaints.contains(&"error unknown_field".to_owned()), "{complaints:?}");
}
