//! The directory of cases: which files there are, and which of them were read.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A directory tree. Paths of files are relative to it, with `/` between their parts.
pub(crate) struct Directory {
    root: PathBuf,
    files: Vec<String>,
    read: RefCell<BTreeSet<String>>,
}

impl Directory {
    /// Lists the tree.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        list(root, "", &mut files)?;
        files.sort();
        if files.is_empty() {
            bail!("{} holds no file", root.display());
        }
        Ok(Self { root: root.to_owned(), files, read: RefCell::default() })
    }

    /// All files, in order.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// Whether some reader took the file in.
    pub(crate) fn was_read(&self, file: &str) -> bool {
        self.read.borrow().contains(file)
    }

    /// The content of a file.
    pub(crate) fn bytes(&self, file: &str) -> Result<Vec<u8>> {
        self.read.borrow_mut().insert(file.to_owned());
        fs::read(self.root.join(file)).with_context(|| format!("cannot read {file}"))
    }

    /// The content of a text file.
    pub(crate) fn text(&self, file: &str) -> Result<String> {
        String::from_utf8(self.bytes(file)?).with_context(|| format!("{file} is not UTF-8"))
    }

    /// A JSON file.
    pub(crate) fn json(&self, file: &str) -> Result<Value> {
        serde_json::from_str(&self.text(file)?).with_context(|| format!("{file} is not JSON"))
    }

    /// The documents of a YAML file; empty ones are left out.
    pub(crate) fn yaml(&self, file: &str) -> Result<Vec<Value>> {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&self.text(file)?).with_context(|| format!("{file} is not YAML"))?;
        Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
    }
}

fn list(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().with_context(|| format!("{:?} is not UTF-8", entry.path()))?;
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if entry.path().is_dir() {
            list(&entry.path(), &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
