//! Rules that mean something else at L4 than they seem to.

use super::super::Complaint;
use crate::{
    domains::TrustDomains,
    model::{Action, AuthorizationPolicy, Selector},
    rule::{NormalPolicy, NormalRule, Test},
};

/// Checks each rule of a policy that the agent evaluates.
pub(super) fn check(policy: &AuthorizationPolicy, warnings: &mut Vec<Complaint>) {
    if policy.selector == Selector::Waypoint {
        return;
    }
    // Aliases change nothing here.
    let normal = NormalPolicy::of(policy, &TrustDomains::new(String::new(), []));
    for (index, rule) in normal.rules.iter().enumerate() {
        warn_of_unseen(policy.action, index, rule, warnings);
        if policy.action == Action::Allow && rule.satisfiable_without_identity() {
            warnings.push(Complaint::new(
                format!("spec.rules[{index}]"),
                "allow_without_identity",
                "a peer without any identity (plaintext) can satisfy this rule",
                "add `from.source.principals: [\"*\"]`, or require STRICT by a PeerAuthentication",
            ));
        }
    }
}

fn warn_of_unseen(action: Action, index: usize, rule: &NormalRule, warnings: &mut Vec<Complaint>) {
    let effect = match action {
        Action::Allow if rule.is_dead() => "so this rule lets nothing in",
        Action::Allow => "so this branch of the rule lets nothing in",
        Action::Deny => "so this rule refuses whatever its other fields do not exclude",
        Action::Audit => "so this rule marks whatever its other fields do not exclude",
        Action::Custom => "and no authorizer can be asked, so what may match is refused",
    };
    for field in rule.fields() {
        let Test::Unseen(attribute) = &field.test else { continue };
        warnings.push(Complaint::new(
            format!("spec.rules[{index}].{}", field.path),
            "l7_field_at_l4",
            format!("{attribute} is not visible at L4, {effect}"),
            "identities, addresses and ports are what is seen: write the rule with these, and leave what is in requests \
             to the application or its gateway",
        ));
    }
}
