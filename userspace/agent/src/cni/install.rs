//! Puts plugin, kubeconfig and configuration in place, in this order; takes them away in the other one. Each file
//! appears whole or not at all.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use culvert_handover::known::write_private;
use serde_json::{Map, Value, json};

use super::{ApiServer, ChainError, CniSettings, chained};

/// The plugin's name, as runtimes look for it.
pub const PLUGIN: &str = "culvert-cni";
/// Our configuration. Runtimes take the first name; this one comes before all that begin with a digit, a letter, or `0`
/// and a digit.
pub const CONFLIST: &str = "0-culvert.conflist";
/// The plugin's way to the API server. It is beside the configuration, not in the run directory: after a reboot it is
/// there before any agent.
pub const KUBECONFIG: &str = "culvert-kubeconfig";
/// What runtimes take for configurations.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// So long our configuration outlives the one it is a copy of: others replace theirs by removing it first.
const GRACE: Duration = Duration::from_secs(30);

/// Why plugin or configuration are not in place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The plugin to be installed is not there.
    #[error("the plugin {} cannot be read", path.display())]
    Plugin {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Token or root of the API server.
    #[error("{} cannot be read for the plugin's kubeconfig", path.display())]
    Api {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be put in place or taken away.
    #[error("{} cannot be written or removed", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder of configurations.
    #[error("{} cannot be read", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No other configuration can be chained to.
    #[error("nothing can be chained behind {}", path.display())]
    Chain {
        /// The first other configuration.
        path: PathBuf,
        /// Why.
        #[source]
        source: ChainError,
    },
}

impl InstallError {
    /// Stable word for the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Plugin { .. } => "cni_plugin_missing",
            Self::Api { .. } => "cni_api_unreadable",
            Self::Write { .. } => "cni_not_written",
            Self::Folder { .. } => "cni_folder_unreadable",
            Self::Chain { source, .. } => source.reason(),
        }
    }
}

/// How things are after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All is in place; some of it was not before.
    Repaired,
    /// All was in place.
    Unchanged,
    /// There is no other CNI to be chained to.
    Alone,
    /// Taken away, and not put back.
    Removed,
}

impl State {
    /// Stable word for the log; nothing while all is well.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Alone => "cni_alone",
            Self::Repaired | Self::Unchanged | Self::Removed => "",
        }
    }
}

/// Where the plugin finds the agent.
#[derive(Debug, Clone)]
pub struct Place {
    /// The enrolment socket.
    pub socket: PathBuf,
    /// The agent's list.
    pub known: PathBuf,
}

/// Plugin and configuration of this node.
#[derive(Debug)]
pub struct Installation {
    settings: CniSettings,
    place: Place,
    /// One at a time: nothing is put back while it is taken away.
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    removed: bool,
    alone_since: Option<Instant>,
}

impl Installation {
    /// Touches nothing yet.
    pub fn new(settings: CniSettings, place: Place) -> Self {
        Self { settings, place, work: Mutex::default() }
    }

    /// The folders whose changes matter.
    pub fn folders(&self) -> [&Path; 2] {
        [&self.settings.conf_dir, &self.settings.bin_dir]
    }

    /// Looks at what is there and puts right what is not as it should be.
    pub fn ensure(&self) -> Result<State, InstallError> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if work.removed {
            return Ok(State::Removed);
        }
        let plugin = self.plugin()?;
        let kubeconfig = self.kubeconfig()?;
        let Some(conflist) = self.wanted()? else {
            self.alone(&mut work)?;
            return Ok(State::Alone);
        };
        work.alone_since = None;
        let conflist = put(&self.conflist(), &conflist)?;
        Ok(if plugin || kubeconfig || conflist { State::Repaired } else { State::Unchanged })
    }

    /// Takes everything away, and puts nothing back from now on.
    pub fn remove(&self) -> Result<(), InstallError> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).removed = true;
        for path in [self.conflist(), self.settings.conf_dir.join(KUBECONFIG), self.settings.bin_dir.join(PLUGIN)] {
            absent(&path)?;
        }
        Ok(())
    }

    fn conflist(&self) -> PathBuf {
        self.settings.conf_dir.join(CONFLIST)
    }

    /// Our own is of no use without another's: pods would be made by a plugin that is gone.
    fn alone(&self, work: &mut Work) -> Result<(), InstallError> {
        let since = *work.alone_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= GRACE { absent(&self.conflist()) } else { Ok(()) }
    }

    fn plugin(&self) -> Result<bool, InstallError> {
        let source = &self.settings.plugin;
        let wanted = fs::read(source).map_err(|error| InstallError::Plugin { path: source.clone(), source: error })?;
        let path = self.settings.bin_dir.join(PLUGIN);
        let is_executable = fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 == 0o111);
        if is_executable && fs::read(&path).is_ok_and(|there| there == wanted) {
            return Ok(false);
        }
        put_program(&path, &wanted).map_err(|source| InstallError::Write { path, source })?;
        Ok(true)
    }

    fn kubeconfig(&self) -> Result<bool, InstallError> {
        let path = self.settings.conf_dir.join(KUBECONFIG);
        match &self.settings.api {
            Some(api) => put(&path, &api.kubeconfig()?),
            None => absent(&path).map(|()| false),
        }
    }

    /// Our configuration as it should be; nothing if no other is there.
    fn wanted(&self) -> Result<Option<Vec<u8>>, InstallError> {
        let mut first = None;
        for path in self.others()? {
            // Somebody may be just about to replace it.
            let Ok(text) = fs::read(&path) else { continue };
            match chained(&text, &self.entry()) {
                Ok(list) => return Ok(Some(list)),
                // Runtimes skip what they cannot read, and so do we; the first one is what is complained about.
                Err(source) => drop(first.get_or_insert(InstallError::Chain { path, source })),
            }
        }
        first.map_or(Ok(None), Err)
    }

    /// Other configurations, in the order in which runtimes look at them.
    fn others(&self) -> Result<Vec<PathBuf>, InstallError> {
        let folder = &self.settings.conf_dir;
        let unreadable = |source| InstallError::Folder { path: folder.clone(), source };
        let mut others = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if EXTENSIONS.contains(&extension) && path.file_name() != Some(CONFLIST.as_ref()) && path.is_file() {
                others.push(path);
            }
        }
        others.sort();
        Ok(others)
    }

    fn entry(&self) -> Map<String, Value> {
        let settings = &self.settings;
        let mut entry = Map::new();
        let mut set = |key: &str, value: Value| drop(entry.insert(key.to_owned(), value));
        set("type", json!(PLUGIN));
        set("socket", json!(self.place.socket));
        set("known", json!(self.place.known));
        set("excludeNamespaces", json!(settings.exclude_namespaces));
        set("istioLabels", json!(settings.istio_labels));
        if settings.api.is_some() {
            set("kubeconfig", json!(settings.conf_dir_on_node.join(KUBECONFIG)));
        }
        entry
    }
}

impl ApiServer {
    fn kubeconfig(&self) -> Result<Vec<u8>, InstallError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| InstallError::Api { path: path.to_owned(), source })
        };
        let (root, token) = (read(&self.root)?, read(&self.token)?);
        let name = "culvert-cni";
        let root = base64(root.as_bytes());
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": self.server, "certificate-authority-data": root}}],
            "users": [{"name": name, "user": {"token": token.trim()}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        });
        Ok(config.to_string().into_bytes())
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

/// Puts a file of mode 0600 in place where it differs.
fn put(path: &Path, wanted: &[u8]) -> Result<bool, InstallError> {
    let is_private = culvert_handover::known::private(path).is_ok();
    if is_private && fs::read(path).is_ok_and(|there| there == wanted) {
        return Ok(false);
    }
    write_private(path, wanted).map_err(|source| InstallError::Write { path: path.to_owned(), source })?;
    Ok(true)
}

/// A program that runs is not written to: the new one takes its name.
fn put_program(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_file_name(format!(".{PLUGIN}.new"));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
    drop(file);
    fs::rename(fresh, path)
}

fn absent(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(InstallError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
