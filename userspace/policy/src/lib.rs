//! What may happen: the rules people write, the rule set compiled for one workload, decisions and
//! their explanations. Pure: no I/O, no clock, no async.
//!
//! Sources: Istio's AuthorizationPolicy and PeerAuthentication (security.istio.io/v1).

mod model;

pub use model::{
    Action, AuthorizationPolicy, Condition, MtlsMode, Operation, PeerAuthentication, PolicyName, Rule, Selector, Source,
};
