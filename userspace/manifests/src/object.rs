//! Names of objects and of the places where they are written.

use std::fmt;

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The file's name within the directory; empty for what concerns the whole directory.
    pub file: String,
    /// Line, from 1; 0 where it is not known.
    pub line: u64,
}

/// The kinds that are read. Others are listed once as ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the names are Kubernetes' kinds
pub enum ObjectKind {
    Mesh,
    Namespace,
    Node,
    ServiceAccount,
    Pod,
    Service,
    Endpoints,
    EndpointSlice,
    PeerAuthentication,
    AuthorizationPolicy,
    RequestAuthentication,
}

/// What makes an object one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ObjectKind,
    /// `metadata.namespace`; empty for kinds without a namespace.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Mesh,
        Self::Namespace,
        Self::Node,
        Self::ServiceAccount,
        Self::Pod,
        Self::Service,
        Self::Endpoints,
        Self::EndpointSlice,
        Self::PeerAuthentication,
        Self::AuthorizationPolicy,
        Self::RequestAuthentication,
    ];

    /// Kubernetes' name of the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlice => "EndpointSlice",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::RequestAuthentication => "RequestAuthentication",
        }
    }

    pub(crate) fn of(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == kind)
    }

    /// The `apiVersion`s that are read, the preferred one first.
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Mesh => &["culvert.dev/v1alpha1"],
            Self::Namespace | Self::Node | Self::ServiceAccount | Self::Pod | Self::Service | Self::Endpoints => {
                &["v1"]
            }
            Self::EndpointSlice => &["discovery.k8s.io/v1", "discovery.k8s.io/v1beta1"],
            Self::PeerAuthentication | Self::AuthorizationPolicy | Self::RequestAuthentication => {
                &["security.istio.io/v1", "security.istio.io/v1beta1"]
            }
        }
    }

    /// Does it live in a namespace.
    pub fn namespaced(self) -> bool {
        !matches!(self, Self::Mesh | Self::Namespace | Self::Node)
    }

    /// Is its absence more open than its presence: what cannot be understood then has a closed stand-in.
    pub(crate) fn fails_closed(self) -> bool {
        matches!(self, Self::Mesh | Self::Namespace | Self::PeerAuthentication | Self::AuthorizationPolicy)
    }
}

impl ObjectKey {
    /// The key of an object of a kind and version that is read.
    pub fn of(object: &serde_json::Value) -> Option<Self> {
        crate::catalog::key_of(object)
    }
}

impl Origin {
    pub(crate) fn directory() -> Self {
        Self { file: String::new(), line: 0 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.as_str(), self.line) {
            ("", _) => f.write_str("(directory)"),
            (file, 0) => f.write_str(file),
            (file, line) => write!(f, "{file}:{line}"),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind.as_str(), self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
        }
    }
}
