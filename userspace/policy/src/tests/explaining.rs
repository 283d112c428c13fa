//! Why: near misses, posture.

use serde_json::json;

use super::{World, from};
use crate::{Decision, RuleVerdict, Truth, explain};

#[test]
fn a_near_miss_names_the_first_field_that_failed_and_what_was_there_instead() {
    let world = World::new().with(
        "it",
        json!({ "rules": [
        { "from": [{ "source": { "serviceAccounts": ["api"] } }], "to": [{ "operation": { "ports": ["80"] } }] },
        { "from": [{ "source": { "namespaces": ["shop"] } }], "to": [{ "operation": { "ports": ["81"] } }] },
        { "from": [{ "source": { "namespaces": ["shop"] } }], "to": [{ "operation": { "methods": ["GET"] } }] },
    ] }),
    );
    let explained = explain(&world.rules(), &from("shop/web"));
    let misses: Vec<_> = explained.near_misses.iter().map(|m| (m.field.as_str(), m.truth, m.have.as_str())).collect();
    assert_eq!(
        misses,
        [
            ("rules[0].from[0].source.serviceAccounts", Truth::False, "shop/web"),
            ("rules[1].to[0].operation.ports", Truth::False, "8080"),
            ("rules[2].to[0].operation.methods", Truth::Unknown, "request.method is not visible at L4"),
        ]
    );
    assert!(matches!(explained.decision, Decision::Deny(ref denial) if denial.reason.as_str() == "no_allow_matched"));
    let plain = explain(&world.rules(), &from(""));
    assert_eq!(plain.near_misses[0].have, "none");
}

#[test]
fn an_explanation_says_what_the_decision_says() {
    let world = World::new().with("it", json!({ "rules": [{ "from": [{ "source": { "namespaces": ["pay"] } }] }] }));
    for caller in ["pay/api", "shop/web", ""] {
        let connection = from(caller);
        assert_eq!(explain(&world.rules(), &connection).allowed(), world.decide(&connection).is_allow());
    }
}

#[test]
fn an_explanation_is_a_document() {
    let world = World::new().with("it", json!({ "rules": [{ "from": [{ "source": { "namespaces": ["pay"] } }] }] }));
    let document = serde_json::to_value(explain(&world.rules(), &from("shop/web"))).expect("serialisable");
    assert_eq!(document["decision"]["deny"]["reason"], "no_allow_matched");
    assert_eq!(document["near_misses"][0]["policy"], "shop/it");
    assert_eq!(document["near_misses"][0]["wanted"], json!(["pay"]));
    assert_eq!(document["rules"][0]["action"], "ALLOW");
}

#[test]
fn posture_tells_what_is_open() {
    let strict = json!({ "mtls": { "mode": "STRICT" } });
    let identities = json!({ "rules": [{ "from": [{ "source": { "principals": ["*"] } }] }] });
    let ports = json!({ "rules": [{ "to": [{ "operation": { "ports": ["80"] } }] }] });
    let no_plaintext = json!({ "action": "DENY", "rules": [{ "from": [{ "source": { "notPrincipals": ["*"] } }] }] });
    let one_port =
        json!({ "selector": { "matchLabels": { "app": "web" } }, "portLevelMtls": { "80": { "mode": "PERMISSIVE" } } });
    for (name, world, plaintext, everybody) in [
        ("defaults", World::new(), true, true),
        ("closed", World::closed(), false, false),
        ("strict", World::new().with_peers("s", strict.clone()), false, true),
        ("strict but for a port", World::new().with_peers("s", strict).with_peers("p", one_port), true, true),
        ("identities", World::new().with("a", identities), false, false),
        ("a port for everybody", World::new().with("a", ports), true, false),
        ("a rule for everybody", World::closed().with("a", json!({ "rules": [{}] })), false, true),
        ("plaintext denied", World::new().with("d", no_plaintext), false, true),
    ] {
        let posture = world.rules().posture();
        assert_eq!((posture.plaintext, posture.everybody), (plaintext, everybody), "{name}");
        let lets_in = world.decide(&from("").port(80)).is_allow();
        assert!(posture.plaintext || !lets_in, "{name}: plaintext gets in");
    }
}

#[test]
fn rules_that_l4_cannot_evaluate_are_listed() {
    let world = World::new().with("a", json!({ "rules": [{ "to": [{ "operation": { "methods": ["GET"] } }] }] })).with(
        "d",
        json!({ "action": "DENY", "rules": [{ "to": [{ "operation": { "ports": ["80"], "paths": ["/x"] } }] }] }),
    );
    let posture = world.rules().posture();
    let mut verdicts: Vec<_> = posture.inexact.iter().map(|i| (i.rule.policy.name.to_string(), i.verdict)).collect();
    verdicts.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(verdicts, [("a".to_owned(), RuleVerdict::Dead), ("d".to_owned(), RuleVerdict::Widened)]);
}
