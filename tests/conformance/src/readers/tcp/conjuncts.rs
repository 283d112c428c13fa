//! Field by field: a rule of many fields may match nothing at all, and would agree with anything that matches nothing.
//! So the parts of a conjunction are compared too, each as what it says of a row of connections.

use std::collections::BTreeSet;

use culvert_policy::{
    Action, AuthorizationPolicy, Connection, MeshSettings, Truth,
    rule::{NormalPolicy, NormalRule},
};

use super::{Judged, Upstream};
use crate::envoy::Node;

/// What a condition says of each sample.
type Column = Vec<Truth>;

/// Every part of Envoy's conjunction must be a field of the rule, and the other way round. What is unknown on either side
/// or always true in Envoy (L7 fields it dropped) is left out.
pub(super) fn agree(
    policies: &[AuthorizationPolicy],
    settings: &MeshSettings,
    upstream: &Upstream,
    samples: &[Connection],
) -> Judged {
    for policy in policies {
        let normal = NormalPolicy::of(policy, &settings.domains);
        let shadow = normal.dry_run || normal.action == Action::Custom;
        for (index, rule) in normal.rules.iter().enumerate() {
            let parts = upstream.find(&normal.name, index, shadow).and_then(Node::conjuncts);
            let (Some(parts), true) = (parts, is_conjunction(rule)) else { continue };
            let wanted: BTreeSet<Column> =
                parts.iter().map(|part| column(samples, |c| part.truth(&c.facts()))).collect();
            let got: BTreeSet<Column> =
                rule.fields().map(|field| column(samples, |c| field.truth(&c.facts()))).collect();
            let says = |column: &&Column| !constant(column, Truth::Unknown) && !constant(column, Truth::True);
            if !wanted.iter().filter(says).eq(got.iter().filter(says)) {
                return Err((
                    format!("the fields of {} rule {index} as in Envoy", normal.name),
                    differences(rule, &wanted, samples),
                ));
            }
        }
    }
    Ok(())
}

/// One entry each in `from` and `to`.
fn is_conjunction(rule: &NormalRule) -> bool {
    rule.clauses.iter().all(|clause| clause.matches.len() == 1)
}

fn column(samples: &[Connection], says: impl Fn(&Connection) -> Truth) -> Column {
    samples.iter().map(says).collect()
}

fn constant(column: &Column, truth: Truth) -> bool {
    column.iter().all(|one| *one == truth)
}

fn differences(rule: &NormalRule, wanted: &BTreeSet<Column>, samples: &[Connection]) -> String {
    let differs = |field: &&culvert_policy::rule::Field| {
        let column = column(samples, |c| field.truth(&c.facts()));
        !wanted.contains(&column) && !constant(&column, Truth::Unknown)
    };
    let fields: Vec<_> = rule.fields().filter(differs).map(|field| field.path.to_string()).collect();
    format!("no such condition in Envoy: [{}]; others are missing here", fields.join(", "))
}
