//! What survives a restart: the generation, the last good version of each object, and reported addresses.

use std::{collections::BTreeMap, net::IpAddr};

use culvert_manifests::{Catalog, SavedObject};
use culvert_workload::WorkloadUid;
use serde::{Deserialize, Serialize};

use super::Reported;
use culvert_wire::TrustBundle;

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
    /// The trust bundle's roots, and which edition of them it was.
    pub roots: Option<(Vec<Vec<u8>>, u64)>,
}

impl Kept {
    /// The edition of a bundle with these roots: the one that agents have, or one beyond all that they have seen (each
    /// change of the roots is another generation as well).
    pub fn sequence_of(&self, roots: &[Vec<u8>]) -> u64 {
        match &self.roots {
            Some((kept, sequence)) if kept == roots => *sequence,
            _ => self.generation + 1,
        }
    }
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
    #[serde(default)]
    roots: Option<RootsOnDisk>,
}

#[derive(Serialize, Deserialize)]
struct RootsOnDisk {
    /// DER, in hex.
    authorities: Vec<String>,
    sequence: u64,
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
    let roots = |roots: RootsOnDisk| {
        let ders = roots.authorities.iter().map(hex::decode).collect::<Result<_, _>>();
        ders.map(|ders| (ders, roots.sequence)).map_err(|error| KeepError::Format(format!("a root: {error}")))
    };
    Ok(Kept {
        roots: on_disk.roots.map(roots).transpose()?,
        generation: on_disk.generation,
        catalog: Catalog::restore(on_disk.objects),
        reported: on_disk.reported.into_iter().map(|(node, of_node)| (node, pods(of_node))).collect(),
    })
}

/// Replaces what was kept.
pub(super) fn save(
    state: &StateDir,
    generation: u64,
    catalog: &Catalog,
    reported: &Reported,
    bundle: &TrustBundle,
) -> Result<(), KeepError> {
    let pods = |pods: &BTreeMap<WorkloadUid, Vec<IpAddr>>| {
        pods.iter().map(|(uid, addresses)| (uid.to_string(), addresses.clone())).collect()
    };
    let on_disk = OnDisk {
        format: FORMAT,
        generation,
        objects: catalog.saved(),
        reported: reported.iter().map(|(node, of_node)| (node.clone(), pods(of_node))).collect(),
        roots: Some(RootsOnDisk {
            authorities: bundle.authorities.iter().map(hex::encode).collect(),
            sequence: bundle.sequence,
        }),
    };
    let bytes = serde_json::to_vec(&on_disk).map_err(|error| KeepError::Format(error.to_string()))?;
    Ok(state.write(FILE, &bytes)?)
}
