//! After a rotation: tunnels with the former credentials take no new stream, and peers prove themselves anew so that
//! open streams may go on.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_mtls::Expected;
use culvert_tunnel::{Route, TunnelKey};

use super::dial::dialler;
use crate::{pod::Pod, worker::Worker};

/// Attempts to prove a peer again, with doubling pauses between them.
const ATTEMPTS: u32 = 6;

/// The pod has newer credentials, or bundles have changed, or it is time to look: retire what was made with older ones, prove what is open.
pub(crate) async fn rotate(worker: Rc<Worker>, pod: Arc<Pod>) {
    retire_served(&worker, &pod);
    let mut keys = Vec::new();
    for domain in pod.local.trust().bundles().snapshot().trust_domains() {
        let bundle = pod.local.trust().bundles().generation_of(domain.as_str());
        let generation = culvert_tunnel::Generation { svid: pod.local.generation(), bundle };
        let unproven = worker.pool.unproven(pod.identity(), generation);
        keys.extend(unproven.into_iter().filter(|key| key.destination.trust_domain_str() == domain.as_str()));
    }
    if let Some(deadline) = deadline(&pod) {
        let expiring = worker.pool.expiring(deadline);
        keys.extend(expiring.into_iter().filter(|key| key.source == *pod.identity()));
    }
    keys.sort_by_key(|key| (key.address, key.peer.clone()));
    keys.dedup();
    for key in keys.into_iter().filter(|key| pod.addresses.contains(&key.from)) {
        tokio::task::spawn_local(prove(worker.clone(), pod.clone(), key));
    }
}

/// Tunnels to the pod that were made with other credentials or bundles than those of now take no new stream.
pub(crate) fn retire_served(worker: &Worker, pod: &Pod) {
    let serving = pod.serving_generation();
    worker.server.retire(|local, peer| {
        pod.addresses.contains(&peer.local.ip()) && local.identity == *pod.identity() && peer.generation != serving
    });
}

/// Proofs that end before this are made anew: a third of what is left of our own SVID, which is never less than half of
/// its life while renewal works. The peer, which renews at half of its own, has a newer SVID to show by then.
fn deadline(pod: &Pod) -> Option<SystemTime> {
    Some(SystemTime::now() + pod.svid_left()? / 3)
}

async fn prove(worker: Rc<Worker>, pod: Arc<Pod>, key: TunnelKey) {
    let mut pause = Duration::from_secs(1);
    for _ in 0..ATTEMPTS {
        let Ok(route) = route(&pod, &key) else { return };
        let (netns, gate) = (pod.netns.clone(), key.address);
        match worker.pool.prove(&route, || dialler(netns, gate)).await {
            Ok(until) => {
                let left = until.duration_since(SystemTime::now()).unwrap_or_default();
                tracing::debug!(peer = %key.destination, from = %key.from, ?left, "the peer has proven itself again");
                return;
            }
            Err(error) => {
                tracing::info!(peer = %key.destination, reason = error.reason(), "the peer did not prove itself again");
            }
        }
        tokio::select! {
            () = pod.gone.cancelled() => return,
            () = tokio::time::sleep(pause) => pause *= 2,
        }
    }
}

fn route(pod: &Pod, key: &TunnelKey) -> Result<Route, culvert_mtls::Refusal> {
    Ok(Route {
        key: key.clone(),
        generation: pod.dialling_generation(&key.destination),
        tls: pod.local.client_config(&Expected::one(key.destination.clone()))?,
        until: pod.local.credentials()?.not_after(),
    })
}
