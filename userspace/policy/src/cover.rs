//! Rules that change nothing, because another rule says as much already. Structure is compared, so what is reported is so;
//! not everything that is so is found.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    domains::parse_identity,
    model::{Action, AuthorizationPolicy, PolicyName, Selector},
    rule::{Clause, Field, Match, NormalPolicy, NormalRule, Test},
    settings::MeshSettings,
    verdict::RuleRef,
};

/// A rule without effect of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// The rule.
    pub rule: RuleRef,
    /// The rule that makes it one.
    pub by: RuleRef,
    /// How.
    pub how: How,
}

/// How a rule is without effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The other one does the same wherever this one holds.
    Repeated,
    /// An ALLOW rule: a DENY rule refuses whatever it would let in.
    Refused,
}

/// The shadowed rules, and whether all rules were compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shadows {
    /// Ordered by rule; one entry for each.
    pub rules: Vec<Shadowed>,
    /// There were more values to compare than the budget.
    pub incomplete: bool,
}

/// An enforced ALLOW or DENY policy, ready to be compared.
struct Enforced<'p> {
    policy: &'p AuthorizationPolicy,
    normal: NormalPolicy,
    /// Of each rule.
    sizes: Vec<Size>,
}

/// What it costs to compare a rule with another one.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Values that are looked for in the other rule.
    values: usize,
    /// What one value of the other rule is compared with at most: a field's exact values are looked up in one step.
    steps: usize,
}

/// Compares the enforced ALLOW and DENY rules of these policies pair by pair, at most about `budget` values.
pub fn shadows<'p>(
    policies: impl IntoIterator<Item = &'p AuthorizationPolicy>,
    settings: &MeshSettings,
    budget: usize,
) -> Shadows {
    let mut by_namespace: BTreeMap<&str, Vec<Enforced<'p>>> = BTreeMap::new();
    for policy in policies {
        let compared = matches!(policy.action, Action::Allow | Action::Deny) && policy.selector != Selector::Waypoint;
        if compared && !policy.dry_run && policy.invalid.is_none() {
            let normal = NormalPolicy::of(policy, &settings.domains);
            let sizes = normal.rules.iter().map(Size::of).collect();
            by_namespace.entry(&policy.name.namespace).or_default().push(Enforced { policy, normal, sizes });
        }
    }
    let mut search = Search { root: &settings.root_namespace, budget, found: Shadows::default() };
    let root = by_namespace.get(&*settings.root_namespace).map(Vec::as_slice).unwrap_or_default();
    for (namespace, own) in &by_namespace {
        let root = if **namespace == *settings.root_namespace { &[] } else { root };
        for policy in own {
            search.policy(policy, own.iter().chain(root));
        }
    }
    search.found.rules.sort_by(|a, b| (&a.rule.policy, a.rule.rule).cmp(&(&b.rule.policy, b.rule.rule)));
    search.found
}

struct Search<'s> {
    root: &'s str,
    budget: usize,
    found: Shadows,
}

impl Search<'_> {
    fn policy<'e>(&mut self, narrow: &'e Enforced<'_>, others: impl Iterator<Item = &'e Enforced<'e>> + Clone) {
        for index in 0..narrow.normal.rules.len() {
            let mut others = others.clone();
            let found = others.find_map(|wide| self.rule(narrow, index, wide));
            self.found.rules.extend(found);
        }
    }

    /// The first rule of `wide` that leaves rule `index` of `narrow` without effect.
    fn rule(&mut self, narrow: &Enforced<'_>, index: usize, wide: &Enforced<'_>) -> Option<Shadowed> {
        let how = match (narrow.normal.action, wide.normal.action) {
            (Action::Allow, Action::Deny) => How::Refused,
            (one, other) if one == other => How::Repeated,
            _ => return None,
        };
        if !self.reaches(wide.policy, narrow.policy) {
            return None;
        }
        let rule = &narrow.normal.rules[index];
        for (at, other) in wide.normal.rules.iter().enumerate() {
            let (this, that) = ((&narrow.policy.name, index), (&wide.policy.name, at));
            if this == that {
                continue;
            }
            let Some(left) = self.budget.checked_sub(narrow.sizes[index].beside(wide.sizes[at])) else {
                self.found.incomplete = true;
                return None;
            };
            self.budget = left;
            // Of two rules that say the same the later one is without effect.
            let twins = || other.implies(rule) && self.reaches(narrow.policy, wide.policy);
            if rule.implies(other) && (how == How::Refused || this > that || !twins()) {
                let reference = |(policy, rule): (&PolicyName, usize)| RuleRef { policy: policy.clone(), rule };
                return Some(Shadowed { rule: reference(this), by: reference(that), how });
            }
        }
        None
    }

    /// Whether `wide` concerns every workload that `narrow` concerns.
    fn reaches(&self, wide: &AuthorizationPolicy, narrow: &AuthorizationPolicy) -> bool {
        let everywhere = *wide.name.namespace == *self.root;
        (everywhere || wide.name.namespace == narrow.name.namespace)
            && match (&wide.selector, &narrow.selector) {
                (Selector::Namespace, _) => true,
                (Selector::Labels(labels), Selector::Labels(more)) => {
                    labels.iter().all(|(key, value)| more.get(key) == Some(value))
                }
                (Selector::Services(services), Selector::Services(narrower)) => {
                    wide.name.namespace == narrow.name.namespace && services.is_superset(narrower)
                }
                _ => false,
            }
    }
}

impl Size {
    fn of(rule: &NormalRule) -> Self {
        rule.fields().fold(Self { values: 0, steps: 0 }, |sum, field| {
            let (values, steps) = field.test.size(field.wanted.len());
            Self { values: sum.values + values.max(1), steps: sum.steps + 1 + steps }
        })
    }

    /// Fields that are negated are compared the other way round.
    fn beside(self, other: Self) -> usize {
        let one_way = self.values.saturating_mul(other.steps);
        one_way.max(other.values.saturating_mul(self.steps)).max(1)
    }
}

impl NormalRule {
    /// Whether `wide` is at least as true as this rule, whatever the connection.
    pub fn implies(&self, wide: &Self) -> bool {
        let implied = |clause: &Clause| self.clauses.iter().any(|own| own.implies(clause));
        wide.clauses.iter().all(|clause| clause.matches.is_empty() || implied(clause))
    }
}

impl Clause {
    fn implies(&self, wide: &Self) -> bool {
        let implied = |own: &Match| wide.matches.iter().any(|m| own.implies(m));
        !self.matches.is_empty() && self.matches.iter().all(implied)
    }
}

impl Match {
    fn implies(&self, wide: &Self) -> bool {
        let implied = |field: &Field| self.fields.iter().any(|own| own.implies(field));
        // A match without fields is unknown: it is compared with nothing.
        !wide.fields.is_empty() && wide.fields.iter().all(implied)
    }
}

impl Field {
    fn implies(&self, wide: &Self) -> bool {
        match (self.negated, wide.negated) {
            (false, false) => wide.covers(self),
            (true, true) => self.covers(wide),
            _ => false,
        }
    }

    /// Whether each value of `narrow` is one of this field's.
    fn covers(&self, narrow: &Self) -> bool {
        match (&self.test, &narrow.test) {
            (Test::Unseen(a), Test::Unseen(b)) => a == b && narrow.wanted.iter().all(|v| self.wanted.contains(v)),
            (wide, narrow) => wide.covers(narrow),
        }
    }
}

impl Test {
    fn covers(&self, narrow: &Self) -> bool {
        match (self, narrow) {
            (Self::Principal(wide), narrow) if narrow.is_identity() && wide.has_present() => true,
            (Self::Principal(wide), Self::Principal(narrow))
            | (Self::Namespace(wide), Self::Namespace(narrow))
            | (Self::TrustDomain(wide), Self::TrustDomain(narrow)) => wide.covers(narrow),
            (Self::Account(wide), Self::Account(narrow)) => narrow.iter().all(|pair| wide.matches(Some(pair)).holds()),
            (Self::Namespace(wide), Self::Account(narrow)) => {
                narrow.iter().all(|(namespace, _)| wide.matches(Some(namespace)).holds())
            }
            (Self::SourceIp(wide), Self::SourceIp(narrow))
            | (Self::DestinationIp(wide), Self::DestinationIp(narrow)) => wide.covers(narrow),
            (Self::DestinationPort(wide), Self::DestinationPort(narrow)) => wide.covers(narrow),
            (wide, Self::Principal(narrow)) => narrow.only_exact().is_some_and(|ids| wide.covers_identities(ids)),
            _ => false,
        }
    }

    /// Whether each of these principals matches, by the namespace, account or trust domain that it names.
    fn covers_identities(&self, principals: &[String]) -> bool {
        let named: Option<BTreeSet<_>> =
            principals.iter().map(|principal| parse_identity(&format!("spiffe://{principal}"))).collect();
        named.is_some_and(|named| {
            named.iter().all(|(domain, namespace, account)| match self {
                Self::Namespace(wide) => wide.matches(Some(namespace)).holds(),
                Self::TrustDomain(wide) => wide.matches(Some(domain.as_str())).holds(),
                Self::Account(wide) => wide.matches(Some((namespace, account))).holds(),
                _ => false,
            })
        })
    }
}
