//! Namespace and pod from the API server: two `get`s, with what the agent wrote to the kubeconfig.

use std::{
    fs, io,
    net::{TcpStream, ToSocketAddrs as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use io::Write as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::ServerName};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;

use crate::{call::PodName, decide::Object, http};

/// Patience for a connection, and for each read and write: a pod of no concern must not wait for long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the API server did not say what a pod is.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig {} cannot be used: {why}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It cannot be reached, or its answer cannot be read.
    #[error("the API server {server} does not answer")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It answers, but not this.
    #[error("the API server answers {status} for {path}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What was asked for.
        path: String,
    },
    /// What it sent is no such object.
    #[error("what the API server sent for {path} is no such object: {why}")]
    Object {
        /// What was asked for.
        path: String,
        /// What is wrong.
        why: String,
    },
}

impl ApiError {
    /// Nobody answers at its address, or who answers says that it cannot: not that it does not want to.
    pub fn is_away(&self) -> bool {
        match self {
            // What TLS does not accept is somebody's answer.
            Self::Unreachable { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other
            ),
            Self::Status { status, .. } => *status >= 500,
            Self::Kubeconfig { .. } | Self::Object { .. } => false,
        }
    }
}

/// A kubeconfig in its JSON form, with one cluster and one user.
#[derive(Debug, Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    #[serde(default)]
    certificate_authority: Option<PathBuf>,
    #[serde(default)]
    certificate_authority_data: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    token_file: Option<PathBuf>,
}

/// Asks one API server.
#[derive(Debug)]
pub struct Client {
    server: String,
    authority: String,
    host: ServerName<'static>,
    tls: Arc<ClientConfig>,
    token: Option<String>,
}

impl Client {
    /// Reads the kubeconfig, which is root's alone.
    pub fn open(path: &Path) -> Result<Self, ApiError> {
        let unusable = |why: String| ApiError::Kubeconfig { path: path.to_owned(), why };
        let io = |error: io::Error| unusable(error.to_string());
        culvert_handover::known::private(path).map_err(io)?;
        let config: Kubeconfig =
            serde_json::from_slice(&fs::read(path).map_err(io)?).map_err(|error| unusable(error.to_string()))?;
        let cluster = config.clusters.into_iter().next().ok_or_else(|| unusable("it has no cluster".to_owned()))?;
        let user = config.users.into_iter().next().ok_or_else(|| unusable("it has no user".to_owned()))?;
        let token = user.user.read().map_err(io)?;
        Self::new(&cluster.cluster, token).map_err(unusable)
    }

    fn new(cluster: &Cluster, token: Option<String>) -> Result<Self, String> {
        let rest =
            cluster.server.strip_prefix("https://").ok_or("the server's address does not begin with https://")?;
        let authority = rest.trim_end_matches('/');
        if authority.contains('/') {
            return Err("the server's address has a path".to_owned());
        }
        let (host, authority) = split(authority);
        let host = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(cluster.roots()?)
            .with_no_client_auth();
        let server = cluster.server.clone();
        Ok(Self { server, authority, host, tls: Arc::new(tls), token })
    }

    /// The pod's namespace and the pod.
    pub fn look(&self, pod: &PodName) -> Result<(Object, Object), ApiError> {
        let namespace = format!("/api/v1/namespaces/{}", pod.namespace);
        let path = format!("{namespace}/pods/{}", pod.name);
        Ok((self.get(&namespace)?, self.get(&path)?))
    }

    fn get(&self, path: &str) -> Result<Object, ApiError> {
        let unreachable = |source| ApiError::Unreachable { server: self.server.clone(), source };
        let answer = self.exchange(path).map_err(unreachable)?;
        if answer.status != 200 {
            return Err(ApiError::Status { status: answer.status, path: path.to_owned() });
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| ApiError::Object { path: path.to_owned(), why: error.to_string() })
    }

    fn exchange(&self, path: &str) -> io::Result<http::Answer> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the server's name has no address");
        for address in self.authority.to_socket_addrs()? {
            let stream = match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => stream,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let connection = ClientConnection::new(self.tls.clone(), self.host.clone()).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(connection, stream);
            stream.write_all(&http::request(&self.authority, path, self.token.as_deref()))?;
            stream.flush()?;
            return http::read(stream);
        }
        Err(last)
    }
}

impl Cluster {
    fn roots(&self) -> Result<RootCertStore, String> {
        let pem = match (&self.certificate_authority_data, &self.certificate_authority) {
            (Some(data), _) => BASE64_STANDARD.decode(data).map_err(|error| error.to_string())?,
            (None, Some(file)) => fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?,
            (None, None) => return Err("it names no certificate authority".to_owned()),
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        if roots.is_empty() { Err("its certificate authority is empty".to_owned()) } else { Ok(roots) }
    }
}

impl User {
    fn read(self) -> io::Result<Option<String>> {
        let token = match (self.token, self.token_file) {
            (Some(token), _) => token,
            (None, Some(file)) => fs::read_to_string(file)?,
            (None, None) => return Ok(None),
        };
        let token = token.trim();
        // It becomes a header.
        if token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Some(token.to_owned()));
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the token has characters that no token has"))
    }
}

/// Host, and host with port.
fn split(authority: &str) -> (String, String) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (authority, "443"),
    };
    (host.trim_matches(['[', ']']).to_owned(), format!("{host}:{port}"))
}
