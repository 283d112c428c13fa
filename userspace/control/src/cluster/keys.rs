//! Following the issuing key's Secret: new roots reach every agent before anything is signed under them.
//!
//! The roots in force are those of the Secret and those that the ConfigMap still shows: a root that is no longer the
//! Secret's stays until every leaf under it has ended. The leader writes the ConfigMap; agents hold the control plane's
//! certificate against it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use super::secrets::{self, KeysError};
use crate::{
    api::{Api, ApiError, Body},
    audit::rfc3339,
    ca::{Authority, Given, MAX_LEAF_LIFE, Roots},
    index::{Change, Published},
    server::NodeBook,
};

const LOOK: Duration = Duration::from_secs(5);
/// A root that is no longer the Secret's is kept for so long after it has last been.
const RETIRE: Duration = Duration::from_secs(MAX_LEAF_LIFE.as_secs() + 3600);
const RETIRES: &str = "culvert.dev/roots-retire";
const ENTRY: &str = "root.pem";

/// Keeps the authority as the Secret says.
#[derive(Debug)]
pub(super) struct KeyKeeper {
    /// The API server.
    pub(super) api: Api,
    /// Culvert's namespace.
    pub(super) namespace: String,
    /// Name of the Secret.
    pub(super) secret: String,
    /// Name of the ConfigMap with the roots.
    pub(super) config_map: String,
    /// What signs.
    pub(super) authority: Arc<Authority>,
    /// What the authority signs with now.
    pub(super) signing: Given,
    /// Tells agents of roots.
    pub(super) changes: mpsc::Sender<Change>,
    /// What agents have been told.
    pub(super) published: watch::Receiver<Published>,
    /// What agents have taken.
    pub(super) nodes: Arc<NodeBook>,
    /// May this process write.
    pub(super) leads: watch::Receiver<bool>,
    /// A new issuing key under new roots waits at least so long: other control planes, agents that are away for a moment
    /// and mounted ConfigMaps have to show the roots as well.
    pub(super) hold: Duration,
    /// A key that waits until its roots are everywhere.
    pub(super) staged: Option<Staged>,
}

/// A key that waits.
#[derive(Debug)]
pub(super) struct Staged {
    given: Given,
    since: Instant,
    /// The generation that has its roots; agents have to have taken it.
    generation: u64,
}

/// The roots in the ConfigMap, and when those go that are no longer the Secret's.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Shown {
    roots: Vec<Vec<u8>>,
    retire: BTreeMap<String, u64>,
}

impl KeyKeeper {
    /// Looks for ever.
    pub(super) async fn run(mut self) {
        loop {
            if let Err(error) = self.look(SystemTime::now()).await {
                tracing::error!(reason = error.reason(), %error, "the issuing key stays as it is");
            }
            time::sleep(LOOK).await;
        }
    }

    async fn look(&mut self, now: SystemTime) -> Result<(), KeysError> {
        let given = secrets::issuing(&self.api, &self.namespace, &self.secret).await?;
        let wanted = given.roots().map_err(|error| self.broken(error))?;
        let held = self.config_map().await?;
        let mut shown = held.as_ref().map(Shown::of).unwrap_or_default();
        if *self.leads.borrow() {
            shown.follow(&wanted, &self.signing_roots()?, now);
            if held.as_ref().map(Shown::of).as_ref() != Some(&shown) {
                self.write(&shown, held).await?;
            }
        }
        let roots = wanted.with(&self.signing_roots()?).with(&Roots::of_ders(shown.roots));
        self.tell(roots).await;
        self.take(given, now)
    }

    fn signing_roots(&self) -> Result<Roots, KeysError> {
        self.signing.roots().map_err(|error| self.broken(error))
    }

    fn broken(&self, error: crate::ca::CaError) -> KeysError {
        KeysError::Ca { name: self.secret.clone(), error }
    }

    /// Tells agents of the roots, where they do not know them.
    async fn tell(&mut self, roots: Roots) {
        if roots == self.authority.roots() {
            return;
        }
        tracing::info!(roots = roots.ders.len(), "the roots of the trust domain have changed");
        self.authority.set_roots(&roots);
        self.published.mark_unchanged();
        if self.changes.send(Change::Roots(roots.ders)).await.is_ok() {
            // Published at once; a little patience for a busy index.
            let _ = time::timeout(Duration::from_secs(2), self.published.changed()).await;
        }
    }

    /// Signs with what the Secret says: at once under roots that were known before, else when agents have taken them.
    fn take(&mut self, given: Given, now: SystemTime) -> Result<(), KeysError> {
        if given == self.signing {
            self.staged = None;
            return Ok(());
        }
        let known = self.signing_roots()?.hold(&given.roots().map_err(|error| self.broken(error))?);
        if !known {
            let generation = self.published.borrow().snapshot.generation;
            let staged = self.staged.take().filter(|staged| staged.given == given);
            let staged = staged.unwrap_or_else(|| {
                tracing::info!("a new issuing key waits until agents have taken its roots");
                Staged { given: given.clone(), since: Instant::now(), generation }
            });
            let everywhere = staged.since.elapsed() >= self.hold && self.taken(staged.generation);
            self.staged = Some(staged);
            if !everywhere {
                return Ok(());
            }
        }
        self.authority.set_issuing(&given, now).map_err(|error| self.broken(error))?;
        tracing::info!(ends = rfc3339(self.authority.issuing_not_after()), "a new issuing key signs from now on");
        (self.signing, self.staged) = (given, None);
        Ok(())
    }

    /// Have all agents with a stream taken this generation.
    fn taken(&self, generation: u64) -> bool {
        self.nodes.all().values().all(|node| node.streams == 0 || node.answered_generation >= generation)
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{}", self.namespace, self.config_map)
    }

    async fn config_map(&self) -> Result<Option<Value>, ApiError> {
        match self.api.get(&self.path()).await {
            Ok(map) => Ok(Some(map)),
            Err(error) if error.is(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, shown: &Shown, held: Option<Value>) -> Result<(), ApiError> {
        let retire = serde_json::to_string(&shown.retire).unwrap_or_default();
        let pem = Roots::of_ders(shown.roots.clone()).pem;
        let mut map = held.clone().unwrap_or_else(|| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": self.config_map,
                "namespace": self.namespace, "labels": {"app.kubernetes.io/part-of": "culvert"}}})
        });
        map["data"][ENTRY] = pem.into();
        map["metadata"]["annotations"][RETIRES] = retire.into();
        match held {
            Some(_) => self.api.send(Method::PUT, &self.path(), Body::Whole, &map).await?,
            None => {
                let all = format!("/api/v1/namespaces/{}/configmaps", self.namespace);
                self.api.send(Method::POST, &all, Body::Whole, &map).await?
            }
        };
        Ok(())
    }
}

/// The roots that the ConfigMap shows, as an earlier control plane left them.
pub(super) async fn shown_roots(api: &Api, namespace: &str, name: &str) -> Result<Option<Roots>, ApiError> {
    match api.get(&format!("/api/v1/namespaces/{namespace}/configmaps/{name}")).await {
        Ok(map) => Ok(Some(Roots::of_ders(Shown::of(&map).roots))),
        Err(error) if error.is(404) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Shown {
    fn of(map: &Value) -> Self {
        let pem = map["data"][ENTRY].as_str().unwrap_or_default();
        let retire = map["metadata"]["annotations"][RETIRES].as_str().unwrap_or_default();
        Self {
            roots: Roots::of_pem(pem).map(|roots| roots.ders).unwrap_or_default(),
            retire: serde_json::from_str(retire).unwrap_or_default(),
        }
    }

    /// Adds what is wanted; what is not wanted any more gets an end, and goes when that has come.
    fn follow(&mut self, wanted: &Roots, signing: &Roots, now: SystemTime) {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.roots = Roots::of_ders(std::mem::take(&mut self.roots)).with(wanted).with(signing).ders;
        let mut retire = BTreeMap::new();
        self.roots.retain(|der| {
            let one = Roots::of_ders(vec![der.clone()]);
            if wanted.hold(&one) || signing.hold(&one) {
                return true;
            }
            let name = hex::encode(Sha256::digest(der));
            let end = self.retire.get(&name).copied().unwrap_or(now + RETIRE.as_secs());
            let stays = end > now;
            if stays {
                retire.insert(name, end);
            }
            stays
        });
        self.retire = retire;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::new_root;

    fn roots() -> Roots {
        let domain = culvert_identity::TrustDomain::parse("cluster.local").unwrap();
        Roots::of_pem(&new_root(&domain, SystemTime::now()).unwrap().1).unwrap()
    }

    #[test]
    fn a_root_that_is_replaced_is_shown_until_every_leaf_under_it_has_ended() {
        let (old, new) = (roots(), roots());
        let now = SystemTime::now();
        let mut shown = Shown::default();
        shown.follow(&old, &old, now);
        assert_eq!((shown.roots.clone(), shown.retire.len()), (old.ders.clone(), 0));
        shown.follow(&new, &old, now);
        assert_eq!((shown.roots.len(), shown.retire.len()), (2, 0), "the old one still signs");
        shown.follow(&new, &new, now);
        assert_eq!((shown.roots.len(), shown.retire.len()), (2, 1));
        let map = json!({"data": {ENTRY: Roots::of_ders(shown.roots.clone()).pem},
            "metadata": {"annotations": {RETIRES: serde_json::to_string(&shown.retire).unwrap()}}});
        let mut shown = Shown::of(&map);
        shown.follow(&new, &new, now + MAX_LEAF_LIFE);
        assert_eq!(shown.roots.len(), 2, "a leaf of a day may still be in use");
        shown.follow(&new, &new, now + RETIRE);
        assert_eq!((shown.roots, shown.retire.len()), (new.ders, 0));
    }
}
