//! What survives a restart: the generation, the last good version of each object, and reported addresses.

use std::{collections::BTreeMap, net::IpAddr};

use culvert_manifests::{Catalog, SavedObject};
use culvert_workload::WorkloadUid;
use serde::{Deserialize, Serialize};

use super::Reported;
use crate::state_dir::{StateDir, StateError};

const FILE: &str = "last-good.json";
const FORMAT: u32 = 1;

/// What was kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// The last generation that was published.
    pub generation: u64,
    /// The last good version of each object.
    pub catalog: Catalog,
    /// What agents had reported.
    pub reported: Reported,
}

/// Why what was kept cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// Not what this version writes.
    #[error("last-good.json cannot be read ({0}); move it away to begin without last good versions")]
    Format(String),
}

impl KeepError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::State(error) => error.reason(),
            Self::Format(_) => "last_good_unreadable",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    format: u32,
    generation: u64,
    objects: Vec<SavedObject>,
    reported: BTreeMap<String, BTreeMap<String, Vec<IpAddr>>>,
}

/// Loads what was kept; nothing where there is nothing.
pub fn load(state: &StateDir) -> Result<Kept, KeepError> {
    let bytes = match state.read(FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(Kept::default()),
        Err(error) => return Err(error.into()),
    };
    let on_disk: OnDisk = serde_json::from_slice(&bytes).map_err(|error| KeepError::Format(error.to_string()))?;
    if on_disk.format != FORMAT {
        return Err(KeepError::Format(format!("format {}, not {FORMAT}", on_disk.format)));
    }
    let pods = |pods: BTreeMap<String, Vec<IpAddr>>| {
        pods.into_iter().map(|(uid, addresses)| (WorkloadUid::new(&uid), addresses)).collect()
    };
    Ok(Kept {
        generation: on_disk.generation,
        catalog: Catalog::restore(on_disk.objects),
        reported: on_disk.reported.into_iter().map(|(node, of_node)| (node, pods(of_node))).collect(),
    })
}

/// Replaces what was kept.
pub(super) fn save(state: &StateDir, generation: u64, catalog: &Catalog, reported: &Reported) -> Result<(), KeepError> {
    let pods = |pods: &BTreeMap<WorkloadUid, Vec<IpAddr>>| {
        pods.iter().map(|(uid, addresses)| (uid.to_string(), addresses.clone())).collect()
    };
    let on_disk = OnDisk {
        format: FORMAT,
        generation,
        objects: catalog.saved(),
        reported: reported.iter().map(|(node, of_node)| (node.clone(), pods(of_node))).collect(),
    };
    let bytes = serde_json::to_vec(&on_disk).map_err(|error| KeepError::Format(error.to_string()))?;
    Ok(state.write(FILE, &bytes)?)
}
