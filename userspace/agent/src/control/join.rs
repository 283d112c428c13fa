//! The node's own identity: kept from the last run, else bought with the join token.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use culvert_identity::{TrustDomain, bundle::X509Bundle};
use culvert_mtls::{Trust, TrustBundles};
use culvert_svid::{Clock, ControlPort, NodeCredentials, StoreError, node};

use crate::settings::Settings;

/// Longest pause between two attempts to join.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How often the file with the roots is looked at.
const ROOT_LOOK: Duration = Duration::from_secs(10);

/// Why the node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The file with the control plane's root.
    #[error("--control-root {0}: {1}")]
    Root(PathBuf, String),
    /// What was kept from the last run cannot be used.
    #[error("the node's certificate cannot be kept in the run directory")]
    Store(#[from] StoreError),
    /// There is nothing to join with.
    #[error(
        "the node has no valid certificate and no --join-token-file: make a token with `culvert-control token NODE`"
    )]
    NoToken,
    /// The token's file.
    #[error("--join-token-file {0} cannot be read")]
    TokenFile(PathBuf, #[source] io::Error),
    /// The control plane refuses.
    #[error("the control plane did not let the node join; a token is good for one use and one hour")]
    Refused(#[source] culvert_svid::JoinError),
    /// The certificate is for another node.
    #[error("the token is for node {got:?}, this is {own:?}")]
    OtherNode {
        /// The certificate's node.
        got: String,
        /// `--node`.
        own: Arc<str>,
    },
}

impl JoinError {
    /// Stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Root(..) => "control_root_unusable",
            Self::Store(error) => error.reason(),
            Self::NoToken => "no_join_token",
            Self::TokenFile(..) => "join_token_unreadable",
            Self::Refused(error) => error.reason(),
            Self::OtherNode { .. } => "token_of_other_node",
        }
    }
}

/// The control plane's address with what its certificate is held against: the file's roots and nothing else.
pub fn port(settings: &Settings) -> Result<ControlPort, JoinError> {
    let path = &settings.control_root;
    let unusable = |text: String| JoinError::Root(path.clone(), text);
    let text = fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let bundle = X509Bundle::parse_pem(settings.trust_domain.clone(), text).map_err(|e| unusable(e.to_string()))?;
    let bundles = TrustBundles::new();
    bundles.set(bundle).map_err(|error| unusable(error.to_string()))?;
    let port = ControlPort::new(&settings.control.to_string(), Trust::new(bundles), &settings.trust_domain);
    Ok(match &settings.control_token_file {
        Some(path) => port.with_token_file(path.clone()),
        None => port,
    })
}

/// Follows the file with the control plane's roots: one root follows another without a restart of the agent. A file that
/// cannot be read, or holds nothing of use, changes nothing.
pub async fn follow_root(path: PathBuf, domain: TrustDomain, bundles: TrustBundles) {
    let mut held = fs::read(&path).unwrap_or_default();
    loop {
        tokio::time::sleep(ROOT_LOOK).await;
        let Ok(text) = fs::read(&path) else { continue };
        if text == held {
            continue;
        }
        let bundle = X509Bundle::parse_pem(domain.clone(), &text).map_err(|error| error.to_string());
        match bundle.and_then(|bundle| bundles.set(bundle).map_err(|error| error.to_string())) {
            Ok(_) => {
                tracing::info!("the control plane's roots have changed");
                held = text;
            }
            Err(error) => tracing::error!(error, "--control-root cannot be used: the former roots stay"),
        }
    }
}

/// Takes the certificate of the last run, or joins. Waits for a control plane that cannot be reached; a refusal ends it.
pub async fn join_or_load(
    settings: &Settings,
    port: &ControlPort,
    clock: &dyn Clock,
) -> Result<NodeCredentials, JoinError> {
    if let Some(kept) = kept(settings, &settings.trust_domain, clock)? {
        return Ok(kept);
    }
    let token = match (&settings.join_token_file, port.has_token()) {
        (_, true) => String::new(),
        (Some(path), false) => fs::read_to_string(path).map_err(|error| JoinError::TokenFile(path.clone(), error))?,
        (None, false) => return Err(JoinError::NoToken),
    };
    let mut pause = Duration::from_millis(100);
    let joined = loop {
        match node::join(port, &token, clock).await {
            Ok(joined) => break joined,
            Err(error) if is_unreachable(&error) => {
                let text = crate::outcome::chain(&error);
                tracing::warn!(
                    reason = error.reason(),
                    error = text,
                    "the control plane cannot be reached; trying again"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(JoinError::Refused(error)),
        }
    };
    if joined.node() != &*settings.node {
        return Err(JoinError::OtherNode { got: joined.node().to_owned(), own: settings.node.clone() });
    }
    node::save(&settings.run_dir, &joined)?;
    tracing::info!(node = joined.node(), "joined");
    Ok(joined)
}

fn kept(settings: &Settings, domain: &TrustDomain, clock: &dyn Clock) -> Result<Option<NodeCredentials>, JoinError> {
    let Some(kept) = node::load(&settings.run_dir, domain)? else { return Ok(None) };
    if kept.node() != &*settings.node {
        return Err(JoinError::OtherNode { got: kept.node().to_owned(), own: settings.node.clone() });
    }
    if kept.credentials().not_after() < clock.wall() {
        tracing::warn!("the node's certificate has ended; a new token is needed");
        return Ok(None);
    }
    Ok(Some(kept))
}

fn is_unreachable(error: &culvert_svid::JoinError) -> bool {
    use culvert_svid::IssueError;
    matches!(error, culvert_svid::JoinError::Issue(IssueError::Unreachable { .. } | IssueError::Timeout))
}
