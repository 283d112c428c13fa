//! Keeping the node's certificate across a restart of the agent, in a file system that lives in memory.
//!
//! Workload keys are never kept: they are asked for again. The node's own key has to survive a killed
//! agent, because the token that it was bought with is spent; it still never touches a disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use culvert_identity::{TrustDomain, x509};
use culvert_mtls::{Credentials, CredentialsError};
use nix::{
    libc::O_NOFOLLOW,
    sys::statfs::{FsType, TMPFS_MAGIC, fstatfs},
    unistd::geteuid,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::NodeCredentials;
use crate::{IssueError, Key};

const FILE: &str = "node.pem";
/// `RAMFS_MAGIC` of linux/magic.h, which nix does not name.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Why the node's certificate was not kept or not taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{path}: {cause}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The folder is on a disk.
    #[error("{0} is not on tmpfs or ramfs: a private key would reach a disk; use a folder below /run")]
    NotInMemory(PathBuf),
    /// Somebody else owns the file, or others may read it.
    #[error("{0} is not a file of this user with mode 0600; remove it and join again")]
    Exposed(PathBuf),
    /// The content is not a node certificate with its key.
    #[error("{0} does not hold a node certificate with its key; remove it and join again")]
    Unusable(PathBuf, #[source] Option<CredentialsError>),
}

impl StoreError {
    /// The stable word for logs, metric labels and status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "store_io",
            Self::NotInMemory(_) => "store_not_in_memory",
            Self::Exposed(_) => "store_exposed",
            Self::Unusable(..) => "store_unusable",
        }
    }
}

/// Keeps a node's certificate in `folder` (mode 0700, on tmpfs), replacing the former one at once.
pub fn save(folder: &Path, node: &NodeCredentials) -> Result<(), StoreError> {
    save_parts(folder, &node.key, &node.credentials)
}

pub(super) fn save_parts(folder: &Path, key: &Key, credentials: &Credentials) -> Result<(), StoreError> {
    let path = folder.join(FILE);
    let fresh = folder.join(format!("{FILE}.new"));
    let text = to_pem(key, credentials).ok_or_else(|| StoreError::Unusable(path.clone(), None))?;
    let _ = fs::remove_file(&fresh);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).custom_flags(O_NOFOLLOW);
    let mut file = options.open(&fresh).map_err(at(&fresh))?;
    let written = in_memory(&file, &fresh).and_then(|()| file.write_all(text.as_bytes()).map_err(at(&fresh)));
    if let Err(error) = written {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    fs::rename(&fresh, &path).map_err(at(&path))
}

/// Takes a kept certificate: `None` if there is none. An ended one is returned too; whoever uses it will
/// be told `svid_expired` and needs a new token.
pub fn load(folder: &Path, domain: &TrustDomain) -> Result<Option<NodeCredentials>, StoreError> {
    let path = folder.join(FILE);
    let mut file = match OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path)(error)),
    };
    let meta = file.metadata().map_err(at(&path))?;
    if !meta.is_file() || meta.uid() != geteuid().as_raw() || meta.mode() & 0o077 != 0 {
        return Err(StoreError::Exposed(path));
    }
    in_memory(&file, &path)?;
    let mut text = Zeroizing::new(Vec::with_capacity(16 * 1024));
    file.read_to_end(&mut text).map_err(at(&path))?;
    let node = of_pem(&text).map_err(|error| StoreError::Unusable(path.clone(), error))?;
    if node.id().trust_domain() != *domain || node.id().node().is_none() {
        return Err(StoreError::Unusable(path, None));
    }
    Ok(Some(node))
}

fn in_memory(file: &File, path: &Path) -> Result<(), StoreError> {
    let kind = fstatfs(file).map_err(|errno| at(path)(errno.into()))?.filesystem_type();
    if kind == TMPFS_MAGIC || kind == RAMFS_MAGIC {
        return Ok(());
    }
    Err(StoreError::NotInMemory(path.to_path_buf()))
}

fn to_pem(key: &Key, credentials: &Credentials) -> Option<Zeroizing<String>> {
    let document = key.pair().to_pkcs8v1().ok()?;
    let encode = |tag: &str, bytes: &[u8]| pem::encode(&pem::Pem::new(tag, bytes));
    let secret = Zeroizing::new(encode("PRIVATE KEY", document.as_ref()));
    let public: String = credentials.chain().iter().map(|der| encode("CERTIFICATE", der)).collect();
    let mut text = Zeroizing::new(String::with_capacity(public.len() + secret.len()));
    text.push_str(&public);
    text.push_str(&secret);
    Some(text)
}

fn of_pem(text: &[u8]) -> Result<NodeCredentials, Option<CredentialsError>> {
    let (chain, _) = x509::load_chain_pem(text).map_err(|e| Some(CredentialsError::Profile(e)))?;
    let blocks = pem::parse_many(text).map_err(|_| None)?;
    let secret = blocks.into_iter().find(|block| block.tag() == "PRIVATE KEY").ok_or(None)?;
    let secret = Zeroizing::new(secret.into_contents());
    let bad_key = |text: &str| Some(CredentialsError::BadKey(text.to_owned()));
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &secret)
        .map_err(|rejected| bad_key(&rejected.to_string()))?;
    let key = Key::of(pair).map_err(|error: IssueError| bad_key(&error.to_string()))?;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let credentials = Credentials::new(chain, key.signing()).map_err(Some)?;
    Ok(NodeCredentials { key, credentials })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |cause| StoreError::Io { path: path.to_path_buf(), cause }
}
