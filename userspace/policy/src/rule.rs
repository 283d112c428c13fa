//! Rules in normal form: what the engine evaluates, independent of the syntax they were written in.
//!
//! A rule is clauses (AND) of matches (OR) of fields (AND). A rule without clauses and a clause without matches hold
//! always; a match without fields says nothing and is *unknown*, so that it neither lets in nor stands aside.

mod build;
mod test;

use std::sync::Arc;

use crate::{
    connection::Facts,
    model::{Action, PolicyName},
    truth::Truth,
};

pub use test::{Accounts, Blocks, Ports, Test};

/// A policy in normal form, selected for a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPolicy {
    /// Its name.
    pub name: PolicyName,
    /// What a match means.
    pub action: Action,
    /// Evaluated and reported, never enforced.
    pub dry_run: bool,
    /// OR of these; none never matches.
    pub rules: Vec<NormalRule>,
    /// Set where the object could not be understood: it refuses everything.
    pub invalid: Option<Arc<str>>,
}

/// One rule: AND of clauses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NormalRule {
    /// AND of these.
    pub clauses: Vec<Clause>,
}

/// OR of matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Clause {
    /// OR of these.
    pub matches: Vec<Match>,
}

/// AND of fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// AND of these.
    pub fields: Vec<Field>,
}

/// One field of a rule: an attribute and the values that it is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Where it is written, from the rule on: `from[0].source.notPrincipals`.
    pub path: Arc<str>,
    /// The values as written.
    pub wanted: Arc<[String]>,
    /// Holds when *no* value matches.
    pub negated: bool,
    /// The comparison.
    pub test: Test,
}

impl NormalRule {
    /// What the rule says of a connection.
    pub fn truth(&self, facts: &Facts<'_>) -> Truth {
        Truth::all(self.clauses.iter().map(|clause| clause.truth(facts)))
    }

    /// The first field, in the order of the manifest, that keeps the rule from being true.
    pub fn first_failing(&self, facts: &Facts<'_>) -> Option<&Field> {
        let clause = self.clauses.iter().find(|clause| !clause.truth(facts).holds())?;
        clause.matches.iter().flat_map(|m| &m.fields).find(|field| !field.truth(facts).holds())
    }

    /// All fields.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.clauses.iter().flat_map(|clause| &clause.matches).flat_map(|m| &m.fields)
    }
}

impl Clause {
    /// What the clause says of a connection.
    pub fn truth(&self, facts: &Facts<'_>) -> Truth {
        if self.matches.is_empty() { Truth::True } else { Truth::any(self.matches.iter().map(|m| m.truth(facts))) }
    }
}

impl Match {
    /// What the match says of a connection.
    pub fn truth(&self, facts: &Facts<'_>) -> Truth {
        if self.fields.is_empty() { Truth::Unknown } else { Truth::all(self.fields.iter().map(|f| f.truth(facts))) }
    }
}

impl Field {
    /// What the field says of a connection.
    pub fn truth(&self, facts: &Facts<'_>) -> Truth {
        let matched = self.test.truth(facts);
        if self.negated { !matched } else { matched }
    }
}

impl NormalPolicy {
    /// The number and truth of the first rule that is at least this true.
    pub fn first_rule(&self, facts: &Facts<'_>, at_least: Truth) -> Option<(usize, Truth)> {
        self.rules.iter().map(|rule| rule.truth(facts)).enumerate().find(|(_, truth)| *truth >= at_least)
    }
}
