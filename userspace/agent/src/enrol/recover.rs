//! After a crash: the pods of the former agent, from pins and book, each checked against the kernel.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use culvert_redirect::PinnedPod;

use super::{EnrolError, Enroller, Entry, find};

/// Pause between two rounds for pods that could not be taken back at once.
const PAUSE: Duration = Duration::from_secs(2);

impl Enroller {
    /// Takes back every pod that has pins on this node. Repeats until each is taken back or gone.
    pub async fn recover(self: Arc<Self>) {
        // Nothing is decided before the control plane has said who lives where.
        let mut changes = self.parts.shared.current.changes();
        while self.parts.shared.current.get().is_none() {
            if changes.changed().await.is_err() {
                return;
            }
        }
        let mut warned = HashSet::new();
        loop {
            let left = self.round(&mut warned).await;
            self.parts.shared.current.set_recovered();
            if left == 0 {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One round; gives the number of pods that are still to be taken back.
    async fn round(self: &Arc<Self>, warned: &mut HashSet<String>) -> usize {
        let pinned = match self.pinned().await {
            Ok(pinned) => pinned,
            Err(text) => {
                tracing::error!(error = text, "the pins cannot be read");
                return 1;
            }
        };
        self.strike_out(&pinned);
        let held: HashSet<_> = self.pods().iter().map(|pod| pod.uid.to_string()).collect();
        let missing: Vec<_> = pinned.into_values().filter(|pin| !held.contains(&pin.uid)).collect();
        let attempts = missing.iter().map(|pin| self.take_back(pin));
        let results = futures::future::join_all(attempts).await;
        let mut left = 0;
        for (pin, result) in missing.iter().zip(results) {
            let Err(error) = result else { continue };
            match error {
                EnrolError::NoRecord(_)
                | EnrolError::OtherNode(_)
                | EnrolError::NotEnrolled
                | EnrolError::Ended
                | EnrolError::HostNetwork => self.let_go(&pin.uid, &error).await,
                error => {
                    left += 1;
                    if warned.insert(pin.uid.clone()) {
                        let reason = error.reason();
                        tracing::warn!(pod = pin.uid, reason, %error, "not taken back yet; the pod stays closed");
                    }
                }
            }
        }
        left
    }

    async fn take_back(self: &Arc<Self>, pin: &PinnedPod) -> Result<(), EnrolError> {
        let inode = pin.netns_inode;
        let netns = super::blocking(move || find::netns(inode)).await?.ok_or(EnrolError::NoNetns)?;
        self.enrol(&pin.uid, netns).await?;
        tracing::info!(pod = pin.uid, "pod taken back from a former agent");
        Ok(())
    }

    /// Pins whose namespace is alive; the others are cleaned up.
    async fn pinned(&self) -> Result<BTreeMap<String, PinnedPod>, String> {
        let redirect = self.parts.redirect.clone();
        let look = move || {
            let swept = redirect.sweep().map_err(|error| error.to_string())?;
            for uid in swept {
                tracing::info!(pod = uid, "pins of a pod that is gone were removed");
            }
            redirect.pinned().map_err(|error| error.to_string())
        };
        let pinned = super::blocking(look).await.map_err(|error| error.to_string())??;
        Ok(pinned.into_iter().filter(|pin| pin.netns_inode != 0).map(|pin| (pin.uid.clone(), pin)).collect())
    }

    /// The book says what a killed agent held; what the kernel does not confirm is struck out, and said.
    fn strike_out(&self, pinned: &BTreeMap<String, PinnedPod>) {
        let entries = self.parts.book.all().unwrap_or_else(|error| {
            tracing::warn!(%error, "the book of pods cannot be read");
            Vec::new()
        });
        for entry in entries {
            let confirmed = pinned.get(&entry.uid).is_some_and(|pin| confirms(pin, &entry));
            if !confirmed {
                let uid = &entry.uid;
                tracing::warn!(pod = uid, "the book of pods has a pod that the kernel does not confirm");
                let _ = self.parts.book.remove(uid);
            }
        }
    }
}

fn confirms(pin: &PinnedPod, entry: &Entry) -> bool {
    pin.netns_inode == entry.netns_inode && (pin.host_ifindex == 0 || pin.host_ifindex == entry.host_ifindex)
}
