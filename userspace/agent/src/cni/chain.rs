//! Another CNI's configuration with ours chained behind it.

use serde_json::{Map, Value};

use super::PLUGIN;

/// Versions that the plugin answers (`culvert_cni::netconf::VERSIONS`; a test keeps them equal).
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Why nothing can be chained behind a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Not JSON, or not an object; perhaps only half written.
    #[error("it is no JSON object: {0}")]
    Unreadable(String),
    /// A configuration without a plugin.
    #[error("it names no plugin")]
    Empty,
    /// Results cannot be handed on, or ours does not understand them.
    #[error("its cniVersion is {0:?}; plugins can be chained from 0.3.1 to 1.1.0")]
    Version(String),
}

impl ChainError {
    /// Stable word for the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "cni_conf_unreadable",
            Self::Empty => "cni_conf_empty",
            Self::Version(_) => "cni_conf_version",
        }
    }
}

/// The list (`plugins`) or single plugin (`type`) of `text`, as a list that ends with `entry`. What was chained of ours
/// before is replaced.
pub fn chained(text: &[u8], entry: &Map<String, Value>) -> Result<Vec<u8>, ChainError> {
    let unreadable = |error: serde_json::Error| ChainError::Unreadable(error.to_string());
    let mut list: Map<String, Value> = serde_json::from_slice(text).map_err(unreadable)?;
    let version = list.get("cniVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !VERSIONS.contains(&version.as_str()) {
        return Err(ChainError::Version(version));
    }
    if !list.contains_key("plugins") {
        list = listed(list)?;
    }
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut).ok_or(ChainError::Empty)?;
    plugins.retain(|plugin| plugin.get("type").and_then(Value::as_str) != Some(PLUGIN));
    if plugins.is_empty() || !plugins.iter().all(Value::is_object) {
        return Err(ChainError::Empty);
    }
    plugins.push(Value::Object(entry.clone()));
    let mut text = serde_json::to_vec_pretty(&list).map_err(unreadable)?;
    text.push(b'\n');
    Ok(text)
}

/// A single plugin's configuration as a list of one: name and version are the list's.
fn listed(mut single: Map<String, Value>) -> Result<Map<String, Value>, ChainError> {
    if !single.get("type").is_some_and(Value::is_string) {
        return Err(ChainError::Empty);
    }
    let mut list = Map::new();
    for key in ["cniVersion", "name"] {
        list.extend(single.remove(key).map(|value| (key.to_owned(), value)));
    }
    list.insert("plugins".to_owned(), Value::Array(vec![Value::Object(single)]));
    Ok(list)
}
