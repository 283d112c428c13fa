//! PeerAuthentication objects of one workload, merged.

use std::collections::BTreeMap;

use anyhow::Result;
use culvert_policy::{
    DefaultMode, EffectiveMtls, MtlsMode, PeerAuthentication,
    istio::{self, Policy},
};
use serde_json::{Value, json};

use super::{Judged, Run, same};
use crate::case::Case;

/// As the README says.
const ROOT_NAMESPACE: &str = "root-namespace";

pub(crate) fn run(run: &mut Run<'_>) -> Result<()> {
    run.each(judge)
}

fn judge(case: &Case<'_>) -> Judged {
    let configs = case.field("configs").as_array().map(Vec::as_slice).unwrap_or_default();
    let objects = configs.iter().map(read).collect::<Result<Vec<_>, _>>().map_err(|e| ("objects".to_owned(), e))?;
    let got = EffectiveMtls::compose(ROOT_NAMESPACE, DefaultMode::Permissive, &objects);
    let wanted = case.expected("want");
    same((mode(&wanted["mode"]), wanted_ports(wanted)), (Some(got.mode), got.ports))
}

/// `meta` and `spec` make an object.
fn read(config: &Value) -> Result<PeerAuthentication, String> {
    let mut metadata = config["meta"].clone();
    if metadata["name"].as_str().is_none_or(str::is_empty) {
        metadata["name"] = json!("no-name");
    }
    let object = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": metadata,
        "spec": config.get("spec").filter(|spec| !spec.is_null()).cloned().unwrap_or_else(|| json!({})),
    });
    match istio::read(&object) {
        Some(Ok(istio::Accepted { policy: Policy::Authentication(mut policy), .. })) => {
            // A time may also be a number of seconds; only the order matters.
            if let Some(seconds) = config["meta"]["creationTimestamp"].as_i64() {
                policy.created = seconds;
            }
            Ok(policy)
        }
        Some(Err(rejected)) => Err(rejected.complaints.iter().map(ToString::to_string).collect()),
        _ => Err("not a PeerAuthentication".to_owned()),
    }
}

/// Modes by port are the one member besides `mode`.
fn wanted_ports(wanted: &Value) -> BTreeMap<u16, MtlsMode> {
    let members = wanted.as_object().into_iter().flatten().filter(|(name, _)| *name != "mode");
    members
        .flat_map(|(_, ports)| ports.as_object().into_iter().flatten())
        .filter_map(|(port, setting)| Some((port.parse().ok()?, mode(setting)?)))
        .collect()
}

fn mode(name: &Value) -> Option<MtlsMode> {
    match name.as_str()? {
        "DISABLE" => Some(MtlsMode::Disable),
        "PERMISSIVE" => Some(MtlsMode::Permissive),
        "STRICT" => Some(MtlsMode::Strict),
        _ => None,
    }
}
