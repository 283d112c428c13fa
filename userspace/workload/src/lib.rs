//! Who lives here: workloads, services and the roster, a consistent snapshot of both that answers
//! "who has this address" and "which endpoints does this service have". Pure.

mod model;
mod roster;
mod shards;
mod shared_map;

pub use model::{
    ActionDefault, Membership, Mesh, MtlsDefault, Namespace, Phase, Protocol, Service, ServiceName, ServicePort,
    TargetPort, Workload, WorkloadUid,
};
pub use roster::{Endpoint, EndpointError, Found, Roster, RosterEdit};
pub use shared_map::{Iter as SharedMapIter, SharedMap};
