//! The pods' listeners at the keeper: put there when a pod is captured, taken back when an agent finds the pod again.

use std::{collections::BTreeSet, path::PathBuf};

use culvert_handover::{ProtocolError, keeping::Client};
use culvert_redirect::Listeners;

use super::{Enroller, blocking};

/// Where the keeper is.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// Its socket.
    pub socket: PathBuf,
}

impl Keeping {
    fn client(&self) -> Client<'_> {
        Client { socket: &self.socket }
    }

    fn take(&self, uid: &str) -> Result<Option<Listeners>, ProtocolError> {
        let kept = self.client().take(uid)?;
        Ok(Listeners::from_slots(kept.slots.into_iter().zip(kept.sockets)))
    }

    fn put(&self, uid: &str, listeners: &Listeners) -> Result<(), ProtocolError> {
        let (slots, sockets): (Vec<_>, Vec<_>) = listeners.descriptors().into_iter().unzip();
        self.client().put(uid, slots, &sockets)
    }
}

impl Enroller {
    /// What the keeper has of a pod.
    pub(super) async fn kept(&self, uid: &str) -> Option<Listeners> {
        let (keeping, name) = (self.parts.keeping.clone()?, uid.to_owned());
        match blocking(move || keeping.take(&name)).await.ok()? {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(pod = uid, %error, "the keeper was not asked for the pod's listeners");
                None
            }
        }
    }

    /// Has the keeper hold a pod's listeners. Gives the duplicates that it was told about, for when it has to be told
    /// again; nothing without a keeper.
    pub(super) async fn keep(&self, uid: &str, listeners: &Listeners) -> Option<Listeners> {
        let keeping = self.parts.keeping.clone()?;
        let copies = listeners.try_clone().and_then(|first| Ok((first, listeners.try_clone()?)));
        let (first, second) = match copies {
            Ok(copies) => copies,
            Err(error) => {
                tracing::warn!(pod = uid, %error, "the pod's listeners are not kept");
                return None;
            }
        };
        let name = uid.to_owned();
        if let Ok(Err(error)) = blocking(move || keeping.put(&name, &first)).await {
            tracing::warn!(pod = uid, %error, "the pod's listeners are not kept yet: while no agent runs, its new connections are dropped");
        }
        Some(second)
    }

    /// Has the keeper close what it holds of a pod.
    pub(super) async fn drop_kept(&self, uid: &str) {
        let Some(keeping) = self.parts.keeping.clone() else { return };
        let name = uid.to_owned();
        if let Ok(Err(error)) = blocking(move || keeping.client().drop(&name)).await {
            tracing::debug!(pod = uid, %error, "the keeper was not told of the end of a pod");
        }
    }

    /// Compares what the keeper has with what it should have: it may have been restarted, pods may have ended while no
    /// agent was there.
    pub(super) async fn compare_kept(&self) {
        let Some(keeping) = self.parts.keeping.clone() else { return };
        let own = &self.parts.shared.metrics.own;
        let Ok(Ok(kept)) = blocking(move || keeping.client().list()).await else {
            own.pods_kept.set(0);
            return;
        };
        own.pods_kept.set(i64::try_from(kept.len()).unwrap_or(i64::MAX));
        let missing: Vec<_> = {
            let held = self.held();
            let differs = |uid: &str, listeners: &Listeners| listeners.cookies().ok().as_ref() != kept.get(uid);
            let all = held.iter().filter_map(|(uid, held)| Some((uid.to_string(), held.listeners.as_ref()?)));
            all.filter(|(uid, listeners)| differs(uid, listeners))
                .filter_map(|(uid, listeners)| Some((uid, listeners.try_clone().ok()?)))
                .collect()
        };
        for (uid, listeners) in missing {
            self.keep(&uid, &listeners).await;
        }
        self.drop_strangers(kept.into_keys().collect()).await;
    }

    /// Nobody can have pods here without pins: what is kept of others would only keep their namespaces alive.
    async fn drop_strangers(&self, kept: BTreeSet<String>) {
        // Not in the middle of an enrolment, whose listeners may be kept before its pod is held.
        let Ok(_changing) = self.changing.try_lock() else { return };
        let Ok(pinned) = self.pinned().await else { return };
        for uid in kept.into_iter().filter(|uid| !pinned.contains_key(uid)) {
            tracing::info!(pod = uid, "listeners of a pod that is gone are kept no longer");
            self.drop_kept(&uid).await;
        }
    }
}
