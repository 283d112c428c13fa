//! Objects as people write them: what is refused, what is warned of, and where.

use serde_json::{Value, json};

use super::{accepted, authorization, codes, object, rejected};
use crate::{
    MtlsMode, Selector,
    istio::{self, Policy, check_schema},
};

fn peer(spec: Value) -> Value {
    object("PeerAuthentication", "shop", "it", spec)
}

/// Field and code of everything that is wrong with a spec.
fn complaints_of(object: &Value) -> Vec<(String, &'static str)> {
    rejected(object).complaints.into_iter().map(|c| (c.field, c.code)).collect()
}

fn assert_refused(spec: Value, field: &str, code: &str) {
    let found = complaints_of(&authorization("it", spec.clone()));
    assert!(found.iter().any(|(f, c)| f == field && *c == code), "{spec}: wanted {field} {code}, got {found:?}");
}

fn assert_warned(spec: Value, field: &str, code: &str) {
    let warnings = accepted(&authorization("it", spec.clone())).warnings;
    let found = codes(&warnings);
    assert!(found.contains(&(field, code)), "{spec}: wanted {field} {code}, got {found:?}");
}

#[test]
fn other_kinds_groups_and_versions_are_not_ours() {
    for (version, kind) in [
        ("security.istio.io/v1", "RequestAuthentication"),
        ("security.istio.io/v1alpha1", "AuthorizationPolicy"),
        ("networking.istio.io/v1", "PeerAuthentication"),
        ("v1", "AuthorizationPolicy"),
    ] {
        assert!(istio::read(&json!({ "apiVersion": version, "kind": kind })).is_none(), "{version} {kind}");
    }
    assert!(istio::read(&json!(null)).is_none() && istio::read(&json!([])).is_none());
}

#[test]
fn an_object_without_spec_lets_nothing_in() {
    let mut object = authorization("it", json!({}));
    object.as_object_mut().expect("an object").remove("spec");
    let Policy::Authorization(policy) = accepted(&object).policy else { panic!("an AuthorizationPolicy") };
    assert!(policy.rules.is_empty() && policy.selector == Selector::Namespace);
}

#[test]
fn the_form_is_strict_and_the_remedy_names_what_was_probably_meant() {
    let source = |source: Value| json!({ "rules": [{ "from": [{ "source": source }] }] });
    for (spec, field, code) in [
        (json!({ "rule": [] }), "spec.rule", "unknown_field"),
        (json!({ "rules": [{ "form": [] }] }), "spec.rules[0].form", "unknown_field"),
        (source(json!({ "principal": ["*"] })), "spec.rules[0].from[0].source.principal", "unknown_field"),
        (source(json!({ "principals": "*" })), "spec.rules[0].from[0].source.principals", "wrong_type"),
        (source(json!({ "principals": [1] })), "spec.rules[0].from[0].source.principals[0]", "wrong_type"),
        (json!({ "rules": null }), "spec.rules", "wrong_type"),
        (json!(null), "spec", "wrong_type"),
        (json!({ "action": "allow" }), "spec.action", "unsupported_value"),
        (json!({ "action": 1 }), "spec.action", "wrong_type"),
        (json!({ "rules": [{ "when": [{ "values": ["x"] }] }] }), "spec.rules[0].when[0].key", "required"),
        (json!({ "targetRefs": [{ "kind": "Service" }] }), "spec.targetRefs[0].name", "required"),
        (json!({ "targetRefs": [{ "kind": "Ser_vice", "name": "a" }] }), "spec.targetRefs[0].kind", "bad_characters"),
        (
            json!({ "targetRef": { "group": "A", "kind": "Service", "name": "a" } }),
            "spec.targetRef.group",
            "bad_characters",
        ),
        (json!({ "selector": { "matchLabels": { "a": "x".repeat(64) } } }), "spec.selector.matchLabels[a]", "too_long"),
        (json!({ "rules": vec![json!({}); 513] }), "spec.rules", "too_many"),
    ] {
        assert_refused(spec, field, code);
    }
    let misspelt = check_schema(&authorization("it", json!({ "rules": [{ "form": [] }] })));
    assert_eq!(misspelt[0].remedy, "did you mean \"from\"?");
    let misspelt = check_schema(&peer(json!({ "mtls": { "mode": "strict" } })));
    assert_eq!(misspelt[0].remedy, "use one of UNSET, DISABLE, PERMISSIVE, STRICT");
}

#[test]
fn whom_a_policy_concerns_is_said_in_one_way() {
    let labels = |labels: Value| json!({ "matchLabels": labels });
    let service = json!({ "kind": "Service", "name": "a" });
    for (spec, field, code) in [
        (json!({ "selector": labels(json!({ "a": "b" })), "targetRefs": [service] }), "spec", "one_target_only"),
        (json!({ "selector": labels(json!({ "": "b" })) }), "spec.selector.matchLabels[]", "empty_label_key"),
        (json!({ "selector": labels(json!({ "a": "b*" })) }), "spec.selector.matchLabels[a]", "wildcard_in_selector"),
        (json!({ "targetRefs": [{ "kind": "Pod", "name": "a" }] }), "spec.targetRefs[0].kind", "target_kind"),
        (
            json!({ "targetRefs": [{ "kind": "Service", "name": "a", "namespace": "b" }] }),
            "spec.targetRefs[0].namespace",
            "target_namespace",
        ),
    ] {
        assert_refused(spec, field, code);
    }
    assert_warned(json!({ "selector": {} }), "spec.selector", "selector_without_labels");
}

#[test]
fn actions_need_what_gives_them_meaning() {
    for (spec, field, code) in [
        (json!({ "action": "DENY" }), "spec.rules", "action_without_rules"),
        (json!({ "action": "DENY", "rules": [] }), "spec.rules", "action_without_rules"),
        (json!({ "action": "CUSTOM" }), "spec.rules", "action_without_rules"),
        (json!({ "action": "CUSTOM", "rules": [{}] }), "spec.provider.name", "provider_missing"),
        (json!({ "provider": { "name": "a" } }), "spec.provider", "provider_without_custom"),
        (
            json!({ "action": "CUSTOM", "provider": { "name": "a" },
                "rules": [{ "from": [{ "source": { "namespaces": ["a"] } }] }] }),
            "spec.rules[0].from[0].source.namespaces",
            "not_with_custom",
        ),
        (
            json!({ "action": "CUSTOM", "provider": { "name": "a" },
                "rules": [{ "when": [{ "key": "request.auth.principal", "values": ["a"] }] }] }),
            "spec.rules[0].when[0].key",
            "not_with_custom",
        ),
    ] {
        assert_refused(spec, field, code);
    }
}

#[test]
fn rules_say_something_and_their_values_can_be_read() {
    let source = |source: Value| json!({ "rules": [{}, { "from": [{ "source": source }] }] });
    let at = "spec.rules[1].from[0].source";
    for (spec, field, code) in [
        (json!({ "rules": [null] }), "spec.rules[0]".to_owned(), "null_rule"),
        (json!({ "rules": [{ "from": [] }] }), "spec.rules[0].from".to_owned(), "empty_list"),
        (json!({ "rules": [{ "to": [{}] }] }), "spec.rules[0].to[0].operation".to_owned(), "null_entry"),
        (source(json!({})), at.to_owned(), "empty_entry"),
        (source(json!({ "principals": [] })), at.to_owned(), "empty_entry"),
        (source(json!({ "notPrincipals": ["a", ""] })), format!("{at}.notPrincipals[1]"), "empty_value"),
        (source(json!({ "ipBlocks": ["1.2.3.4/33"] })), format!("{at}.ipBlocks[0]"), "bad_value"),
        (source(json!({ "serviceAccounts": ["a/b/c"] })), format!("{at}.serviceAccounts[0]"), "bad_value"),
        (source(json!({ "serviceAccounts": vec!["a"; 17] })), format!("{at}.serviceAccounts"), "too_many"),
        (source(json!({ "serviceAccounts": ["a"], "notNamespaces": ["b"] })), at.to_owned(), "accounts_not_alone"),
        (source(json!({ "trustDomains": ["a*b*"] })), format!("{at}.trustDomains[0]"), "bad_value"),
    ] {
        assert_refused(spec, &field, code);
    }
    let operation = |operation: Value| json!({ "rules": [{ "to": [{ "operation": operation }] }] });
    assert_refused(operation(json!({ "ports": ["http"] })), "spec.rules[0].to[0].operation.ports[0]", "bad_value");
    assert_refused(operation(json!({ "paths": ["/{x}"] })), "spec.rules[0].to[0].operation.paths[0]", "bad_value");
    let when = |condition: Value| json!({ "rules": [{ "when": [condition] }] });
    assert_refused(when(json!({ "key": "source.ip" })), "spec.rules[0].when[0]", "values_missing");
    assert_refused(when(json!({ "key": "", "values": ["a"] })), "spec.rules[0].when[0].key", "key_missing");
    assert_refused(when(json!({ "key": "nobody", "values": ["a"] })), "spec.rules[0].when[0].key", "unknown_attribute");
    assert_refused(
        when(json!({ "key": "source.ip", "notValues": ["a"] })),
        "spec.rules[0].when[0].notValues[0]",
        "bad_value",
    );
}

#[test]
fn dry_run_is_a_go_boolean_on_allow_and_deny() {
    let marked = |spec: Value, value: Value| {
        let mut object = authorization("it", spec);
        object["metadata"]["annotations"] = json!({ "istio.io/dry-run": value });
        object
    };
    let deny = json!({ "action": "DENY", "rules": [{}] });
    for (value, dry) in [("true", true), ("T", true), ("1", true), ("false", false), ("0", false), ("F", false)] {
        let Policy::Authorization(policy) = accepted(&marked(deny.clone(), json!(value))).policy else { panic!() };
        assert_eq!(policy.dry_run, dry, "{value}");
    }
    let field = "metadata.annotations[istio.io/dry-run]";
    for value in [json!("yes"), json!(""), json!("tRUE"), json!(true)] {
        assert_eq!(complaints_of(&marked(deny.clone(), value)), [(field.to_owned(), "dry_run_value")]);
    }
    let audit = json!({ "action": "AUDIT", "rules": [{}] });
    assert_eq!(complaints_of(&marked(audit, json!("true"))), [(field.to_owned(), "dry_run_unsupported")]);
    let mut object = peer(json!({}));
    object["metadata"]["annotations"] = json!({ "istio.io/dry-run": "false" });
    assert_eq!(complaints_of(&object), [(field.to_owned(), "dry_run_unsupported")]);
}

#[test]
fn peer_authentication_is_read_and_its_ports_are_checked() {
    let labels = json!({ "matchLabels": { "app": "web" } });
    let good = peer(
        json!({ "selector": labels, "mtls": { "mode": "STRICT" }, "portLevelMtls": { "80": { "mode": "DISABLE" } } }),
    );
    let Policy::Authentication(read) = accepted(&good).policy else { panic!("a PeerAuthentication") };
    assert_eq!((read.mode, read.port_modes.get(&80)), (MtlsMode::Strict, Some(&MtlsMode::Disable)));
    for (spec, field, code) in [
        (json!({ "portLevelMtls": { "80": {} } }), "spec.portLevelMtls", "ports_need_selector"),
        (json!({ "selector": labels, "portLevelMtls": {} }), "spec.portLevelMtls", "too_few"),
        (json!({ "selector": labels, "portLevelMtls": { "0": {} } }), "spec.portLevelMtls[0]", "bad_port"),
        (json!({ "selector": labels, "portLevelMtls": { "x": {} } }), "spec.portLevelMtls[x]", "bad_port"),
        (
            json!({ "selector": labels, "portLevelMtls": { "80": {}, "080": {} } }),
            "spec.portLevelMtls[80]",
            "duplicate_port",
        ),
        (json!({ "mtls": { "mode": "BLAH" } }), "spec.mtls.mode", "unsupported_value"),
        (json!({ "targetRefs": [] }), "spec.targetRefs", "unknown_field"),
    ] {
        let found = complaints_of(&peer(spec.clone()));
        assert!(found.iter().any(|(f, c)| f == field && *c == code), "{spec}: {found:?}");
    }
}

#[test]
fn admission_alone_checks_ports_as_the_webhook_does() {
    let spec = json!({ "selector": { "matchLabels": { "app": "web" } }, "portLevelMtls": { "70000": {}, "81": {} } });
    let review = istio::admit(&peer(spec)).expect("one of our kinds");
    assert_eq!(codes(&review.complaints), [("spec.portLevelMtls[70000]", "bad_port")]);
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let source = |source: Value| json!({ "rules": [{ "from": [{ "source": source }] }] });
    let operation = |operation: Value| json!({ "rules": [{ "to": [{ "operation": operation }] }] });
    let s = |field: &str| format!("spec.rules[0].from[0].source.{field}");
    let o = |field: &str| format!("spec.rules[0].to[0].operation.{field}");
    for (spec, field, code) in [
        (source(json!({ "principals": ["spiffe://a/ns/b/sa/c"] })), s("principals[0]"), "principal_scheme"),
        (source(json!({ "principals": ["sa"] })), s("principals[0]"), "principal_form"),
        (source(json!({ "namespaces": ["a*b"] })), s("namespaces[0]"), "inner_wildcard"),
        (source(json!({ "namespaces": ["*a*"] })), s("namespaces[0]"), "inner_wildcard"),
        (source(json!({ "namespaces": ["a", "a"] })), s("namespaces[1]"), "duplicate_value"),
        (source(json!({ "namespaces": ["a"], "notNamespaces": ["a"] })), s("namespaces"), "contradiction"),
        (source(json!({ "namespaces": ["a"], "principals": [] })), s("principals"), "empty_list"),
        (source(json!({ "ipBlocks": ["10.0.0.1/8"] })), s("ipBlocks[0]"), "host_bits"),
        (source(json!({ "ipBlocks": ["10.0.0.1"] })), "spec.rules[0]".to_owned(), "allow_without_identity"),
        (operation(json!({ "methods": ["get"] })), o("methods[0]"), "method_case"),
        (operation(json!({ "paths": ["a"] })), o("paths[0]"), "path_without_slash"),
        (operation(json!({ "hosts": ["http://a.test"] })), o("hosts[0]"), "host_scheme"),
        (operation(json!({ "hosts": ["a.test"] })), o("hosts[0]"), "host_port"),
        (operation(json!({ "methods": ["GET"] })), o("methods"), "l7_field_at_l4"),
        (json!({ "rules": [] }), "spec.rules".to_owned(), "no_rules"),
        (
            json!({ "rules": [{ "when": [{ "key": "experimental.envoy.filters.a[b]", "values": ["c"] }] }] }),
            "spec.rules[0].when[0].key".to_owned(),
            "envoy_filter_key",
        ),
        (
            json!({ "rules": [{ "when": [{ "key": "request.auth.claims[exp]", "values": ["1"] }] }] }),
            "spec.rules[0].when[0]".to_owned(),
            "numeric_claim",
        ),
        (
            json!({ "action": "DENY", "rules": [{ "to": [{ "operation": { "methods": ["GET"] } }] }] }),
            "spec.rules[0]".to_owned(),
            "deny_without_port",
        ),
    ] {
        assert_warned(spec, &field, code);
    }
}

#[test]
fn an_ordinary_policy_is_read_without_a_word() {
    let object = authorization(
        "it",
        json!({
            "selector": { "matchLabels": { "app": "web" } },
            "rules": [{
                "from": [{ "source": { "principals": ["mesh.test/ns/shop/sa/api", "*"], "trustDomains": ["mesh.test"] } }],
                "to": [{ "operation": { "ports": ["80"] } }],
                "when": [{ "key": "source.ip", "notValues": ["10.0.0.0/8"] }],
            }],
        }),
    );
    assert_eq!(accepted(&object).warnings, []);
}

#[test]
fn a_stand_in_selects_what_the_object_selects_and_all_of_the_namespace_where_that_cannot_be_told() {
    let broken = |mut spec: Value| {
        spec["rules"] = json!([{ "to": [] }]);
        match rejected(&authorization("it", spec)).stand_in {
            Policy::Authorization(policy) => (policy.selector, policy.rules.len(), policy.invalid.is_some()),
            Policy::Authentication(_) => panic!("an AuthorizationPolicy"),
        }
    };
    let labels = Selector::Labels([("app".to_owned(), "web".to_owned())].into());
    assert_eq!(broken(json!({ "selector": { "matchLabels": { "app": "web" } } })), (labels, 0, true));
    assert_eq!(broken(json!({})), (Selector::Namespace, 0, true));
    assert_eq!(broken(json!({ "selector": { "matchLabel": { "app": "web" } } })), (Selector::Namespace, 0, true));
    assert_eq!(broken(json!({ "selector": { "matchLabels": { "app": 1 } } })), (Selector::Namespace, 0, true));
    let labels = |value: &str| json!({ "selector": { "matchLabels": { "app": value } } });
    assert_eq!(broken(labels("web*")), (Selector::Namespace, 0, true), "a label that no workload can have");
    let services = Selector::Services(["a".to_owned()].into());
    assert_eq!(broken(json!({ "targetRefs": [{ "kind": "Service", "name": "a" }] })), (services, 0, true));
    let gateway = json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "a" });
    assert_eq!(broken(json!({ "targetRefs": [gateway] })), (Selector::Waypoint, 0, true));
    assert_eq!(broken(json!({ "targetRefs": [{ "kind": "Pod", "name": "a" }] })), (Selector::Namespace, 0, true));
    let strict = peer(json!({ "targetRefs": [{ "kind": "Service", "name": "a" }], "mtls": { "mode": "STRICT" } }));
    let Policy::Authentication(closed) = rejected(&strict).stand_in else { panic!("a PeerAuthentication") };
    assert_eq!((closed.selector, closed.mode), (Selector::Namespace, MtlsMode::Strict));
}

#[test]
fn a_hundred_thousand_mistakes_take_no_time_and_are_counted() {
    let blocks: Vec<String> = (0..100_000).map(|n| format!("10.{}.{}.1/8", n / 256 % 256, n % 256)).collect();
    let object = authorization("it", json!({ "rules": [{ "from": [{ "source": { "ipBlocks": blocks } }] }] }));
    let warnings = accepted(&object).warnings;
    assert_eq!(warnings.len(), 101);
    assert_eq!(warnings.last().map(|last| last.code), Some("and_more"));
}

/// One complaint beyond those that are told may be the one that says whom the policy concerns.
#[test]
fn a_stand_in_tells_the_first_complaints_and_heeds_all() {
    let blocks: Vec<u8> = vec![1; 1000];
    let spec = json!({
        "rules": [{ "from": [{ "source": { "ipBlocks": blocks } }] }],
        "selector": { "matchLabels": { "app": "web*" } },
    });
    let rejected = rejected(&authorization("it", spec));
    let Policy::Authorization(stand_in) = rejected.stand_in else { panic!("an AuthorizationPolicy") };
    let text = stand_in.invalid.expect("why");
    let told: Vec<&str> = text.lines().collect();
    assert_eq!((told.len(), rejected.complaints.len()), (101, 101));
    assert!(told.last().is_some_and(|last| last.contains("(and_more)")), "{told:?}");
    assert_eq!(stand_in.selector, Selector::Namespace);
}

/// As in Istio's webhook; in a cluster the schema refuses it before.
#[test]
fn a_null_target_is_refused_by_the_schema_alone() {
    let object = authorization("p", json!({ "targetRefs": [null, { "kind": "Service", "name": "a" }] }));
    assert_eq!(istio::admit(&object).expect("one of our kinds").complaints, []);
    assert_eq!(codes(&rejected(&object).complaints), [("spec.targetRefs[0]", "wrong_type")]);
}
