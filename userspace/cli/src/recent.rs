//! Connections: those that ended last, and those that are open.

use serde_json::Value;

use crate::table::{cell, items, table};

/// The last outcomes, oldest first.
pub(crate) fn outcomes(records: &Value) -> String {
    let row = |record: &Value| {
        vec![
            cell(&record["time"]),
            cell(&record["direction"]),
            party(&record["src"]),
            target(record),
            cell(&record["transport"]),
            cell(&record["outcome"]),
            reason(record),
            format!("{}/{}", record["from_client"], record["to_client"]),
            format!("{}ms", record["duration_ms"]),
        ]
    };
    let head = ["TIME", "DIRECTION", "SOURCE", "DESTINATION", "OVER", "OUTCOME", "WHY", "BYTES", "TOOK"];
    table(&head, &items(records).iter().map(row).collect::<Vec<_>>())
}

/// What is open now.
pub(crate) fn connections(open: &Value) -> String {
    let row = |one: &Value| {
        let record = &one["record"];
        vec![
            cell(&one["pod"]),
            cell(&record["direction"]),
            party(&record["src"]),
            target(record),
            cell(&record["transport"]),
            format!("{}/{}", one["from_client"], one["to_client"]),
        ]
    };
    let head = ["POD", "DIRECTION", "SOURCE", "DESTINATION", "OVER", "BYTES"];
    table(&head, &items(open).iter().map(row).collect::<Vec<_>>())
}

fn party(party: &Value) -> String {
    match (party["namespace"].as_str(), party["workload"].as_str()) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name} {}", cell(&party["addr"])),
        _ => cell(&party["addr"]),
    }
}

/// What the client meant: under HBONE the authority, not port 15008.
fn target(record: &Value) -> String {
    let mut party_of = record["dst"].clone();
    if let Some(authority) = record.get("hbone_addr").filter(|authority| !authority.is_null()) {
        party_of["addr"] = authority.clone();
    }
    party(&party_of)
}

fn reason(record: &Value) -> String {
    let policy = match (record["policy"].as_str(), record["rule"].as_u64()) {
        (Some(policy), Some(rule)) => format!("{policy} rule {rule}"),
        (Some(policy), None) => policy.to_owned(),
        (None, _) => String::new(),
    };
    [cell(&record["reason"]), policy].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
}
