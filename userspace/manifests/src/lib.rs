//! Kubernetes and Istio YAML, read strictly, with file, object, field and remedy in every complaint. Pure.
//!
//! ```text
//! files --> documents --> objects (Catalog, with the last good version of each) --> State
//! ```

mod assemble;
mod catalog;
mod complaint;
mod document;
mod fields;
mod kinds;
mod object;
mod review;

pub use assemble::{Assembly, Changed, Frame, MeshOverrides, Namespaces, State, assemble};
pub use catalog::{Catalog, File, Held, Live, SavedObject, Standing};
pub use complaint::{Complaint, Severity};
pub use kinds::{
    Backend, BackendSet, EndpointsObject, MeshObject, NamespaceObject, NodeObject, Object, PodObject, ServiceObject,
    pod_uid,
};
pub use object::{ObjectKey, ObjectKind, Origin};
pub use review::{Review, review};
