//! Leaving a node for good: asked for by name, never inferred from an agent's end.

use std::sync::atomic::Ordering;

use super::{EnrolError, Enroller};

impl Enroller {
    /// Refuses new pods once the node is being left.
    pub(super) fn staying(&self) -> Result<(), EnrolError> {
        if self.leaving.load(Ordering::Acquire) { Err(EnrolError::Uninstalling) } else { Ok(()) }
    }

    /// Takes the CNI configuration and the plugin away, then lets every pod go. Repeating it changes nothing.
    pub async fn uninstall(&self) -> Result<(), EnrolError> {
        self.leaving.store(true, Ordering::Release);
        if let Some(cni) = self.parts.cni.clone() {
            super::blocking(move || cni.remove()).await?.map_err(EnrolError::Cni)?;
        }
        let changing = self.changing.lock().await;
        let pinned = self.pinned().await.map_err(EnrolError::Pins)?;
        for uid in pinned.keys() {
            self.withdraw_alone(&changing, uid).await?;
        }
        tracing::info!(pods = pinned.len(), "uninstalled: no pod is culvert's any more, and none is taken");
        Ok(())
    }
}
