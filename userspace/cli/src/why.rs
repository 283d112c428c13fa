//! Why a connection would be or not be.

use serde_json::Value;

use crate::table::{cell, items};

/// For people.
pub(crate) fn text(why: &Value) -> String {
    let verdict = if why["allowed"] == true { "ALLOWED" } else { "REFUSED" };
    let mut text = format!(
        "{} -> {} port {}: {verdict} ({})\n",
        end(&why["source"]),
        end(&why["destination"]),
        why["port"],
        cell(&why["reason"])
    );
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("  {name:<12}{value}\n"));
        }
    };
    line("over", cell(&why["transport"]));
    line("source", identity(&why["source"]));
    line("destination", identity(&why["destination"]));
    line("known by", cell(&why["identity_from"]));
    line("decided by", decider(why));
    for miss in items(&why["explanation"]["near_misses"]) {
        line("near miss", near_miss(miss));
    }
    for audited in items(&why["explanation"]["observed"]["audited"]) {
        line("audit", format!("{} rule {} matches or may match", policy(&audited["policy"]), audited["rule"]));
    }
    for would in items(&why["explanation"]["observed"]["would"]) {
        line("dry run", format!("{} {}", policy(&would["policy"]), cell(&would["result"])));
    }
    for note in items(&why["notes"]) {
        line("note", cell(note));
    }
    text
}

fn end(end: &Value) -> String {
    match end["pod"].as_str() {
        Some(pod) => format!("{pod} ({})", cell(&end["address"])),
        None => cell(&end["address"]),
    }
}

fn identity(end: &Value) -> String {
    match (end["identity"].as_str(), end["node"].as_str()) {
        (Some(identity), Some(node)) => format!("{identity} on {node}"),
        (Some(identity), None) => identity.to_owned(),
        (None, _) => "no identity".to_owned(),
    }
}

fn decider(why: &Value) -> String {
    match (why["policy"].as_str(), why["rule"].as_u64()) {
        (Some(policy), Some(rule)) => format!("{policy} rule {rule}"),
        (Some(policy), None) => policy.to_owned(),
        (None, _) => String::new(),
    }
}

fn near_miss(miss: &Value) -> String {
    let wanted = items(&miss["wanted"]).iter().map(cell).collect::<Vec<_>>().join(", ");
    format!("{} {}: wants [{wanted}], has {}", policy(&miss["policy"]), cell(&miss["field"]), cell(&miss["have"]))
}

/// `namespace/name`, whether it comes as text or in two fields.
fn policy(name: &Value) -> String {
    match name.as_str() {
        Some(text) => text.to_owned(),
        None => format!("{}/{}", cell(&name["namespace"]), cell(&name["name"])),
    }
}
