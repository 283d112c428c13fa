//! What a rule set holds.

use serde_json::json;

use super::{World, authorization, from, object};
use crate::{Verdict, istio::Policy};

#[test]
fn a_rule_set_does_not_grow_with_policies_that_do_not_select_the_workload() {
    let spec = |app: &str| json!({ "selector": { "matchLabels": { "app": app } }, "rules": [{}] });
    let alone = World::new().with("mine", spec("web")).rules();
    let mut crowd = World::new().with("mine", spec("web"));
    for n in 0..1000 {
        crowd = crowd.with(&format!("other-{n}"), spec("api"));
        let elsewhere = object("AuthorizationPolicy", "pay", &format!("elsewhere-{n}"), spec("web"));
        crowd = crowd.with_object(elsewhere);
    }
    assert_eq!(crowd.rules(), alone);
}

#[test]
fn the_deciding_policy_does_not_depend_on_the_order_of_arrival() {
    let all = || json!({ "rules": [{}] });
    for order in [["a", "b"], ["b", "a"]] {
        let world = World::new().with(order[0], all()).with(order[1], all());
        let Verdict::Allow(permit) = world.decide(&from("")) else { panic!("allowed") };
        assert!(matches!(permit.basis(), crate::Basis::Rule(rule) if &*rule.policy.name == "a"));
    }
}

#[test]
fn data_that_was_never_validated_fails_closed() {
    let parsed =
        super::accepted(&authorization("it", json!({ "rules": [{ "to": [{ "operation": { "ports": ["80"] } }] }] })));
    let Policy::Authorization(good) = parsed.policy else { panic!("an AuthorizationPolicy") };
    let mut cases = Vec::new();
    let mut policy = good.clone();
    policy.rules[0].to[0].ports = vec!["eighty".to_owned()];
    cases.push(("a port that is none", policy.clone()));
    policy.rules[0].to[0] = crate::Operation::default();
    cases.push(("an operation without fields", policy.clone()));
    policy.rules[0].to.clear();
    policy.rules[0].from = vec![crate::Source { ip_blocks: vec!["everywhere".to_owned()], ..Default::default() }];
    cases.push(("an address that is none", policy.clone()));
    policy.rules[0].from.clear();
    policy.rules[0].when =
        vec![crate::Condition { key: "destination.name".to_owned(), values: vec!["x".to_owned()], not_values: vec![] }];
    cases.push(("a key that nobody knows", policy));
    for (what, policy) in cases {
        for (action, expected) in [(crate::Action::Allow, "no_allow_matched"), (crate::Action::Deny, "policy_denied")] {
            let mut world = World::new();
            world.authorizations.push(crate::AuthorizationPolicy { action, ..policy.clone() });
            assert_eq!(world.answer(&from("shop/web")), expected, "{what} under {action:?}");
        }
    }
}
