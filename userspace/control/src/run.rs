//! Putting the parts together.

use std::{
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use culvert_identity::TrustDomain;
use culvert_manifests::{Assembly, Catalog, Complaint, MeshOverrides, Object, Severity, assemble};
use culvert_wire::TrustBundle;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    audit::Audit,
    ca::{Authority, ISSUING_LIFE},
    cli::{MeshArgs, Run, SourceKind},
    cluster::Reviewer,
    http::{self, View},
    index::{self, Change, Owner, Published, Reading, Sources},
    metrics::Metrics,
    roots::{self, RootKeeper},
    server::{self, Context, NodeBook, OwnIdentity},
    source::{DirectoryError, Source, read_files},
    state_dir::StateDir,
    token::Tokens,
};

pub(crate) const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// Prints a join token.
pub fn token(node: &str, state: &Path) -> anyhow::Result<String> {
    let tokens = Tokens::open(&StateDir::open(state)?)?;
    Ok(tokens.give(node, SystemTime::now())?.to_string())
}

/// Begins a rotation of the root.
pub fn rotate_root(state: &Path, hold: Duration, retire: Duration) -> anyhow::Result<()> {
    Ok(roots::begin(&StateDir::open(state)?, hold, retire, SystemTime::now())?)
}

/// Reads a directory as the server would, and gives everything that is to be said about it.
pub fn check(args: &MeshArgs) -> anyhow::Result<Vec<Complaint>> {
    let path = directory(args)?;
    let files = read_files(path)?;
    let (catalog, mut complaints) = Catalog::read(&files, &Catalog::default());
    if catalog.is_empty() && complaints.iter().all(|complaint| complaint.severity != Severity::Error) {
        bail!(DirectoryError::Empty(path.to_owned()));
    }
    let domain = trust_domain(args, None, &catalog)?;
    let Assembly { complaints: more, .. } = assemble(&catalog, &overrides(args, domain), &Default::default());
    complaints.extend(more);
    Ok(complaints)
}

/// Serves until `stop` is done.
pub async fn serve(args: Run, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let state = StateDir::open(&args.state)?;
    let kept = index::load(&state)?;
    if args.source == SourceKind::Kube {
        return crate::cluster::serve(args, state, kept, stop).await;
    }
    let mut source = Source::new(directory(&args.mesh)?, kept.catalog.clone());
    let reading = first_reading(&mut source, &kept.catalog)?;
    let catalog = match &reading {
        Reading::Catalog(catalog, _) => catalog,
        Reading::Unusable(_) => &kept.catalog,
    };
    let domain = trust_domain(&args.mesh, Authority::trust_domain_of(&state)?, catalog)?;
    let authority = Arc::new(Authority::open(state.clone(), domain.clone(), ISSUING_LIFE, now)?);
    let authorities = authority.roots().ders;
    let sequence = kept.sequence_of(&authorities);
    let bundle = TrustBundle { trust_domain: domain.clone(), authorities, sequence };
    let sources = Sources { state: state.clone(), overrides: overrides(&args.mesh, domain), bundle };
    let (owner, published) = Owner::new(sources, kept, reading)?;
    let (changes, queue) = mpsc::channel(64);
    tokio::spawn(owner.run(queue));
    tokio::spawn(source.run(changes.clone()));
    let (metrics, nodes) = (Arc::new(Metrics::new()), Arc::new(NodeBook::default()));
    let keeper = RootKeeper {
        state: state.clone(),
        authority: Arc::clone(&authority),
        changes: changes.clone(),
        published: published.clone(),
        nodes: Arc::clone(&nodes),
    };
    tokio::spawn(keeper.run());
    let serving = Serving { authority, published, changes, reviewer: None, metrics, nodes, tasks: JoinSet::new() };
    serve_state(&args, &state, serving, stop).await
}

/// What a source has put together.
pub(crate) struct Serving {
    pub(crate) authority: Arc<Authority>,
    pub(crate) published: watch::Receiver<Published>,
    pub(crate) changes: mpsc::Sender<Change>,
    pub(crate) reviewer: Option<Reviewer>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) nodes: Arc<NodeBook>,
    /// What runs beside, and ends when serving ends.
    pub(crate) tasks: JoinSet<()>,
}

pub(crate) async fn serve_state(
    args: &Run,
    state: &StateDir,
    serving: Serving,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let Serving { authority, published, changes, reviewer, metrics, nodes, tasks: _tasks } = serving;
    let own = OwnIdentity::new(Arc::clone(&authority), args.leaf_life)?;
    let identity = own.identity();
    tokio::spawn(own.run(Arc::clone(&metrics)));
    let view = View {
        metrics: Arc::clone(&metrics),
        published: published.clone(),
        nodes: Arc::clone(&nodes),
        authority: Arc::clone(&authority),
    };
    let context = Context {
        authority,
        tokens: Tokens::open(state)?,
        reviewer,
        audit: Arc::new(Audit::open(state)?),
        metrics,
        published,
        changes,
        nodes,
        leaf_life: args.leaf_life,
        whole_up_to: args.whole_up_to,
    };
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("--listen {}", args.listen))?;
    serve_http(args, Arc::new(view)).await?;
    tracing::info!(address = %listener.local_addr()?, "serving agents");
    server::serve(listener, identity, Arc::new(context), stop).await.context("the control port failed")
}

async fn serve_http(args: &Run, view: Arc<View>) -> anyhow::Result<()> {
    if let Some(path) = &args.admin {
        let listener = http::bind_unix(path).with_context(|| format!("--admin {}", path.display()))?;
        tokio::spawn(http::serve_unix(listener, Arc::clone(&view)));
    }
    if let Some(address) = args.metrics {
        let listener = TcpListener::bind(address).await.with_context(|| format!("--metrics {address}"))?;
        tracing::info!(address = %listener.local_addr()?, "serving metrics");
        tokio::spawn(http::serve_tcp(listener, view));
    }
    Ok(())
}

fn directory(args: &MeshArgs) -> anyhow::Result<&Path> {
    args.manifests.as_deref().context("--manifests is missing")
}

/// What the directory says at the start. One that others may write to is refused whatever is kept; one that is empty
/// or gone is bridged by what is kept, where anything is.
fn first_reading(source: &mut Source, kept: &Catalog) -> anyhow::Result<Reading> {
    match source.read() {
        Ok(reading) => Ok(reading),
        Err(error @ DirectoryError::Writable { .. }) => Err(error.into()),
        Err(error) if kept.is_empty() => Err(error.into()),
        Err(error) => {
            tracing::error!(reason = error.reason(), %error, "the directory is not taken: the last good state is served");
            Ok(Reading::Unusable(error.to_string()))
        }
    }
}

/// The flag, else what the state folder was begun with, else the Mesh object's, else Istio's default.
pub(crate) fn trust_domain(
    args: &MeshArgs,
    held: Option<TrustDomain>,
    catalog: &Catalog,
) -> anyhow::Result<TrustDomain> {
    let written = catalog.objects().find_map(|(_, held)| match &held.object {
        Object::Mesh(mesh) => mesh.trust_domain.clone(),
        _ => None,
    });
    match args.trust_domain.clone().or(held).or(written) {
        Some(domain) => Ok(domain),
        None => Ok(TrustDomain::parse(DEFAULT_TRUST_DOMAIN)?),
    }
}

pub(crate) fn overrides(args: &MeshArgs, trust_domain: TrustDomain) -> MeshOverrides {
    MeshOverrides {
        trust_domain,
        default_mode: args.default_mode.map(Into::into),
        default_action: args.default_action.map(Into::into),
        cluster_ranges: args.cluster_ranges.clone(),
    }
}
