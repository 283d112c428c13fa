//! Rules without effect of their own.

use serde_json::{Value, json};

use super::{accepted, from, object};
use crate::{AuthorizationPolicy, MeshSettings, Shadows, TrustDomains, istio::Policy, rule::NormalPolicy, shadows};

fn settings() -> MeshSettings {
    MeshSettings::new(TrustDomains::new("mesh.test", ["old.test"]))
}

fn policy(namespace: &str, name: &str, spec: Value) -> AuthorizationPolicy {
    match accepted(&object("AuthorizationPolicy", namespace, name, spec)).policy {
        Policy::Authorization(policy) => policy,
        Policy::Authentication(_) => unreachable!("an AuthorizationPolicy was written"),
    }
}

/// `RULE by RULE` and how, each rule as `ns/name[index]`.
fn said(shadows: &Shadows) -> Vec<String> {
    let name = |rule: &crate::RuleRef| format!("{}[{}]", rule.policy, rule.rule);
    shadows.rules.iter().map(|s| format!("{} {:?} by {}", name(&s.rule), s.how, name(&s.by))).collect()
}

fn found(policies: &[AuthorizationPolicy]) -> Vec<String> {
    let found = shadows(policies, &settings(), 1000);
    assert!(!found.incomplete);
    said(&found)
}

#[test]
fn one_rule_implies_another_by_its_structure() {
    let source = |source: Value| json!({ "from": [{ "source": source }] });
    let sources = |sources: Value| json!({ "from": sources });
    let to = |operation: Value| json!({ "to": [{ "operation": operation }] });
    let when = |key: &str, values: Value| json!({ "when": [{ "key": key, "values": values }] });
    let table = [
        // Values: a part of them, a prefix of a prefix, a block in a block.
        (source(json!({"namespaces": ["a"]})), source(json!({"namespaces": ["a", "b"]})), true),
        (source(json!({"namespaces": ["a", "b"]})), source(json!({"namespaces": ["a"]})), false),
        (source(json!({"namespaces": ["prod-eu"]})), source(json!({"namespaces": ["prod-*"]})), true),
        (source(json!({"namespaces": ["prod-eu-*"]})), source(json!({"namespaces": ["prod-*"]})), true),
        (source(json!({"namespaces": ["prod-*"]})), source(json!({"namespaces": ["prod-eu-*"]})), false),
        (source(json!({"namespaces": ["*-eu"]})), source(json!({"namespaces": ["*"]})), true),
        (source(json!({"namespaces": ["*"]})), source(json!({"namespaces": ["*-eu"]})), false),
        (source(json!({"ipBlocks": ["10.1.0.0/16"]})), source(json!({"ipBlocks": ["10.0.0.0/8"]})), true),
        (source(json!({"ipBlocks": ["10.0.0.0/8"]})), source(json!({"ipBlocks": ["10.1.0.0/16"]})), false),
        (source(json!({"ipBlocks": ["fe80::1%eth0"]})), source(json!({"ipBlocks": ["fe80::/10"]})), false),
        (to(json!({"ports": ["80"]})), to(json!({"ports": ["80", "443"]})), true),
        (to(json!({"ports": ["80", "443"]})), to(json!({"ports": ["80"]})), false),
        // Negation turns it round.
        (source(json!({"notNamespaces": ["a", "b"]})), source(json!({"notNamespaces": ["a"]})), true),
        (source(json!({"notNamespaces": ["a"]})), source(json!({"notNamespaces": ["a", "b"]})), false),
        (source(json!({"notNamespaces": ["a"]})), source(json!({"namespaces": ["a"]})), false),
        // More fields are narrower, more sources wider.
        (source(json!({"namespaces": ["a"], "ipBlocks": ["10.0.0.1"]})), source(json!({"namespaces": ["a"]})), true),
        (source(json!({"namespaces": ["a"]})), source(json!({"namespaces": ["a"], "ipBlocks": ["10.0.0.1"]})), false),
        (
            source(json!({"namespaces": ["a"]})),
            sources(json!([{"source": {"namespaces": ["b"]}}, {"source": {"namespaces": ["a"]}}])),
            true,
        ),
        (
            sources(json!([{"source": {"namespaces": ["b"]}}, {"source": {"namespaces": ["a"]}}])),
            source(json!({"namespaces": ["a"]})),
            false,
        ),
        (source(json!({"namespaces": ["a"]})), json!({}), true),
        (json!({}), source(json!({"namespaces": ["a"]})), false),
        // An identity says its parts.
        (source(json!({"principals": ["mesh.test/ns/a/sa/x"]})), source(json!({"namespaces": ["a"]})), true),
        (source(json!({"principals": ["mesh.test/ns/a/sa/x"]})), source(json!({"serviceAccounts": ["a/x"]})), true),
        (source(json!({"principals": ["mesh.test/ns/b/sa/x"]})), source(json!({"serviceAccounts": ["a/x"]})), false),
        (source(json!({"principals": ["mesh.test/ns/*"]})), source(json!({"namespaces": ["a"]})), false),
        (source(json!({"serviceAccounts": ["a/x"]})), source(json!({"namespaces": ["a"]})), true),
        (source(json!({"namespaces": ["a"]})), source(json!({"principals": ["*"]})), true),
        (source(json!({"ipBlocks": ["10.0.0.1"]})), source(json!({"principals": ["*"]})), false),
        // The alias stands for the mesh, another trust domain does not.
        (source(json!({"principals": ["old.test/ns/a/sa/x"]})), source(json!({"trustDomains": ["mesh.test"]})), true),
        (source(json!({"principals": ["far.test/ns/a/sa/x"]})), source(json!({"trustDomains": ["mesh.test"]})), false),
        (source(json!({"principals": ["far.test/ns/a/sa/x"]})), source(json!({"trustDomains": ["far.test"]})), true),
        // `when` says the same as the field.
        (when("source.namespace", json!(["a"])), source(json!({"namespaces": ["a", "b"]})), true),
        // What L4 cannot see is compared as written.
        (to(json!({"methods": ["GET"]})), to(json!({"methods": ["GET", "PUT"]})), true),
        (to(json!({"methods": ["GET"]})), to(json!({"methods": ["PUT"]})), false),
        (to(json!({"methods": ["GET"]})), to(json!({"paths": ["GET"]})), false),
    ];
    for (narrow, wide, implied) in table {
        let both = policy("shop", "p", json!({ "rules": [narrow, wide] }));
        let normal = NormalPolicy::of(&both, &settings().domains);
        assert_eq!(normal.rules[0].implies(&normal.rules[1]), implied, "{narrow} -> {wide}");
    }
}

#[test]
fn a_rule_is_shadowed_by_one_that_reaches_as_far() {
    let spec = |action: &str, selector: Value, namespace: &str| {
        let mut spec =
            json!({ "action": action, "rules": [{ "from": [{ "source": { "namespaces": [namespace] } }] }] });
        if !selector.is_null() {
            spec["selector"] = json!({ "matchLabels": selector });
        }
        spec
    };
    let (web, front) = (json!({"app": "web"}), json!({"app": "web", "tier": "front"}));
    let all = Value::Null;
    let allow = |name, selector: &Value, of| policy("shop", name, spec("ALLOW", selector.clone(), of));
    let deny = |name, selector: &Value, of| policy("shop", name, spec("DENY", selector.clone(), of));
    let root = |name, selector: &Value, of| policy("istio-system", name, spec("DENY", selector.clone(), of));
    let table: [(&str, Vec<AuthorizationPolicy>, &[&str]); 11] = [
        ("wider", vec![allow("a", &web, "x"), allow("b", &web, "*")], &["shop/a[0] Repeated by shop/b[0]"]),
        (
            "twins: the later one",
            vec![allow("a", &web, "x"), allow("b", &web, "x")],
            &["shop/b[0] Repeated by shop/a[0]"],
        ),
        ("wider workloads", vec![allow("a", &front, "x"), allow("b", &web, "x")], &["shop/a[0] Repeated by shop/b[0]"]),
        ("a namespace", vec![allow("a", &front, "x"), allow("b", &all, "x")], &["shop/a[0] Repeated by shop/b[0]"]),
        ("narrower workloads", vec![allow("a", &all, "x"), allow("b", &web, "*")], &[]),
        ("other workloads", vec![allow("a", &web, "x"), allow("b", &json!({"app": "db"}), "*")], &[]),
        ("denied", vec![allow("a", &web, "x"), deny("z", &all, "*")], &["shop/a[0] Refused by shop/z[0]"]),
        ("denied in part", vec![allow("a", &web, "*"), deny("z", &all, "x")], &[]),
        ("allowed is no denial's end", vec![deny("a", &web, "x"), allow("b", &web, "*")], &[]),
        (
            "from the root",
            vec![allow("a", &web, "x"), root("z", &all, "*")],
            &["shop/a[0] Refused by istio-system/z[0]"],
        ),
        (
            "not to the root",
            vec![root("z", &all, "x"), deny("a", &all, "*"), policy("other", "o", spec("DENY", all.clone(), "*"))],
            &[],
        ),
    ];
    for (what, policies, expected) in table {
        assert_eq!(found(&policies), expected, "{what}");
    }
}

#[test]
fn what_is_not_enforced_shadows_nothing() {
    let rules = json!([{ "from": [{ "source": { "namespaces": ["x"] } }] }]);
    let one = policy("shop", "a", json!({ "rules": rules }));
    let mut dry = policy("shop", "b", json!({ "rules": [{}] }));
    dry.dry_run = true;
    let mut broken = policy("shop", "c", json!({ "rules": [{}] }));
    broken.invalid = Some("broken".into());
    let audit = policy("shop", "d", json!({ "action": "AUDIT", "rules": [{}] }));
    let reference = json!([{ "kind": "Gateway", "group": "gateway.networking.k8s.io", "name": "w" }]);
    let waypoint = policy("shop", "e", json!({ "targetRefs": reference, "rules": [{}] }));
    assert_eq!(found(&[one.clone(), dry, broken, audit, waypoint]), [""; 0]);
    assert_eq!(found(&[one, policy("shop", "f", json!({ "rules": [{}] }))]), ["shop/a[0] Repeated by shop/f[0]"]);
}

#[test]
fn a_shadowed_rule_can_be_taken_away() {
    let rule = |account: &str| json!({ "from": [{ "source": { "serviceAccounts": [account] } }] });
    let spec = json!({ "rules": [rule("a/x"), rule("b/y"), { "from": [{ "source": { "namespaces": ["a"] } }] }] });
    let whole = policy("shop", "p", spec);
    assert_eq!(found(std::slice::from_ref(&whole)), ["shop/p[0] Repeated by shop/p[2]"]);
    let mut without = whole.clone();
    without.rules.remove(0);
    let answers = |policy: &AuthorizationPolicy| {
        let mut world = super::World::new();
        world.authorizations.push(policy.clone());
        ["a/x", "a/z", "b/y", "b/x", ""].map(|account| world.answer(&from(account)))
    };
    assert_eq!(answers(&whole), answers(&without));
}

#[test]
fn the_work_is_bounded_and_says_so() {
    let rules: Vec<Value> =
        (0..40).map(|i| json!({ "from": [{ "source": { "namespaces": [format!("n{i}")] } }] })).collect();
    let policy = policy("shop", "p", json!({ "rules": rules }));
    assert!(!shadows([&policy], &settings(), 40 * 39).incomplete);
    assert!(shadows([&policy], &settings(), 40 * 39 - 1).incomplete);
}

#[test]
fn values_that_are_walked_through_are_paid_for_one_by_one() {
    let rules = |blocks: usize| {
        let rule = |n: usize| {
            let blocks: Vec<String> = (0..blocks).map(|i| format!("10.{n}.{i}.0/24")).collect();
            json!({ "from": [{ "source": { "ipBlocks": blocks } }] })
        };
        policy("shop", "p", json!({ "rules": [rule(1), rule(2)] }))
    };
    let looked = |policy: AuthorizationPolicy, budget| !shadows([&policy], &settings(), budget).incomplete;
    assert!(looked(rules(50), 2 * 50 * 51) && !looked(rules(50), 2 * 50 * 51 - 1));
    // Exact ones are looked up.
    let accounts: Vec<String> = (0..16).map(|n| format!("shop/a{n}")).collect();
    let rule = json!({ "from": [{ "source": { "serviceAccounts": accounts } }] });
    let exact = policy("shop", "p", json!({ "rules": [rule.clone(), rule] }));
    assert!(looked(exact.clone(), 2 * 16) && !looked(exact, 16 - 1));
}
