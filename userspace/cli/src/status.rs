//! How a node stands.

use serde_json::Value;

use crate::table::{cell, items, table};

/// For people.
pub(crate) fn text(status: &Value) -> String {
    let connected =
        if status["control_connected"] == true { "connected" } else { "AWAY, going on with the last state" };
    let generation = match &status["generation"] {
        Value::Null => "nothing yet: no connection is admitted".to_owned(),
        generation => format!("generation {generation}"),
    };
    let mut text = format!("node {}   control plane {connected}, {generation}\n\n", cell(&status["node"]));
    text.push_str(&pods(items(&status["pods"])));
    for (uid, why) in status["closed"].as_object().into_iter().flatten() {
        text.push_str(&format!("pod {uid} is CLOSED: {}\n", cell(why)));
    }
    text.push('\n');
    text.push_str(&identities(items(&status["identities"])));
    let tunnels = &status["tunnels"];
    text.push_str(&format!(
        "\ntunnels: {} dialled ({} streams), {} served ({} streams)\nopen: {}\n",
        tunnels["dialled"],
        tunnels["dialled_streams"],
        tunnels["served"],
        tunnels["served_streams"],
        cell(&status["open"]),
    ));
    text
}

fn pods(pods: &[Value]) -> String {
    if pods.is_empty() {
        return "no pod is enrolled\n".to_owned();
    }
    let row = |pod: &Value| {
        let captured =
            if pod["captured"] == true { "yes".to_owned() } else { format!("NO: {}", cell(&pod["deviations"])) };
        vec![
            format!("{}/{}", cell(&pod["namespace"]), cell(&pod["name"])),
            cell(&pod["addresses"]),
            captured,
            cell(&pod["mtls"]),
            open(pod),
            cell(&pod["identity"]),
        ]
    };
    table(&["POD", "ADDRESSES", "CAPTURED", "MTLS", "OPEN", "IDENTITY"], &pods.iter().map(row).collect::<Vec<_>>())
}

/// Open connections, and those from before the enrolment, which are outside of the mesh.
fn open(pod: &Value) -> String {
    match pod["pre_enrolment"].as_u64() {
        None | Some(0) => cell(&pod["connections"]),
        Some(before) => format!("{} and {before} pre_enrolment", pod["connections"]),
    }
}

fn identities(identities: &[Value]) -> String {
    let row = |identity: &Value| {
        let expires = match identity["expires_in"].as_i64() {
            None => "no SVID".to_owned(),
            Some(left) if left < 0 => "EXPIRED".to_owned(),
            Some(left) => format!("{}m{:02}s", left / 60, left % 60),
        };
        vec![cell(&identity["identity"]), expires, cell(&identity["serial"]), cell(&identity["last_failure"])]
    };
    table(&["IDENTITY", "EXPIRES IN", "SERIAL", "LAST FAILURE"], &identities.iter().map(row).collect::<Vec<_>>())
}
