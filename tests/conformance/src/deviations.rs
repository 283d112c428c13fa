//! `deviations.json`: cases where culvert answers differently on purpose.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::directory::Directory;

const FILE: &str = "deviations.json";

/// All deviations of a directory.
pub(crate) struct Deviations(Vec<Deviation>);

/// One of them. `upstream` and `why` are for people.
#[derive(Deserialize)]
struct Deviation {
    file: String,
    case: String,
    /// The value to expect instead of upstream's; `null` is a value.
    #[serde(default, deserialize_with = "present")]
    culvert: Option<Value>,
    /// Run the case only in this mode of operation.
    mode: Option<String>,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Deviations {
    /// Reads the file; a directory without one has no deviations.
    pub(crate) fn read(directory: &Directory) -> Result<Self> {
        if directory.files().all(|file| file != FILE) {
            return Ok(Self(Vec::new()));
        }
        serde_json::from_value(directory.json(FILE)?).map(Self).with_context(|| format!("{FILE} is not as documented"))
    }

    /// The value that is expected of the case instead of upstream's.
    pub(crate) fn expected(&self, file: &str, case: &str) -> Option<&Value> {
        self.0.iter().filter(|deviation| deviation.is_for(file, case)).find_map(|d| d.culvert.as_ref())
    }

    /// The mode that the case is for, where it is not the default one.
    pub(crate) fn mode(&self, file: &str, case: &str) -> Option<&str> {
        self.0.iter().filter(|deviation| deviation.is_for(file, case)).find_map(|d| d.mode.as_deref())
    }
}

impl Deviation {
    fn is_for(&self, file: &str, case: &str) -> bool {
        self.file == file && (self.case == "*" || self.case == case)
    }
}
