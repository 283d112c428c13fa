//! What is open: facts about a rule set, not about one connection.

use crate::{
    model::{Action, MtlsMode},
    rule::{Clause, Field, NormalPolicy, NormalRule, Test},
    ruleset::RuleSet,
    settings::DefaultAction,
    verdict::RuleRef,
};

/// What a rule set leaves open. Where it cannot be sure it says open.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Posture {
    /// Some port takes peers without TLS, and no policy refuses them all.
    pub plaintext: bool,
    /// Everybody may call who is not denied: no enforced ALLOW policy concerns the workload, or one of its rules
    /// matches everything.
    pub everybody: bool,
    /// ALLOW rules that can be satisfied without any identity.
    pub identity_free: Vec<RuleRef>,
    /// Rules that L4 cannot evaluate exactly: ALLOW rules that it takes as narrower, DENY and CUSTOM rules that it takes
    /// as wider than they are written.
    pub inexact: Vec<Inexact>,
}

/// A rule that depends on what L4 cannot see.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Inexact {
    /// Which rule.
    #[serde(flatten)]
    pub rule: RuleRef,
    /// What becomes of it.
    pub verdict: RuleVerdict,
    /// The fields that L4 cannot see.
    pub fields: Vec<String>,
}

/// What L4 makes of a rule with fields that it cannot see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleVerdict {
    /// It refuses or marks more than is written.
    Widened,
    /// It lets in less than is written.
    Narrowed,
    /// An ALLOW rule that no connection can satisfy at L4.
    Dead,
}

impl RuleSet {
    /// What this rule set leaves open.
    pub fn posture(&self) -> Posture {
        let identity_free: Vec<_> = self
            .allow
            .iter()
            .flat_map(|policy| rules_where(policy, NormalRule::satisfiable_without_identity))
            .collect();
        let unlimited = self.allow.is_empty() && self.default_action == DefaultAction::Allow && self.invalid.is_empty();
        let lets_plaintext_in = unlimited || (!identity_free.is_empty() && self.invalid.is_empty());
        let plaintext_refused =
            self.deny.iter().chain(&self.custom).flat_map(|p| &p.rules).any(NormalRule::fires_for_all_plaintext);
        Posture {
            plaintext: self.mtls.takes_plaintext() && lets_plaintext_in && !plaintext_refused,
            everybody: unlimited || (self.invalid.is_empty() && self.has_rule_for_everybody()),
            identity_free,
            inexact: self.all().flat_map(inexact).collect(),
        }
    }

    fn has_rule_for_everybody(&self) -> bool {
        self.allow.iter().flat_map(|policy| &policy.rules).any(|rule| rule.clauses.is_empty())
    }

    /// Whether plaintext peers are refused on each port by PeerAuthentication alone.
    pub fn is_strict(&self) -> bool {
        self.mtls.mode == MtlsMode::Strict && !self.mtls.takes_plaintext()
    }
}

fn rules_where(policy: &NormalPolicy, holds: impl Fn(&NormalRule) -> bool) -> impl Iterator<Item = RuleRef> {
    let matching = policy.rules.iter().enumerate().filter(move |(_, rule)| holds(rule));
    matching.map(|(rule, _)| RuleRef { policy: policy.name.clone(), rule })
}

fn inexact(policy: &NormalPolicy) -> impl Iterator<Item = Inexact> {
    policy.rules.iter().enumerate().filter_map(|(rule, normal)| {
        let fields: Vec<String> =
            normal.fields().filter(|f| f.is_unseen()).map(|f| format!("rules[{rule}].{}", f.named())).collect();
        let verdict = match policy.action {
            _ if fields.is_empty() => return None,
            Action::Allow if normal.is_dead() => RuleVerdict::Dead,
            Action::Allow => RuleVerdict::Narrowed,
            Action::Deny | Action::Audit | Action::Custom => RuleVerdict::Widened,
        };
        Some(Inexact { rule: RuleRef { policy: policy.name.clone(), rule }, verdict, fields })
    })
}

impl Field {
    /// Its path; of a condition also what it is about, which its path does not say.
    fn named(&self) -> String {
        match &self.test {
            Test::Unseen(attribute) if self.path.starts_with("when[") => format!("{} ({attribute})", self.path),
            _ => self.path.to_string(),
        }
    }

    fn is_unseen(&self) -> bool {
        matches!(self.test, Test::Unseen(_))
    }

    /// A positive match on an identity attribute.
    fn needs_identity(&self) -> bool {
        self.test.is_identity() && !self.negated
    }
}

impl NormalRule {
    /// Whether a peer without an identity could make the rule true.
    pub fn satisfiable_without_identity(&self) -> bool {
        !self.is_dead()
            && self.clauses.iter().all(|clause| clause.some_match(|f| !f.needs_identity() && !f.is_unseen()))
    }

    /// Whether no connection can make the rule true at L4.
    pub fn is_dead(&self) -> bool {
        self.clauses.iter().any(|clause| !clause.some_match(|field| !field.is_unseen()))
    }

    /// Whether the rule is true or unknown for every plaintext peer, whatever its address and port.
    fn fires_for_all_plaintext(&self) -> bool {
        self.clauses
            .iter()
            .all(|clause| clause.some_match(|field| field.is_unseen() || (field.test.is_identity() && field.negated)))
    }
}

impl Clause {
    fn some_match(&self, each_field: impl Fn(&Field) -> bool) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|m| !m.fields.is_empty() && m.fields.iter().all(&each_field))
    }
}
