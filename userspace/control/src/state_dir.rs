//! The state folder: 0700, its files 0600, all of them ours, none of them a symbolic link.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{libc, unistd::geteuid};

/// Largest file that is read from it, in bytes.
const LARGEST: u64 = 256 << 20;

/// A state folder whose owner and mode have been checked.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// Why the state folder, or a file in it, was not used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The kernel said no.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A symbolic link could lead anywhere.
    #[error("{0} is a symbolic link; put the file itself there")]
    Symlink(PathBuf),
    /// Neither a folder nor a regular file, whichever is needed.
    #[error("{0} is of the wrong type")]
    WrongType(PathBuf),
    /// Somebody else could read or write it.
    #[error("{path} has mode {mode:04o}; nobody but its owner may use it: chmod {wanted:04o}")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// What it has.
        mode: u32,
        /// What it should have.
        wanted: u32,
    },
    /// It belongs to somebody else.
    #[error("{path} belongs to user {owner}, not to the user that runs this, {us}")]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// More than anybody would write.
    #[error("{0} is larger than 256 MiB")]
    TooLarge(PathBuf),
}

impl StateError {
    /// The stable word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "state_io",
            Self::Symlink(_) => "state_symlink",
            Self::WrongType(_) => "state_wrong_type",
            Self::Mode { .. } => "state_mode",
            Self::Owner { .. } => "state_owner",
            Self::TooLarge(_) => "state_too_large",
        }
    }

    /// Is it only that there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl StateDir {
    /// Opens the folder, making it where it is missing (its parent must exist).
    pub fn open(path: &Path) -> Result<Self, StateError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(io_error(path, source)),
            _ => {}
        }
        let metadata = fs::symlink_metadata(path).map_err(|source| io_error(path, source))?;
        check(path, &metadata, metadata.is_dir(), 0o700)?;
        Ok(Self { path: path.to_owned() })
    }

    /// A folder in it, made where it is missing.
    pub fn folder(&self, name: &str) -> Result<Self, StateError> {
        Self::open(&self.path.join(name))
    }

    /// Where a file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The whole content of a file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, StateError> {
        let path = self.path.join(name);
        let mut file = open_checked(&path, OpenOptions::new().read(true))?;
        let mut content = Vec::new();
        let mut limited = (&mut file).take(LARGEST + 1);
        limited.read_to_end(&mut content).map_err(|source| io_error(&path, source))?;
        if content.len() as u64 > LARGEST {
            return Err(StateError::TooLarge(path));
        }
        Ok(content)
    }

    /// Replaces a file at once: whoever reads it sees the old or the new content, also after a loss of power.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let (path, fresh) = (self.path.join(name), self.path.join(format!(".{name}.new")));
        let put = || {
            match fs::remove_file(&fresh) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(&self.path)?.sync_all()
        };
        put().map_err(|source| io_error(&path, source))
    }

    /// Opens a file to write at its end.
    pub fn append(&self, name: &str) -> Result<File, StateError> {
        open_checked(&self.path.join(name), OpenOptions::new().append(true).create(true).mode(0o600))
    }

    /// Gives a file another name, that of another file if there is one.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), StateError> {
        let path = self.path.join(from);
        fs::rename(&path, self.path.join(to)).map_err(|source| io_error(&path, source))
    }

    /// Takes a file away. `false`: there was none.
    pub fn remove(&self, name: &str) -> Result<bool, StateError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(io_error(&path, source)),
        }
    }
}

fn open_checked(path: &Path, options: &mut OpenOptions) -> Result<File, StateError> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = file.map_err(|source| match source.raw_os_error() {
        Some(libc::ELOOP) => StateError::Symlink(path.to_owned()),
        _ => io_error(path, source),
    })?;
    let metadata = file.metadata().map_err(|source| io_error(path, source))?;
    check(path, &metadata, metadata.is_file(), 0o600)?;
    Ok(file)
}

fn check(path: &Path, metadata: &fs::Metadata, right_type: bool, wanted: u32) -> Result<(), StateError> {
    if metadata.is_symlink() {
        return Err(StateError::Symlink(path.to_owned()));
    }
    if !right_type {
        return Err(StateError::WrongType(path.to_owned()));
    }
    let us = geteuid().as_raw();
    if metadata.uid() != us {
        return Err(StateError::Owner { path: path.to_owned(), owner: metadata.uid(), us });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & !wanted != 0 {
        return Err(StateError::Mode { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
