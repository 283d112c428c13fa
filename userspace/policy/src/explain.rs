//! Why a decision is what it is: the same evaluation, with everything that was looked at.

use crate::{
    connection::{Connection, Facts},
    decide::Observed,
    model::{Action, PolicyName},
    rule::{Field, NormalPolicy, Test},
    ruleset::RuleSet,
    truth::Truth,
    verdict::{Basis, Denial},
};

/// A decision and how it came about. It holds no permit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// The decision: what allowed, or what refused.
    pub decision: Decision,
    /// ALLOW rules that are not true, each with the first field that kept it from being true.
    pub near_misses: Vec<NearMiss>,
    /// AUDIT and dry-run policies.
    pub observed: Observed,
    /// Every rule that was looked at, with its truth.
    pub rules: Vec<RuleTruth>,
}

/// The decision in an [`Explanation`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Allowed, and by what.
    Allow(Basis),
    /// Refused, and by what.
    Deny(Denial),
}

/// An ALLOW rule that is not true.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NearMiss {
    /// Its policy.
    pub policy: PolicyName,
    /// Index in `spec.rules`.
    pub rule: usize,
    /// The first failing field, as `rules[0].from[0].source.principals`.
    pub field: String,
    /// False, or unknown at this layer.
    pub truth: Truth,
    /// The values as written.
    pub wanted: Vec<String>,
    /// What the connection has instead; `none` for an attribute that it does not have.
    pub have: String,
}

/// One rule and what it says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RuleTruth {
    /// Its policy.
    pub policy: PolicyName,
    /// Index in `spec.rules`.
    pub rule: usize,
    /// What a match means.
    pub action: Action,
    /// Whether the policy is evaluated only.
    pub dry_run: bool,
    /// What it says of the connection.
    pub truth: Truth,
}

/// Explains what [`crate::decide`] decides about a connection.
pub fn explain(rules: &RuleSet, connection: &Connection) -> Explanation {
    rules.explain(&connection.facts())
}

impl RuleSet {
    /// The explanation on bare facts.
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        Explanation {
            decision: match self.judge(facts) {
                Ok(basis) => Decision::Allow(basis),
                Err(denial) => Decision::Deny(denial),
            },
            near_misses: self.allow.iter().flat_map(|policy| near_misses(policy, facts)).collect(),
            observed: self.observe(facts),
            rules: self.all().flat_map(|policy| rule_truths(policy, facts)).collect(),
        }
    }
}

impl Explanation {
    /// Whether the connection is allowed.
    pub fn allowed(&self) -> bool {
        matches!(self.decision, Decision::Allow(_))
    }
}

fn rule_truths<'a>(policy: &'a NormalPolicy, facts: &'a Facts<'_>) -> impl Iterator<Item = RuleTruth> + 'a {
    policy.rules.iter().enumerate().map(|(rule, normal)| RuleTruth {
        policy: policy.name.clone(),
        rule,
        action: policy.action,
        dry_run: policy.dry_run,
        truth: normal.truth(facts),
    })
}

fn near_misses<'a>(policy: &'a NormalPolicy, facts: &'a Facts<'_>) -> impl Iterator<Item = NearMiss> + 'a {
    policy.rules.iter().enumerate().filter_map(|(rule, normal)| {
        let field = normal.first_failing(facts)?;
        Some(NearMiss {
            policy: policy.name.clone(),
            rule,
            field: format!("rules[{rule}].{}", field.path),
            truth: field.truth(facts),
            wanted: field.wanted.to_vec(),
            have: have(field, facts),
        })
    })
}

/// What the connection has for the attribute of a field.
fn have(field: &Field, facts: &Facts<'_>) -> String {
    let none = || "none".to_owned();
    let identity = facts.identity;
    let account = identity.and_then(|id| id.account);
    match &field.test {
        Test::Principal(_) => identity.map_or_else(none, |id| id.principal.to_owned()),
        Test::TrustDomain(_) => identity.map_or_else(none, |id| id.trust_domain.to_owned()),
        Test::Namespace(_) => account.map_or_else(none, |(namespace, _)| namespace.to_owned()),
        Test::Account(_) => account.map_or_else(none, |(namespace, name)| format!("{namespace}/{name}")),
        Test::SourceIp(_) => facts.source_ip.to_string(),
        Test::DestinationIp(_) => facts.destination_ip.to_string(),
        Test::DestinationPort(_) => facts.destination_port.to_string(),
        Test::Unseen(name) => format!("{name} is not visible at L4"),
    }
}
