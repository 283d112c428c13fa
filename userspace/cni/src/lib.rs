//! `culvert-cni`: a chained CNI plugin (spec 0.3.1 to 1.1.0). It makes no network: it hands a pod that belongs to the
//! mesh to the node's agent, and reports an error for as long as the agent cannot take it, so that the pod does not start
//! outside of the mesh. Pods that do not belong to it pass, whether an agent lives or not: docs/node.md.
//!
//! ```text
//! environment, netconf -> Call -> decide: labels of the API server, else the agent's list -> agent -> previous result
//! ```

pub mod api;
pub mod call;
pub mod commands;
pub mod decide;
pub mod failure;
pub mod http;
pub mod known;
pub mod netconf;
#[cfg(test)]
mod tests;
