//! Laws that hold whatever the policies say.

use proptest::prelude::*;

use super::{World, from, ip};
use crate::{
    Action, AuthorizationPolicy, Condition, Connection, Operation, Peer, PolicyName, Reason, Rule, Selector, Source,
    Truth, explain,
};

fn truth() -> impl Strategy<Value = Truth> {
    prop_oneof![Just(Truth::False), Just(Truth::Unknown), Just(Truth::True)]
}

fn picked(values: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(values, 0..=values.len().min(2))
        .prop_map(|values| values.into_iter().map(str::to_owned).collect())
}

const PRINCIPALS: &[&str] = &["*", "mesh.test/*", "mesh.test/ns/shop/sa/web", "*/sa/api"];
const NAMESPACES: &[&str] = &["shop", "pay", "s*"];

fn source() -> impl Strategy<Value = Source> {
    (
        picked(PRINCIPALS),
        picked(PRINCIPALS),
        picked(NAMESPACES),
        picked(NAMESPACES),
        picked(&["10.0.0.0/8", "::/0"]),
        picked(&["*"]),
    )
        .prop_map(|(principals, not_principals, namespaces, not_namespaces, ip_blocks, request_principals)| {
            Source {
                principals,
                not_principals,
                namespaces,
                not_namespaces,
                ip_blocks,
                request_principals,
                ..Source::default()
            }
        })
}

fn operation() -> impl Strategy<Value = Operation> {
    (picked(&["80", "8080"]), picked(&["80", "8080"]), picked(&["GET"]))
        .prop_map(|(ports, not_ports, methods)| Operation { ports, not_ports, methods, ..Operation::default() })
}

fn rule() -> impl Strategy<Value = Rule> {
    let key =
        prop::sample::select(&["source.namespace", "destination.port", "request.headers[x]", "connection.sni"][..]);
    let condition = (key, picked(&["shop", "80"]), picked(&["pay", "8080"]))
        .prop_map(|(key, values, not_values)| Condition { key: key.to_owned(), values, not_values });
    (
        prop::collection::vec(source(), 0..3),
        prop::collection::vec(operation(), 0..3),
        prop::collection::vec(condition, 0..2),
    )
        .prop_map(|(from, to, when)| Rule { from, to, when })
}

fn policies() -> impl Strategy<Value = Vec<AuthorizationPolicy>> {
    let action = prop::sample::select(&[Action::Allow, Action::Deny, Action::Audit, Action::Custom][..]);
    let policy = (action, any::<bool>(), prop::collection::vec(rule(), 0..3));
    prop::collection::vec(policy, 0..4).prop_map(|policies| {
        let numbered = policies.into_iter().enumerate();
        numbered
            .map(|(n, (action, dry_run, rules))| AuthorizationPolicy {
                name: PolicyName::new("shop", &format!("p{n}")),
                selector: Selector::Namespace,
                action,
                dry_run,
                rules,
                invalid: None,
            })
            .collect()
    })
}

fn connection() -> impl Strategy<Value = Connection> {
    let caller = prop::sample::select(&["", "shop/web", "shop/api", "pay/api"][..]);
    let address = prop::sample::select(&["10.0.0.1", "192.0.2.1", "fd00::1"][..]);
    (caller, address, prop::sample::select(&[80_u16, 8080, 9000][..]))
        .prop_map(|(caller, address, port)| Connection { source_ip: ip(address), ..from(caller).port(port) })
}

fn world(policies: Vec<AuthorizationPolicy>) -> World {
    let mut world = World::new();
    world.authorizations = policies;
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn conjunction_and_disjunction_are_dual(parts in prop::collection::vec(truth(), 0..6)) {
        let negated = || parts.iter().map(|part| !*part);
        prop_assert_eq!(!Truth::all(parts.iter().copied()), Truth::any(negated()));
        prop_assert_eq!(!Truth::any(parts.iter().copied()), Truth::all(negated()));
        prop_assert_eq!(Truth::all(parts.iter().copied()), parts.iter().copied().min().unwrap_or(Truth::True));
    }

    #[test]
    fn a_further_denial_never_opens_and_dry_run_and_audit_never_decide(
        policies in policies(), more in rule(), connection in connection()
    ) {
        let before = world(policies.clone()).answer(&connection);
        for (action, dry_run) in [(Action::Deny, false), (Action::Deny, true), (Action::Allow, true), (Action::Audit, false)] {
            let mut changed = policies.clone();
            changed.push(AuthorizationPolicy {
                name: PolicyName::new("shop", "zz"),
                selector: Selector::Namespace,
                action,
                dry_run,
                rules: vec![more.clone()],
                invalid: None,
            });
            let after = world(changed).answer(&connection);
            if action == Action::Deny && !dry_run {
                prop_assert!(after != "allow" || before == "allow");
            } else {
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn an_invalid_policy_refuses_whatever_else_there_is(policies in policies(), connection in connection()) {
        let mut policies = policies;
        policies.push(AuthorizationPolicy {
            name: PolicyName::new("shop", "broken"),
            selector: Selector::Namespace,
            action: Action::Allow,
            dry_run: false,
            rules: vec![Rule::default()],
            invalid: Some("broken".into()),
        });
        prop_assert_eq!(world(policies).answer(&connection), Reason::PolicyInvalid.as_str());
    }

    #[test]
    fn explanation_and_decision_agree_and_the_named_rule_decides(policies in policies(), connection in connection()) {
        let world = world(policies);
        let explained = explain(&world.rules(), &connection);
        let verdict = world.decide(&connection);
        prop_assert_eq!(explained.allowed(), verdict.is_allow());
        if let Some(denial) = verdict.denial()
            && let (Some(policy), Some(rule)) = (&denial.policy, denial.rule)
        {
            let named = explained.rules.iter().find(|r| &r.policy == policy && r.rule == rule);
            prop_assert!(named.is_some_and(|r| r.truth.may_hold() && !r.dry_run && r.action != Action::Allow));
        }
    }

    #[test]
    fn posture_never_calls_closed_what_lets_plaintext_in(policies in policies(), connection in connection()) {
        let world = world(policies);
        if connection.peer == Peer::Plaintext && world.decide(&connection).is_allow() {
            prop_assert!(world.rules().posture().plaintext);
        }
    }

    #[test]
    fn what_would_be_true_at_l7_is_at_least_unknown_at_l4(policies in policies(), connection in connection()) {
        // Without their L7 fields rules can only become truer, so a rule that is false must stay false with them.
        for policy in policies {
            for rule in &policy.rules {
                let mut bare = rule.clone();
                bare.from.iter_mut().for_each(|s| s.request_principals.clear());
                bare.to.iter_mut().for_each(|o| o.methods.clear());
                bare.when.retain(|c| !c.key.starts_with("request.") && c.key != "connection.sni");
                let truth = |rule: &Rule| {
                    let policy = AuthorizationPolicy { rules: vec![rule.clone()], dry_run: false, ..policy.clone() };
                    explain(&world(vec![policy]).rules(), &connection).rules[0].truth
                };
                prop_assert!(truth(rule) <= truth(&bare) || truth(&bare) == Truth::Unknown);
            }
        }
    }

    #[test]
    fn mapped_addresses_change_nothing(policies in policies(), connection in connection()) {
        let mut mapped = connection.clone();
        if let std::net::IpAddr::V4(v4) = connection.source_ip {
            mapped.source_ip = v4.to_ipv6_mapped().into();
        }
        let world = world(policies);
        prop_assert_eq!(world.answer(&connection), world.answer(&mapped));
    }

    #[test]
    fn patterns_agree_with_their_definition(text in "[ab*]{0,4}", value in "[ab*]{0,4}") {
        let expected = match text.as_str() {
            "*" => !value.is_empty(),
            t if t.starts_with('*') => value.ends_with(&t[1..]),
            t if t.ends_with('*') => value.starts_with(&t[..t.len() - 1]),
            t => value == t,
        };
        let pattern = crate::pattern::Pattern::parse(&text);
        prop_assert_eq!(pattern.matches(&value), expected);
        let strings: crate::pattern::Strings = [pattern].into_iter().collect();
        prop_assert_eq!(strings.matches(Some(&value)).holds(), expected);
    }

    #[test]
    fn reading_never_panics_and_refusals_say_why(text in "\\PC{0,64}", key in "[a-zA-Z]{0,12}") {
        let spec = serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text));
        for kind in ["AuthorizationPolicy", "PeerAuthentication"] {
            for spec in [spec.clone(), serde_json::json!({ key.clone(): spec.clone() })] {
                let object = super::object(kind, "shop", "it", spec);
                if let Some(Err(rejected)) = crate::istio::read(&object) {
                    prop_assert!(!rejected.complaints.is_empty());
                    prop_assert!(rejected.complaints.iter().all(|c| !c.field.is_empty() && !c.remedy.is_empty()));
                }
            }
        }
    }
}
