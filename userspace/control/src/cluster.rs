//! The control plane in a cluster: everything that `--source kube` adds, put together.

mod acks;
mod keys;
mod leader;
mod reviewer;
pub mod secrets;
mod status;
mod taint;
mod verdict;
mod webhook;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use culvert_identity::TrustDomain;
use culvert_manifests::{Catalog, Live};
use culvert_wire::TrustBundle;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet, time};

use acks::Acks;
use keys::KeyKeeper;
use leader::Leader;
pub use reviewer::{Agent, Expected, Reviewer, TokenRefusal};
use secrets::Names;
use status::Writer;
use taint::Taints;
use webhook::Webhook;

use crate::{
    api::Api,
    ca::{Authority, Given},
    cli::{CaArgs, KubeArgs, Run},
    index::{Kept, Owner, Reading, Sources},
    metrics::Metrics,
    run::{self, Serving},
    server::NodeBook,
    source::kube::KubeSource,
    state_dir::StateDir,
};

/// How often the issuing key is asked for while there is none.
const WAIT: Duration = Duration::from_secs(2);

/// The job: makes the CA's Secrets where they are missing, and a new issuing key where it is time.
pub async fn renew_keys(args: &CaArgs) -> anyhow::Result<secrets::Done> {
    let api = Api::connect(args.kube.kubeconfig.as_deref()).await?;
    let names = Names {
        namespace: args.kube.namespace.clone(),
        issuing: args.kube.issuing_secret.clone(),
        root: args.root_secret.clone(),
    };
    let domain = match &args.trust_domain {
        Some(domain) => domain.clone(),
        None => TrustDomain::parse(run::DEFAULT_TRUST_DOMAIN)?,
    };
    Ok(secrets::renew(&api, &names, &domain, args.force, SystemTime::now()).await?)
}

/// Serves until `stop` is done.
pub async fn serve(args: Run, state: StateDir, kept: Kept, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::pin!(stop);
    tokio::select! {
        ready = begin(&args, &state, kept) => {
            let serving = ready?;
            run::serve_state(&args, &state, serving, stop).await
        }
        () = &mut stop => Ok(()),
    }
}

/// Waits for everything that is needed, and starts what runs beside the control port.
async fn begin(args: &Run, state: &StateDir, kept: Kept) -> anyhow::Result<Serving> {
    let kube = &args.kube;
    let api = Api::connect(kube.kubeconfig.as_deref()).await?;
    let mut source = KubeSource::start(&api, Live { istio_labels: kube.istio_labels });
    let given = issuing(&api, kube).await;
    let reading = source.first_reading().await;
    let Reading::Catalog(catalog, _) = &reading else {
        anyhow::bail!("the first state of the API server is no state");
    };
    let domain = run::trust_domain(&args.mesh, given.trust_domain(), catalog)?;
    let now = SystemTime::now();
    let roots = given.roots()?;
    let roots = match keys::shown_roots(&api, &kube.namespace, &kube.root_config_map).await? {
        Some(shown) => roots.with(&shown),
        None => roots,
    };
    let authority = Arc::new(Authority::of(domain.clone(), &given, &roots, now)?);
    let bundle = TrustBundle { trust_domain: domain.clone(), authorities: roots.ders, sequence: seconds(now) };
    let sources = Sources { state: state.clone(), overrides: run::overrides(&args.mesh, domain), bundle };
    // Objects are the API server's to keep. Generations of several control planes never meet, but they grow, and slower
    // than the clock: whoever starts later begins beyond all that were given out.
    let kept = Kept { generation: kept.generation.max(1000 * seconds(now)), catalog: Catalog::default(), ..kept };
    let (owner, published) = Owner::new(sources, kept, reading)?;
    let (changes, queue) = mpsc::channel(64);
    let (metrics, nodes) = (Arc::new(Metrics::new()), Arc::new(NodeBook::default()));
    let me = own_name();
    let leader = Leader::new(api.clone(), &kube.namespace, me.clone());
    let keeper = KeyKeeper {
        api: api.clone(),
        namespace: kube.namespace.clone(),
        secret: kube.issuing_secret.clone(),
        config_map: kube.root_config_map.clone(),
        authority: Arc::clone(&authority),
        signing: given,
        changes: changes.clone(),
        published: published.clone(),
        nodes: Arc::clone(&nodes),
        leads: leader.leads(),
        hold: kube.root_hold,
        staged: None,
    };
    // They end with what they serve.
    let mut tasks = JoinSet::new();
    if let Some(address) = kube.webhook {
        let names = vec![format!("{}.{}.svc", kube.webhook_service, kube.namespace)];
        let webhook = Webhook::new(Arc::clone(&authority), names, Arc::clone(&metrics), now)?;
        let listener = TcpListener::bind(address).await.with_context(|| format!("--webhook {address}"))?;
        tasks.spawn(webhook.run(listener));
        let (name, authority) = (kube.webhook_configuration.clone(), Arc::clone(&authority));
        tasks.spawn(webhook::follow_roots(api.clone(), name, authority, leader.leads()));
    }
    let (records, leads) = (source.records(), leader.leads());
    let acks = Acks::new(api.clone(), &kube.namespace, me.clone());
    let writer = Writer::new(api.clone(), published.clone(), records, Arc::clone(&nodes), leads, acks, me);
    tasks.spawn(writer.run());
    if kube.startup_taint {
        tasks.spawn(Taints::new(api.clone(), Arc::clone(&nodes)).run());
    }
    tasks.spawn(owner.run(queue));
    tasks.spawn(source.run(changes.clone()));
    tasks.spawn(leader.run());
    tasks.spawn(keeper.run());
    let expected = Expected {
        namespace: kube.namespace.clone(),
        account: kube.agent_service_account.clone(),
        audience: kube.token_audience.clone(),
    };
    let reviewer = Some(Reviewer::new(api, expected, published.clone()));
    Ok(Serving { authority, published, changes, reviewer, metrics, nodes, tasks })
}

/// Waits for the issuing key: the job that makes it may not have run yet.
async fn issuing(api: &Api, kube: &KubeArgs) -> Given {
    loop {
        match secrets::issuing(api, &kube.namespace, &kube.issuing_secret).await {
            Ok(given) => return given,
            Err(error) if error.is_absent() => {
                tracing::warn!(
                    secret = kube.issuing_secret,
                    "there is no issuing key yet: `culvert-control ca` makes one"
                );
            }
            Err(error) => tracing::error!(reason = error.reason(), %error, "the issuing key cannot be read"),
        }
        time::sleep(WAIT).await;
    }
}

/// The pod's name, and something that two processes of one name do not share.
fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{:08x}", host.trim(), rand::random::<u32>())
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
