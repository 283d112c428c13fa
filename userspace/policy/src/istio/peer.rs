//! PeerAuthentication.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Complaint, selector};
use crate::{
    address::parse_port,
    model::{MtlsMode, PeerAuthentication, Selector},
};

/// What the webhook has against a PeerAuthentication.
pub(super) fn check(spec: &Value, complaints: &mut Vec<Complaint>, warnings: &mut Vec<Complaint>) {
    if let Some(chosen) = selector::present(spec, "selector") {
        let spec = serde_json::json!({ "selector": chosen });
        selector::check(&spec, complaints, warnings);
    }
    let Some(ports) = selector::present(spec, "portLevelMtls").and_then(Value::as_object) else { return };
    if ports.is_empty() {
        complaints.push(Complaint::new(
            "spec.portLevelMtls",
            "too_few",
            "port level mTLS, if defined, must have at least one element",
            "leave the field out or fill it",
        ));
    } else if matches!(selector::read(Some(spec)), Selector::Namespace) {
        complaints.push(Complaint::new(
            "spec.portLevelMtls",
            "ports_need_selector",
            "mesh/namespace peer authentication cannot have port level mTLS",
            "add spec.selector.matchLabels: ports belong to workloads",
        ));
    }
    let mut seen = BTreeMap::new();
    for key in ports.keys() {
        check_port(key, complaints);
        if let Ok(port) = parse_port(key)
            && let Some(other) = seen.insert(port, key)
        {
            let text = format!("{key:?} and {other:?} are the same port");
            complaints.push(Complaint::new(port_field(key), "duplicate_port", text, "keep one of them"));
        }
    }
}

/// A key of `portLevelMtls`.
pub(super) fn check_port(key: &str, complaints: &mut Vec<Complaint>) {
    if !matches!(parse_port(key), Ok(1..)) {
        complaints.push(Complaint::new(
            port_field(key),
            "bad_port",
            "port must be in range 1..65535",
            "write the workload's port as a number, in quotes",
        ));
    }
}

fn port_field(key: &str) -> String {
    format!("spec.portLevelMtls[{key}]")
}

/// Reads what passed the checks.
pub(super) fn read(object: &Value) -> PeerAuthentication {
    let spec = object.get("spec");
    let ports = spec.and_then(|s| s.get("portLevelMtls")).and_then(Value::as_object);
    PeerAuthentication {
        name: selector::name_of(object),
        selector: selector::read(spec),
        mode: mode(spec.and_then(|s| s.get("mtls"))),
        port_modes: ports
            .into_iter()
            .flatten()
            .filter_map(|(port, setting)| Some((parse_port(port).ok()?, mode(Some(setting)))))
            .collect(),
        created: created(object),
        invalid: None,
    }
}

fn mode(setting: Option<&Value>) -> MtlsMode {
    match setting.and_then(|s| s.get("mode")).and_then(Value::as_str) {
        Some("DISABLE") => MtlsMode::Disable,
        Some("PERMISSIVE") => MtlsMode::Permissive,
        Some("STRICT") => MtlsMode::Strict,
        _ => MtlsMode::Unset,
    }
}

/// `metadata.creationTimestamp`, in seconds since the epoch.
fn created(object: &Value) -> i64 {
    let text = object.get("metadata").and_then(|m| m.get("creationTimestamp")).and_then(Value::as_str);
    text.and_then(|text| text.parse::<jiff::Timestamp>().ok()).map_or(0, jiff::Timestamp::as_second)
}
