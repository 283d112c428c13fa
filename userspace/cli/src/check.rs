//! Whether this machine has what culvert needs.

use std::path::Path;

use serde_json::{Value, json};

use crate::table::{cell, items, table};

/// What was looked at; changes nothing on the machine.
pub(crate) fn findings(bpffs: &Path) -> Value {
    let finding = |one: culvert_redirect::Finding| json!({ "name": one.name, "ok": one.ok, "detail": one.detail, "remedy": one.remedy });
    culvert_redirect::check_machine(bpffs).into_iter().map(finding).collect()
}

/// Nothing is missing, and something was looked at.
pub(crate) fn all_good(findings: &Value) -> bool {
    let findings = items(findings);
    !findings.is_empty() && findings.iter().all(|one| one["ok"] == true)
}

/// Nothing that was found of a cluster stands in the way.
pub(crate) fn possible(findings: &Value) -> bool {
    let findings = items(findings);
    !findings.is_empty() && findings.iter().all(|one| one["fatal"] == false)
}

/// What was found of a cluster, for people.
pub(crate) fn cluster_text(findings: &Value) -> String {
    let row = |one: &Value| {
        let verdict = match (one["ok"] == true, one["fatal"] == true) {
            (true, _) => "ok",
            (false, false) => "NOTE",
            (false, true) => "FAILS",
        };
        vec![verdict.to_owned(), cell(&one["name"]), cell(&one["detail"]), cell(&one["remedy"])]
    };
    let rows: Vec<_> = items(findings).iter().map(row).collect();
    let verdict =
        if possible(findings) { "culvert can be installed here" } else { "culvert cannot be installed here yet" };
    format!("{}\n{verdict}\n", table(&["", "WHAT", "FOUND", "REMEDY"], &rows))
}

/// For people.
pub(crate) fn text(findings: &Value) -> String {
    let row = |one: &Value| {
        let verdict = if one["ok"] == true { "ok" } else { "MISSING" };
        vec![verdict.to_owned(), cell(&one["name"]), cell(&one["detail"]), cell(&one["remedy"])]
    };
    let rows: Vec<_> = items(findings).iter().map(row).collect();
    let verdict =
        if all_good(findings) { "this machine can run culvert" } else { "this machine cannot run culvert yet" };
    format!("{}\n{verdict}\n", table(&["", "WHAT", "FOUND", "REMEDY"], &rows))
}
