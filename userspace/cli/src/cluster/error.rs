//! Why the cluster is not as it was asked to be.

use std::time::Duration;

use super::{ApiError, api::Cause};

/// Each says which object and field, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A flag's value cannot be used.
    #[error("{flag} {value}: {why}")]
    Option {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What it has to be.
        why: &'static str,
    },
    /// The API server, at one object.
    #[error("{object}: {error}{}", fields(.error))]
    Api {
        /// Which one.
        object: String,
        /// What it says.
        error: ApiError,
    },
    /// Somebody else sets a field to another value.
    #[error("{object}: {} set by somebody else; give the field up there, or delete the object, and run this again", said(.causes))]
    Conflict {
        /// Which one.
        object: String,
        /// Which fields, and whose.
        causes: Vec<Cause>,
    },
    /// Another program looks after the object.
    #[error("{object}: it belongs to {owner}; {remedy}")]
    Owned {
        /// Which one.
        object: String,
        /// Whose it is.
        owner: String,
        /// What to do.
        remedy: String,
    },
    /// A definition that somebody else brought lacks what culvert reads.
    #[error(
        "CustomResourceDefinition {name}: spec.versions serves none of {wanted}; it belongs to {owner} and is not touched: \
         update it there"
    )]
    Definition {
        /// Which one.
        name: String,
        /// The versions that can be read.
        wanted: String,
        /// Whose it is.
        owner: String,
    },
    /// The server is too old.
    #[error("the API server is {version}: culvert needs Kubernetes 1.20 or newer")]
    Old {
        /// As it calls itself.
        version: String,
    },
    /// Not all came up.
    #[error("not ready within {limit:?}: {}", .what.join("; "))]
    NotReady {
        /// How long it was waited for.
        limit: Duration,
        /// Object by object.
        what: Vec<String>,
    },
    /// There is nothing to take away.
    #[error(
        "culvert is not installed in namespace {namespace}: there is no DaemonSet {namespace}/culvert-agent; --namespace names another one"
    )]
    NotInstalled {
        /// Where it was looked for.
        namespace: String,
    },
    /// Nodes still have culvert's pins or CNI configuration.
    #[error("not taken out of every node within {limit:?}: {}; nothing else was removed, run this again", .nodes.join("; "))]
    Nodes {
        /// How long it was waited for.
        limit: Duration,
        /// Which ones, and why.
        nodes: Vec<String>,
    },
}

impl ClusterError {
    /// The stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Option { .. } => "bad_option",
            Self::Api { error, .. } => error.reason(),
            Self::Conflict { .. } => "field_conflict",
            Self::Owned { .. } => "owned_by_another",
            Self::Definition { .. } => "definition_unusable",
            Self::Old { .. } => "server_too_old",
            Self::NotReady { .. } => "not_ready",
            Self::NotInstalled { .. } => "not_installed",
            Self::Nodes { .. } => "nodes_not_left",
        }
    }

    /// Names the object that the API server said something of.
    pub(super) fn at(object: impl Into<String>) -> impl FnOnce(ApiError) -> Self {
        let object = object.into();
        move |error| match error {
            ApiError::Refused { code: 409, causes, .. } if !causes.is_empty() => Self::Conflict { object, causes },
            error => Self::Api { object, error },
        }
    }
}

fn said(causes: &[Cause]) -> String {
    let one = |cause: &Cause| format!("{} ({})", cause.field, cause.message);
    let all = causes.iter().map(one).collect::<Vec<_>>().join(", ");
    format!("{all} {}", if causes.len() == 1 { "is" } else { "are" })
}

/// The fields, where the message does not name them by itself.
fn fields(error: &ApiError) -> String {
    match error {
        ApiError::Refused { message, causes, .. } => {
            let strange = causes.iter().filter(|cause| !cause.field.is_empty() && !message.contains(&cause.field));
            strange.map(|cause| format!("; {}: {}", cause.field, cause.message)).collect()
        }
        ApiError::Config(_) => " (--kubeconfig FILE and --context NAME choose another cluster)".to_owned(),
        _ => String::new(),
    }
}
