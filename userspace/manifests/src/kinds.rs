//! The kinds that are read, each strictly: one file per kind.

mod account;
mod endpoints;
mod mesh;
mod meta;
mod node;
mod pod;
mod policy;
mod probe;
mod request;
mod service;

use culvert_policy::{Action, AuthorizationPolicy, PeerAuthentication, Selector};
use serde_json::Value;

pub use endpoints::{Backend, BackendSet, EndpointsObject};
pub use mesh::MeshObject;
pub use meta::pod_uid;
pub use node::{NamespaceObject, NodeObject};
pub use pod::PodObject;
pub use service::ServiceObject;

use crate::{
    fields::{Fields, Note, Notes},
    object::{ObjectKey, ObjectKind},
};

pub(crate) use meta::Enroll;

/// One object as it is written, checked by itself; `assemble` looks at them together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is its kind
pub enum Object {
    Mesh(MeshObject),
    Namespace(NamespaceObject),
    Node(NodeObject),
    ServiceAccount,
    Pod(PodObject),
    Service(ServiceObject),
    /// Of an Endpoints or an EndpointSlice.
    Endpoints(EndpointsObject),
    PeerAuthentication(PeerAuthentication),
    AuthorizationPolicy(AuthorizationPolicy),
    /// Accepted; only a waypoint could enforce it.
    RequestAuthentication,
}

impl Object {
    /// What holds while it stands in for an object that could never be understood.
    pub fn while_broken(&self) -> &'static str {
        match self {
            Self::Mesh(_) => "every workload refuses all traffic",
            Self::Namespace(_) => "its pods count as enrolled",
            Self::AuthorizationPolicy(policy) if policy.selector == Selector::Waypoint => {
                "it is a waypoint's business and refuses nothing here"
            }
            Self::AuthorizationPolicy(policy) if policy.dry_run => "it is a dry run and refuses nothing",
            Self::AuthorizationPolicy(policy) if policy.action == Action::Audit => "it only marks, and refuses nothing",
            _ => "it refuses everything that it selects",
        }
    }
}

/// What reading one object gave.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The object, where there is no error among the notes.
    pub(crate) object: Option<Object>,
    /// What to go by where the object cannot be understood and has no last good version, for kinds whose absence
    /// would open something.
    pub(crate) stand_in: Option<Object>,
    pub(crate) notes: Vec<Note>,
}

impl Reading {
    fn of(object: Object, notes: Notes) -> Self {
        let object = (!notes.has_errors()).then_some(object);
        Self { object, stand_in: None, notes: notes.into_notes() }
    }
}

/// Reads one object; without a result there is at least one error among the notes.
pub(crate) fn read(key: &ObjectKey, value: &Value) -> Reading {
    let notes = Notes::default();
    let fields = Fields::of(value, String::new(), &notes);
    let object = match key.kind {
        ObjectKind::Mesh => Object::Mesh(mesh::read(&fields)),
        ObjectKind::Namespace => Object::Namespace(node::read_namespace(&fields)),
        ObjectKind::Node => Object::Node(node::read_node(&fields)),
        ObjectKind::ServiceAccount => account::read(&fields),
        ObjectKind::Pod => Object::Pod(pod::read(key, &fields)),
        ObjectKind::Service => Object::Service(service::read(&fields)),
        ObjectKind::Endpoints => Object::Endpoints(endpoints::read_endpoints(key, &fields)),
        ObjectKind::EndpointSlice => Object::Endpoints(endpoints::read_slice(&fields)),
        ObjectKind::AuthorizationPolicy | ObjectKind::PeerAuthentication | ObjectKind::RequestAuthentication => {
            return policy::read(key, value);
        }
    };
    meta::check_names(key, &fields);
    let closed = match &object {
        Object::Mesh(mesh) => Some(Object::Mesh(mesh.clone().closed())),
        _ => stand_in(key, "it has errors"),
    };
    let reading = Reading::of(object, notes);
    let broken = reading.object.is_none() && key.kind.fails_closed();
    Reading { stand_in: closed.filter(|_| broken), ..reading }
}

/// The closed counterpart of an object of which no more than its name can be told.
pub(crate) fn stand_in(key: &ObjectKey, why: &str) -> Option<Object> {
    match key.kind {
        ObjectKind::Mesh => Some(Object::Mesh(MeshObject::default().closed())),
        ObjectKind::Namespace => Some(Object::Namespace(NamespaceObject::closed())),
        ObjectKind::AuthorizationPolicy | ObjectKind::PeerAuthentication => Some(policy::refusing(key, why)),
        _ => None,
    }
}
