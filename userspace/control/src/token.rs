//! Join tokens: one node, one use, one hour. Only their hash is kept.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use culvert_identity::{SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::state_dir::{StateDir, StateError};

/// How long a token may wait for its use.
pub const LIFE: Duration = Duration::from_secs(3600);
const FOLDER: &str = "tokens";
/// Longest token that is looked at, in bytes: a node's name has at most 253.
const LONGEST: usize = 512;

/// The tokens that have been given out and not been used.
#[derive(Debug)]
pub struct Tokens {
    folder: StateDir,
    /// Looking a token up and taking it away is one step.
    taking: Mutex<()>,
}

/// What is kept of a token.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    node: String,
    /// SHA-256 of the secret, hex.
    sha256: String,
    /// Seconds since the epoch.
    expires: u64,
}

/// Why a token was refused. Callers are told no more than "refused"; the audit log has the reason.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not `NODE.SECRET`.
    #[error("not a join token")]
    Malformed,
    /// No token waits for this node: never given out, used, or replaced.
    #[error("no join token waits for this node")]
    Unknown,
    /// The secret is another one: of another node, or of an earlier token.
    #[error("the join token is not the one that was given out for this node")]
    Wrong,
    /// Given out more than an hour ago.
    #[error("the join token has expired")]
    Expired,
    /// A node's name that does not fit in a SPIFFE ID.
    #[error("{0:?} is not the name of a node")]
    NodeName(String),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
}

impl TokenError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Unknown => "token_unknown",
            Self::Wrong => "token_wrong",
            Self::Expired => "token_expired",
            Self::NodeName(_) => "bad_node_name",
            Self::State(error) => error.reason(),
        }
    }
}

impl Tokens {
    /// The tokens of a state folder.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        Ok(Self { folder: state.folder(FOLDER)?, taking: Mutex::new(()) })
    }

    /// Gives out a token for a node; it replaces the one that the node may still have.
    pub fn give(&self, node: &str, now: SystemTime) -> Result<Zeroizing<String>, TokenError> {
        let file = file_of(node)?;
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(rand::random());
        let secret = Zeroizing::new(hex::encode(*secret));
        let kept = Kept { node: node.to_owned(), sha256: hash(&secret), expires: seconds(now + LIFE) };
        let text = serde_json::to_vec(&kept).unwrap_or_default();
        self.folder.write(&file, &text)?;
        Ok(Zeroizing::new(format!("{node}.{}", *secret)))
    }

    /// Takes a token: the node that it is for, once.
    pub fn take(&self, token: &str, now: SystemTime) -> Result<String, TokenError> {
        let (node, secret) = token.rsplit_once('.').filter(|_| token.len() <= LONGEST).ok_or(TokenError::Malformed)?;
        let file = file_of(node).map_err(|_| TokenError::Malformed)?;
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.folder.read(&file).map_err(|error| match error.is_missing() {
            true => TokenError::Unknown,
            false => error.into(),
        })?;
        let kept: Kept = serde_json::from_slice(&kept).map_err(|_| TokenError::Unknown)?;
        let same = kept.sha256.as_bytes().ct_eq(hash(secret).as_bytes());
        if !bool::from(same) || kept.node != node {
            return Err(TokenError::Wrong);
        }
        self.folder.remove(&file)?;
        if seconds(now) >= kept.expires {
            return Err(TokenError::Expired);
        }
        Ok(kept.node)
    }
}

/// A node's name must be one that a certificate can carry; then it is a file name as well.
fn file_of(node: &str) -> Result<String, TokenError> {
    let any = TrustDomain::parse("td").map_err(|_| TokenError::Malformed)?;
    match SpiffeId::of_node(&any, node) {
        Ok(_) if !node.is_empty() && node.len() <= 253 => Ok(format!("{node}.json")),
        _ => Err(TokenError::NodeName(node.to_owned())),
    }
}

fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
