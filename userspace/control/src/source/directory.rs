//! All files of the directory, and whether it may be trusted.

use std::{
    fs::{self, File as OsFile, Metadata},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use culvert_manifests::File;
use nix::unistd::geteuid;

/// Largest file that is read, in bytes.
const LARGEST: u64 = 16 << 20;
/// Bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// Why the directory as a whole is not taken.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is not there, or it cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not a directory.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// Whoever may write to it could write policies.
    #[error("{path} has mode {mode:04o}: group or others may write to it; chmod go-w")]
    Writable {
        /// Which directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Its owner may change the mode and write policies.
    #[error("{path} belongs to uid {uid}, which is neither root nor who this runs as; chown it")]
    Owner {
        /// Which directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Nothing in it: rather a mistake than a mesh of nobody.
    #[error("{0} holds no object (*.yaml, *.yml, *.json)")]
    Empty(PathBuf),
}

impl DirectoryError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "manifests_unreadable",
            Self::NotADirectory(_) => "manifests_not_a_directory",
            Self::Writable { .. } => "manifests_writable_by_others",
            Self::Owner { .. } => "manifests_of_another_owner",
            Self::Empty(_) => "manifests_empty",
        }
    }
}

/// Reads all `*.yaml`, `*.yml` and `*.json` of a directory; hidden files and subfolders are passed over.
pub fn read_files(path: &Path) -> Result<Vec<File>, DirectoryError> {
    let io = |source| DirectoryError::Io { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(io)?;
    if !metadata.is_dir() {
        return Err(DirectoryError::NotADirectory(path.to_owned()));
    }
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Err(DirectoryError::Writable { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    if !is_trusted(metadata.uid()) {
        return Err(DirectoryError::Owner { path: path.to_owned(), uid: metadata.uid() });
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
        if ours && !name.starts_with('.') {
            match read_file(&entry.path()) {
                Ok(text) => files.extend(text.map(|text| File { name, text: Ok(text) })),
                Err(why) => files.push(File { name, text: Err(why) }),
            }
        }
    }
    if files.is_empty() {
        return Err(DirectoryError::Empty(path.to_owned()));
    }
    Ok(files)
}

/// `None`: gone since it was listed, or a folder.
fn read_file(path: &Path) -> Result<Option<String>, String> {
    // A pipe would be waited for until somebody writes to it.
    let open = OsFile::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let mut file = match open {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return gone(path),
        other => other.map_err(|error| error.to_string())?,
    };
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if metadata.is_dir() {
        return Ok(None);
    }
    if !metadata.is_file() {
        return Err("it is a pipe, a socket or a device and not a file".to_owned());
    }
    check_file(&metadata)?;
    let mut bytes = Vec::new();
    file.by_ref().take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LARGEST {
        return Err("it is larger than 16 MiB".to_owned());
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8".to_owned())
}

/// Of a symlink that leads nowhere nobody knows what it said: that is not the same as removed.
fn gone(path: &Path) -> Result<Option<String>, String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(metadata) if metadata.is_symlink() => Err("it is a symlink that leads nowhere".to_owned()),
        Ok(_) => Err("it was replaced while it was read".to_owned()),
    }
}

fn check_file(metadata: &Metadata) -> Result<(), String> {
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return Err(format!("its mode is {mode:04o}: group or others may write to it; chmod go-w"));
    }
    if !is_trusted(metadata.uid()) {
        return Err(format!("it belongs to uid {}, neither root nor who this runs as; chown it", metadata.uid()));
    }
    Ok(())
}

fn is_trusted(owner: u32) -> bool {
    owner == 0 || owner == geteuid().as_raw()
}
