//! Three values, the order of actions, dry run, what cannot be understood.

use serde_json::{Value, json};

use super::{World, authorization, from, rejected};
use crate::{Basis, Peer, Reason, RuleSet, Verdict, WouldResult, decide, explain, istio::Policy};

fn rule(source: Value, operation: Value) -> Value {
    json!({ "from": [{ "source": source }], "to": [{ "operation": operation }] })
}

#[test]
fn an_unknown_attribute_neither_allows_nor_lets_a_denial_pass() {
    let l7 = [
        json!({ "to": [{ "operation": { "methods": ["GET"] } }] }),
        json!({ "to": [{ "operation": { "notPaths": ["/admin"] } }] }),
        json!({ "to": [{ "operation": { "hosts": ["*"] } }] }),
        json!({ "from": [{ "source": { "requestPrincipals": ["*"] } }] }),
        json!({ "from": [{ "source": { "notRequestPrincipals": ["*"] } }] }),
        json!({ "from": [{ "source": { "remoteIpBlocks": ["10.0.0.1"] } }] }),
        json!({ "when": [{ "key": "request.headers[x]", "values": ["*"] }] }),
        json!({ "when": [{ "key": "request.auth.claims[scope]", "notValues": ["a"] }] }),
        json!({ "when": [{ "key": "connection.sni", "values": ["a.test"] }] }),
        json!({ "when": [{ "key": "experimental.envoy.filters.a.b[c]", "values": ["d"] }] }),
    ];
    for rule in l7 {
        let allow = World::new().with("it", json!({ "rules": [rule.clone()] }));
        assert_eq!(allow.answer(&from("shop/web")), "no_allow_matched", "{rule}");
        let deny = World::new().with("it", json!({ "action": "DENY", "rules": [rule.clone()] }));
        assert_eq!(deny.answer(&from("shop/web")), "policy_denied", "{rule}");
    }
}

#[test]
fn a_rule_on_identity_request_and_token_lets_nothing_in_at_l4_and_says_so() {
    let spec = json!({
        "selector": { "matchLabels": { "app": "web" } },
        "action": "ALLOW",
        "rules": [{
            "from": [{ "source": { "principals": ["mesh.test/ns/shop/sa/api"] } }],
            "to": [{ "operation": { "methods": ["POST"], "paths": ["/v1/charge"] } }],
            "when": [{ "key": "request.auth.claims[scope]", "values": ["charge"] }],
        }],
    });
    let world = World::new().with("three-controls", spec.clone());
    assert_eq!(world.answer(&from("shop/api")), "no_allow_matched");
    assert_eq!(world.rules().posture().inexact[0].verdict, crate::RuleVerdict::Dead);
    let warnings = super::accepted(&authorization("three-controls", spec)).warnings;
    let fields: Vec<_> = warnings.iter().filter(|w| w.code == "l7_field_at_l4").map(|w| w.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.rules[0].to[0].operation.methods",
            "spec.rules[0].to[0].operation.paths",
            "spec.rules[0].when[0].values",
        ]
    );
}

#[test]
fn a_denial_with_l7_parts_stays_within_what_its_l4_parts_say() {
    let deny = json!({ "action": "DENY", "rules": [rule(json!({ "namespaces": ["pay"] }), json!({ "ports": ["80"], "methods": ["GET"] }))] });
    let world = World::new().with("it", deny);
    assert_eq!(world.answer(&from("pay/api").port(80)), "policy_denied");
    assert_eq!(world.answer(&from("pay/api").port(81)), "allow");
    assert_eq!(world.answer(&from("shop/api").port(80)), "allow");
    let Verdict::Deny(denial) = world.decide(&from("pay/api").port(80)) else { panic!("denied") };
    assert!(denial.uncertain, "it depends on the method");
    assert_eq!(denial.rule, Some(0));
}

#[test]
fn a_branch_that_is_true_allows_although_another_is_unknown() {
    let narrowed =
        json!({ "rules": [{ "to": [{ "operation": { "methods": ["GET"] } }, { "operation": { "ports": ["80"] } }] }] });
    let world = World::new().with("it", narrowed);
    assert_eq!(world.answer(&from("shop/web").port(80)), "allow");
    assert_eq!(world.answer(&from("shop/web").port(81)), "no_allow_matched");
    let posture = world.rules().posture();
    let inexact: Vec<_> = posture.inexact.iter().map(|i| (i.verdict, i.fields[0].as_str())).collect();
    assert_eq!(inexact, [(crate::RuleVerdict::Narrowed, "rules[0].to[0].operation.methods")]);
}

#[test]
fn deny_comes_before_allow_and_custom_before_both() {
    let everything = json!({ "rules": [{}] });
    let pay = json!({ "action": "DENY", "rules": [{ "from": [{ "source": { "namespaces": ["pay"] } }] }] });
    let custom = json!({ "action": "CUSTOM", "provider": { "name": "p" }, "rules": [{ "to": [{ "operation": { "ports": ["81"] } }] }] });
    let world = World::new().with("a", everything).with("d", pay).with("c", custom);
    assert_eq!(world.answer(&from("shop/web")), "allow");
    assert_eq!(world.answer(&from("pay/web")), "policy_denied");
    assert_eq!(world.answer(&from("pay/web").port(81)), "custom_unavailable");
    assert_eq!(world.answer(&from("shop/web").port(81)), "custom_unavailable");
}

#[test]
fn without_an_allow_policy_the_default_holds_and_with_one_the_rest_is_refused() {
    assert_eq!(World::new().answer(&from("")), "allow");
    assert_eq!(World::closed().answer(&from("shop/web")), "default_deny");
    assert_eq!(World::closed().answer(&from("")), "peer_unauthenticated");
    assert_eq!(World::new().with("nothing", json!({})).answer(&from("shop/web")), "no_allow_matched");
    assert_eq!(World::closed().with("all", json!({ "rules": [{}] })).answer(&from("shop/web")), "allow");
    let deny_only = json!({ "action": "DENY", "rules": [{ "to": [{ "operation": { "ports": ["1"] } }] }] });
    assert_eq!(World::new().with("d", deny_only.clone()).answer(&from("shop/web")), "allow");
    assert_eq!(World::closed().with("d", deny_only).answer(&from("shop/web")), "default_deny");
}

#[test]
fn a_dry_run_policy_decides_nothing_and_says_what_it_would() {
    let dry = |name: &str, spec: Value| {
        let mut object = authorization(name, spec);
        object["metadata"]["annotations"] = json!({ "istio.io/dry-run": "T" });
        object
    };
    let only_api = json!({ "rules": [{ "from": [{ "source": { "serviceAccounts": ["api"] } }] }] });
    let world = World::new().with_object(dry("allow", only_api));
    assert_eq!(world.answer(&from("shop/web")), "allow");
    let would = |world: &World, connection| {
        let explained = explain(&world.rules(), &connection).observed.would;
        explained.into_iter().map(|w| (w.policy.name.to_string(), w.result, w.rule)).collect::<Vec<_>>()
    };
    assert_eq!(would(&world, from("shop/web")), [("allow".to_owned(), WouldResult::WouldDeny, None)]);
    assert_eq!(would(&world, from("shop/api")), [("allow".to_owned(), WouldResult::WouldAllow, Some(0))]);

    let get =
        json!({ "action": "DENY", "rules": [{ "to": [{ "operation": { "ports": ["81"], "methods": ["GET"] } }] }] });
    let world = World::closed().with_object(dry("deny", get));
    assert_eq!(world.answer(&from("shop/web").port(81)), "default_deny");
    assert_eq!(would(&world, from("shop/web").port(81)), [("deny".to_owned(), WouldResult::WouldDeny, Some(0))]);
    assert_eq!(would(&world, from("shop/web").port(80)), []);
}

#[test]
fn audit_marks_and_decides_nothing() {
    let audit = json!({ "action": "AUDIT", "rules": [{ "to": [{ "operation": { "ports": ["81"] } }] }, { "to": [{ "operation": { "methods": ["GET"], "ports": ["82"] } }] }] });
    let rules = World::new().with("audit", audit).rules();
    let marked = |port| {
        explain(&rules, &from("shop/web").port(port)).observed.audited.iter().map(|r| r.rule).collect::<Vec<_>>()
    };
    assert_eq!((marked(80), marked(81), marked(82)), (vec![], vec![0], vec![1]));
    assert!(decide(&rules, &from("shop/web").port(81)).is_allow());
}

#[test]
fn a_broken_audit_policy_refuses_nothing_where_audit_is_what_was_meant() {
    let answer = |spec: Value| {
        let Policy::Authorization(stand_in) = rejected(&authorization("broken", spec)).stand_in else {
            panic!("an AuthorizationPolicy")
        };
        let mut world = World::new();
        world.authorizations.push(stand_in);
        world.answer(&from("shop/web"))
    };
    assert_eq!(answer(json!({ "action": "AUDIT", "rules": [{ "to": [] }] })), "allow");
    assert_eq!(answer(json!({ "action": "AUDIT", "rule": [] })), "allow");
    for doubtful in [
        json!({ "action": "audit", "rules": [{}] }),
        json!({ "action": ["AUDIT"], "rules": [{}] }),
        json!({ "action": "AUDIT", "provider": { "name": "x" }, "rules": [{}] }),
        json!({ "acton": "AUDIT", "rules": [{}] }),
    ] {
        assert_eq!(answer(doubtful.clone()), "policy_invalid", "{doubtful}");
    }
}

#[test]
fn an_object_that_is_not_understood_refuses_what_it_selects() {
    let broken = rejected(&authorization(
        "broken",
        json!({
            "selector": { "matchLabels": { "app": "web" } },
            "rules": [{ "from": [{ "source": { "ipBlocks": ["10.0.0.0/33"] } }] }],
        }),
    ));
    let mut world = World::new().with("all", json!({ "rules": [{}] }));
    let Policy::Authorization(stand_in) = broken.stand_in else { panic!("an AuthorizationPolicy") };
    world.authorizations.push(stand_in);
    let Verdict::Deny(denial) = world.decide(&from("shop/web")) else { panic!("denied") };
    assert_eq!(denial.reason, Reason::PolicyInvalid);
    assert_eq!(denial.policy.map(|p| p.to_string()), Some("shop/broken".to_owned()));
    world.authorizations.retain(|policy| policy.invalid.is_none());
    assert_eq!(world.answer(&from("shop/web")), "allow");
}

#[test]
fn a_permit_carries_what_it_was_granted_for() {
    let world = World::new().with("all", json!({ "rules": [{ "to": [{ "operation": { "ports": ["1"] } }] }, {}] }));
    let asked = from("shop/web").port(9000).source("10.7.7.7");
    let Verdict::Allow(permit) = world.decide(&asked) else { panic!("allowed") };
    assert_eq!(permit.connection(), &asked);
    assert_eq!(permit.destination().to_string(), "10.0.1.1:9000");
    assert_eq!(permit.source_ip(), super::ip("10.7.7.7"));
    assert!(matches!(permit.peer(), Peer::Authenticated(id) if id.principal() == "mesh.test/ns/shop/sa/web"));
    let Basis::Rule(rule) = permit.basis() else { panic!("by a rule") };
    assert_eq!(rule.to_string(), "shop/all rule 1");
}

#[test]
fn a_closed_rule_set_refuses_everybody() {
    let rules = RuleSet::closed();
    for caller in ["", "shop/web"] {
        assert!(!decide(&rules, &from(caller)).is_allow());
    }
}
