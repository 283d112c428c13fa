//! The decision: STRICT, then objects nobody could read, CUSTOM, DENY, ALLOW.

use crate::{
    connection::{Connection, Facts},
    model::{Action, MtlsMode, PolicyName},
    rule::NormalPolicy,
    ruleset::RuleSet,
    settings::DefaultAction,
    truth::Truth,
    verdict::{Basis, Denial, Permit, Reason, RuleRef, Verdict},
};

/// What policies that do not decide say about a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Observed {
    /// AUDIT rules that match or may match.
    pub audited: Vec<RuleRef>,
    /// What dry-run policies would change.
    pub would: Vec<Would>,
}

/// What a dry-run policy would do, were it enforced beside the others.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Would {
    /// `would_allow` or `would_deny`.
    pub result: WouldResult,
    /// The dry-run policy.
    pub policy: PolicyName,
    /// The rule that would decide; none where an ALLOW policy would refuse what it does not list.
    pub rule: Option<usize>,
}

/// The result of a dry-run policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WouldResult {
    /// One of its ALLOW rules is true.
    WouldAllow,
    /// One of its DENY rules matches or may match, or it would be an ALLOW policy without a true rule.
    WouldDeny,
}

/// Decides about a connection to the workload of the rule set.
pub fn decide(rules: &RuleSet, connection: &Connection) -> Verdict {
    match rules.judge(&connection.facts()) {
        Ok(basis) => Verdict::Allow(Permit::grant(connection, basis)),
        Err(denial) => Verdict::Deny(denial),
    }
}

impl RuleSet {
    /// The decision on bare facts, without a permit: for explanations, simulations and tests.
    pub fn judge(&self, facts: &Facts<'_>) -> Result<Basis, Denial> {
        self.check_strict(facts)?;
        self.check_understood()?;
        refuse_first(&self.custom, facts, Reason::CustomUnavailable)?;
        refuse_first(&self.deny, facts, Reason::PolicyDenied)?;
        for policy in &self.allow {
            if let Some((rule, _)) = policy.first_rule(facts, Truth::True) {
                return Ok(Basis::Rule(RuleRef { policy: policy.name.clone(), rule }));
            }
        }
        match (self.allow.is_empty(), self.default_action) {
            (true, DefaultAction::Allow) => Ok(Basis::NoPolicy),
            (true, DefaultAction::Deny) => Err(Denial::of(Reason::DefaultDeny, None)),
            (false, _) => Err(Denial::of(Reason::NoAllowMatched, None)),
        }
    }

    /// What AUDIT and dry-run policies say; costs nothing where there are none.
    pub fn observe(&self, facts: &Facts<'_>) -> Observed {
        Observed {
            audited: self
                .audit
                .iter()
                .filter_map(|policy| {
                    let (rule, _) = policy.first_rule(facts, Truth::Unknown)?;
                    Some(RuleRef { policy: policy.name.clone(), rule })
                })
                .collect(),
            would: self.dry_run.iter().filter_map(|policy| self.would(policy, facts)).collect(),
        }
    }

    fn would(&self, policy: &NormalPolicy, facts: &Facts<'_>) -> Option<Would> {
        let would = |result, rule| Some(Would { result, policy: policy.name.clone(), rule });
        if policy.invalid.is_some() {
            return would(WouldResult::WouldDeny, None);
        }
        match policy.action {
            Action::Allow => match policy.first_rule(facts, Truth::True) {
                Some((rule, _)) => would(WouldResult::WouldAllow, Some(rule)),
                None if self.allow.iter().any(|p| p.first_rule(facts, Truth::True).is_some()) => None,
                None => would(WouldResult::WouldDeny, None),
            },
            Action::Deny => {
                let (rule, _) = policy.first_rule(facts, Truth::Unknown)?;
                would(WouldResult::WouldDeny, Some(rule))
            }
            Action::Audit | Action::Custom => None,
        }
    }

    fn check_strict(&self, facts: &Facts<'_>) -> Result<(), Denial> {
        match self.mtls.on(facts.destination_port) {
            (MtlsMode::Strict, from) if facts.identity.is_none() => {
                Err(Denial::of(Reason::PeerUnauthenticated, from.cloned()))
            }
            _ => Ok(()),
        }
    }

    fn check_understood(&self) -> Result<(), Denial> {
        match self.invalid.first() {
            Some((name, _)) => Err(Denial::of(Reason::PolicyInvalid, Some(name.clone()))),
            None => Ok(()),
        }
    }
}

fn refuse_first(policies: &[NormalPolicy], facts: &Facts<'_>, reason: Reason) -> Result<(), Denial> {
    for policy in policies {
        if let Some((rule, truth)) = policy.first_rule(facts, Truth::Unknown) {
            let certain = truth.holds();
            return Err(Denial {
                rule: Some(rule),
                uncertain: !certain,
                ..Denial::of(reason, Some(policy.name.clone()))
            });
        }
    }
    Ok(())
}

impl Denial {
    fn of(reason: Reason, policy: Option<PolicyName>) -> Self {
        Self { reason, policy, rule: None, uncertain: false }
    }
}
