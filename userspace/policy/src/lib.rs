//! What may happen: the rules people write, the rule set compiled for one workload, decisions and
//! their explanations. Pure: no I/O, no clock, no async.
//!
//! Sources: Istio's AuthorizationPolicy and PeerAuthentication (security.istio.io/v1).
//!
//! The way of a policy: [`istio::read`] (or the control channel) gives an [`AuthorizationPolicy`], still in the strings
//! of the manifest; [`RuleSet::compile`] selects what concerns one workload and gives it its meaning ([`rule`]);
//! [`decide`] answers one [`Connection`] with a [`Verdict`], [`explain`] says why.

pub mod address;
pub mod attribute;
pub mod brackets;
mod connection;
mod cover;
mod decide;
pub mod domains;
mod explain;
pub mod istio;
mod model;
mod mtls;
pub mod path;
pub mod pattern;
mod posture;
pub mod rule;
mod ruleset;
mod settings;
mod truth;
mod verdict;

#[cfg(test)]
mod tests;

pub use connection::{Connection, Facts, IdentityFacts, Peer};
pub use cover::{How, Shadowed, Shadows, shadows};
pub use decide::{Observed, Would, WouldResult, decide};
pub use domains::TrustDomains;
pub use explain::{Decision, Explanation, NearMiss, RuleTruth, explain};
pub use model::{
    Action, AuthorizationPolicy, Condition, MtlsMode, Operation, PeerAuthentication, PolicyName, Rule, Selector, Source,
};
pub use mtls::{EffectiveMtls, Ignored, WhyIgnored, all_without_effect, without_effect};
pub use posture::{Inexact, Posture, RuleVerdict};
pub use ruleset::RuleSet;
pub use settings::{DEFAULT_ROOT_NAMESPACE, DefaultAction, DefaultMode, MeshSettings, Subject};
pub use truth::Truth;
pub use verdict::{Basis, Denial, Permit, Reason, RuleRef, Verdict};
