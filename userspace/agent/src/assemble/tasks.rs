//! Small tasks of the main runtime: signals, rotations, kernel events.

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use culvert_mtls::TrustBundles;
use culvert_redirect::Redirect;
use culvert_tunnel::Generation;
use culvert_workload::WorkloadUid;
use tokio::signal::unix::{SignalKind, signal};

use crate::{enrol::Enroller, metrics::Metrics, places::Places, pod::Pod, worker::Workers};

/// How often SVIDs and bundles are looked at for changes.
const LOOK: Duration = Duration::from_millis(500);
/// How often open connections are counted while draining.
const QUIET: Duration = Duration::from_millis(50);

/// SIGTERM or SIGINT.
pub(super) async fn until_stopped() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// No connection is open, or on its way from its listener to its tunnel.
pub(super) async fn until_quiet(places: &Places) {
    while !places.are_free() {
        tokio::time::sleep(QUIET).await;
    }
}

/// No pod has an open connection.
pub(super) async fn until_ended(enroller: &Enroller) {
    while enroller.pods().iter().any(|pod| !pod.live.is_empty()) {
        tokio::time::sleep(QUIET).await;
    }
}

/// Tells the workers of each pod whose SVID or bundles have changed since its tunnels were made.
pub(super) async fn rotations(
    enroller: Arc<Enroller>,
    workers: Arc<Workers>,
    bundles: TrustBundles,
    metrics: Arc<Metrics>,
) {
    let mut known: HashMap<WorkloadUid, Looked> = HashMap::new();
    let mut of_bundles = bundles.generation();
    loop {
        tokio::time::sleep(LOOK).await;
        let pods = enroller.pods();
        let same_bundles = std::mem::replace(&mut of_bundles, bundles.generation()) == of_bundles;
        known.retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
        for pod in &pods {
            let now = pod.serving_generation();
            let looked = known.entry(pod.uid.clone()).or_insert_with(|| Looked { generation: now, at: Instant::now() });
            if looked.generation != now || !same_bundles || looked.at.elapsed() > period(pod) {
                *looked = Looked { generation: now, at: Instant::now() };
                workers.rotated(pod);
            }
        }
        metrics.own.tunnels.set(tunnels(&workers).await);
        let first = enroller.keeper().statuses().into_iter().filter_map(|(_, _, status)| status.not_after).min();
        if let Some(end) = first {
            let left = end.duration_since(std::time::SystemTime::now()).map_or(0, |left| left.as_secs());
            metrics.own.svid_expiry.set(i64::try_from(left).unwrap_or(i64::MAX));
        }
    }
}

/// When a pod's tunnels were last looked at, and what they should have been made with.
struct Looked {
    generation: Generation,
    at: Instant,
}

/// Often enough that a proof which is about to end is made anew in time, whoever's SVID it is that ends.
fn period(pod: &Pod) -> Duration {
    pod.svid_left().map_or(LOOK, |left| (left / 12).max(LOOK))
}

async fn tunnels(workers: &Workers) -> i64 {
    let count = workers.count().await;
    i64::try_from(count.dialled + count.served).unwrap_or(i64::MAX)
}

/// Logs what the kernel has dropped.
pub(super) async fn kernel_events(redirect: Arc<Redirect>) {
    let mut events = match redirect.events() {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(reason = error.reason(), %error, "drops of the kernel are not logged");
            return;
        }
    };
    loop {
        match events.next().await {
            Ok(event) => {
                let (reason, pod) = (event.reason.name(), event.uid.as_deref());
                let (source, destination) = (event.source, event.destination);
                tracing::info!(target: "kernel", by = ?event.by, reason, pod, %source, %destination, protocol = event.protocol, "dropped");
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel's events cannot be read");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
