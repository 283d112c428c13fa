//! Which of several control planes writes: a Lease of coordination.k8s.io.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::api::{Api, ApiError, Body};

const NAME: &str = "culvert-control";
/// A lease that nobody has renewed for so long is free.
const LIFE: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long stops writing: well before others take over.
const HOLD: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_secs(2);

/// The race for the lease.
#[derive(Debug)]
pub(super) struct Leader {
    api: Api,
    namespace: String,
    me: String,
    leads: watch::Sender<bool>,
    /// Holder and renewal as last seen, and since when they have been so. Clocks of others are not compared.
    seen: Option<(String, Instant)>,
    renewed: Option<Instant>,
}

impl Leader {
    /// `me`: a name that nobody else has.
    pub(super) fn new(api: Api, namespace: &str, me: String) -> Self {
        let leads = watch::Sender::new(false);
        Self { api, namespace: namespace.to_owned(), me, leads, seen: None, renewed: None }
    }

    /// Does this process lead.
    pub(super) fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Races for ever.
    pub(super) async fn run(mut self) {
        loop {
            match time::timeout(HOLD / 2, self.round()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.is(409) => tracing::debug!("another one was faster at the lease"),
                Ok(Err(error)) => {
                    tracing::warn!(reason = error.reason(), %error, "the lease cannot be read or written")
                }
                Err(_) => tracing::warn!("the lease cannot be read or written in time"),
            }
            let leads = self.renewed.is_some_and(|renewed| renewed.elapsed() < HOLD);
            if self.leads.send_if_modified(|before| std::mem::replace(before, leads) != leads) {
                tracing::info!(leads, me = self.me, "leadership");
            }
            time::sleep(LOOK).await;
        }
    }

    async fn round(&mut self) -> Result<(), ApiError> {
        let all = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace);
        let path = format!("{all}/{NAME}");
        let lease = match self.api.get(&path).await {
            Ok(lease) => lease,
            Err(error) if error.is(404) => {
                let fresh = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": NAME, "namespace": self.namespace}, "spec": self.spec(0)});
                self.api.send(Method::POST, &all, Body::Whole, &fresh).await?;
                self.renewed = Some(Instant::now());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if !self.is_mine_or_free(&lease["spec"]) {
            self.renewed = None;
            return Ok(());
        }
        let transitions = lease["spec"]["leaseTransitions"].as_i64().unwrap_or_default();
        let changes = i64::from(lease["spec"]["holderIdentity"] != *self.me);
        let mut next = lease;
        next["spec"] = self.spec(transitions + changes);
        let asked = Instant::now();
        // With the version that was read: whoever writes second is refused.
        self.api.send(Method::PUT, &path, Body::Whole, &next).await?;
        self.renewed = Some(asked);
        Ok(())
    }

    fn is_mine_or_free(&mut self, spec: &Value) -> bool {
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        if holder == self.me || holder.is_empty() {
            return true;
        }
        let now = format!("{holder} {}", spec["renewTime"]);
        match &self.seen {
            Some((seen, since)) if *seen == now => since.elapsed() >= LIFE,
            _ => {
                self.seen = Some((now, Instant::now()));
                false
            }
        }
    }

    fn spec(&self, transitions: i64) -> Value {
        json!({"holderIdentity": self.me, "leaseDurationSeconds": LIFE.as_secs(), "renewTime": micro_time(),
            "acquireTime": micro_time(), "leaseTransitions": transitions})
    }
}

/// Kubernetes' MicroTime.
fn micro_time() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader() -> Leader {
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
        Leader::new(Api::of(client), "culvert-system", "me".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_free_once_nobody_has_renewed_it_for_its_life_by_our_own_clock() {
        let mut leader = leader();
        let of = |holder: &str, renewed: &str| json!({"holderIdentity": holder, "renewTime": renewed});
        assert!(leader.is_mine_or_free(&of("me", "long ago")));
        assert!(leader.is_mine_or_free(&of("", "long ago")));
        assert!(!leader.is_mine_or_free(&of("you", "long ago")), "their clock is not compared with ours");
        time::advance(LIFE - Duration::from_secs(1)).await;
        assert!(!leader.is_mine_or_free(&of("you", "long ago")));
        time::advance(Duration::from_secs(1)).await;
        assert!(leader.is_mine_or_free(&of("you", "long ago")));
        assert!(!leader.is_mine_or_free(&of("you", "now")), "it was renewed");
    }
}
