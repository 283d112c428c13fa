//! Rules of selection, order and merging that only show when several objects meet.

use serde_json::{Value, json};

use super::{World, accepted, authorization, from, object, rejected};
use crate::{EffectiveMtls, MtlsMode, RuleRef, Selector, WouldResult, explain, istio::Policy};

fn labelled(app: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({ "matchLabels": { "app": app } });
    spec
}

fn allow_account(account: &str) -> Value {
    json!({ "rules": [{ "from": [{ "source": { "serviceAccounts": [account] } }] }] })
}

#[test]
fn a_peer_authentication_of_other_labels_concerns_somebody_else() {
    let strict = json!({ "mtls": { "mode": "STRICT" } });
    let others = World::new().with_peers("cart", labelled("cart", strict.clone()));
    assert_eq!(others.answer(&from("")), "allow");
    let ours = World::new().with_peers("web", labelled("web", strict));
    assert_eq!(ours.answer(&from("")), "peer_unauthenticated");
}

#[test]
fn each_of_many_accounts_is_found_in_whatever_order_they_are_written() {
    let accounts = ["till", "api", "cart", "bank/ledger", "web", "audit/web", "billing"];
    let rule = json!({ "from": [{ "source": { "serviceAccounts": accounts } }] });
    let world = World::new().with("them", json!({ "rules": [rule] }));
    for account in accounts {
        let caller = if account.contains('/') { account.to_owned() } else { format!("shop/{account}") };
        assert_eq!(world.answer(&from(&caller)), "allow", "{account}");
    }
    assert_eq!(world.answer(&from("shop/ledger")), "no_allow_matched");
}

#[test]
fn strict_is_asked_before_what_nobody_understood() {
    let broken = rejected(&authorization("broken", json!({ "rule": [] })));
    let Policy::Authorization(stand_in) = broken.stand_in else { panic!("an AuthorizationPolicy") };
    let mut world = World::closed();
    world.authorizations.push(stand_in);
    assert_eq!(world.answer(&from("")), "peer_unauthenticated");
    assert_eq!(world.answer(&from("shop/web")), "policy_invalid");
}

#[test]
fn a_dry_run_allow_would_refuse_only_what_no_enforced_one_lists() {
    let mut candidate = authorization("candidate", allow_account("api"));
    candidate["metadata"]["annotations"] = json!({ "istio.io/dry-run": "true" });
    let world = World::new().with("enforced", allow_account("cart")).with_object(candidate);
    let would = |account: &str| {
        let observed = explain(&world.rules(), &from(account)).observed;
        observed.would.into_iter().map(|would| would.result).collect::<Vec<_>>()
    };
    assert_eq!(would("shop/api"), [WouldResult::WouldAllow]);
    assert_eq!(would("shop/cart"), []);
    assert_eq!(would("shop/till"), [WouldResult::WouldDeny]);
}

#[test]
fn ports_belong_to_workloads() {
    let spec = json!({ "mtls": { "mode": "STRICT" }, "portLevelMtls": { "80": { "mode": "DISABLE" } } });
    for without_labels in [spec.clone(), labelled("web", spec.clone())].map(|mut spec| {
        spec["selector"] = json!({});
        spec
    }) {
        let complaints = rejected(&object("PeerAuthentication", "shop", "ports", without_labels)).complaints;
        assert_eq!(super::codes(&complaints), [("spec.portLevelMtls", "ports_need_selector")]);
    }
    // One that came another way has no effect on ports either.
    let read = accepted(&object("PeerAuthentication", "shop", "ports", labelled("web", spec)));
    let Policy::Authentication(mut policy) = read.policy else { panic!("a PeerAuthentication") };
    policy.selector = Selector::Namespace;
    let merged = EffectiveMtls::compose("istio-system", crate::DefaultMode::Permissive, [&policy]);
    assert_eq!(merged.on(80).0, MtlsMode::Strict);
}

#[test]
fn a_rule_that_only_excludes_identities_can_be_satisfied_without_one() {
    let rule = |source: Value| json!({ "rules": [{ "from": [{ "source": source }] }] });
    let open = World::new().with("open", rule(json!({ "notPrincipals": ["mesh.test/ns/shop/sa/till"] })));
    assert_eq!(open.answer(&from("")), "allow");
    let free: Vec<RuleRef> = open.rules().posture().identity_free;
    assert_eq!(free.iter().map(|rule| rule.policy.to_string()).collect::<Vec<_>>(), ["shop/open"]);
    let closed = World::new().with("closed", rule(json!({ "principals": ["mesh.test/ns/shop/sa/till"] })));
    assert!(closed.rules().posture().identity_free.is_empty());
}
