//! culvert on a whole cluster, without Helm: what the chart puts there, put there, looked after and taken away.

mod api;
pub mod check;
mod definitions;
mod error;
mod install;
mod nodes;
mod objects;
mod ready;
#[cfg(test)]
mod tests;
mod uninstall;

pub use api::{Access, Api, ApiError, Server};
pub use error::ClusterError;
pub use install::install;
pub use objects::{Options, objects, to_yaml};
pub use uninstall::{Leave, uninstall};

/// Told what is done, line by line, while it is done.
pub type Say<'a> = &'a (dyn Fn(String) + Sync);

/// What of an object says whose it is.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Whose: this command's.
pub(crate) const OURS: &str = "culvert";
/// How this command signs fields that it sets.
pub(crate) const FIELD_MANAGER: &str = "culvert-install";

/// `Kind namespace/name`, as errors and progress name objects.
pub(crate) fn title(object: &serde_json::Value) -> String {
    let word = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
    let (kind, name) = (word(&object["kind"]), word(&object["metadata"]["name"]));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
