//! What is held.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::sockopt::{socket_acceptconn, socket_cookie};

/// Most pods: as many as the programs hold (`culvert_abi::MAX_PODS`).
const MAX_PODS: usize = 1024;

/// Why listeners are not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Slots and descriptors do not fit together.
    #[error("there are {slots} slots and {descriptors} descriptors")]
    Count {
        /// How many slots were named.
        slots: usize,
        /// How many descriptors came.
        descriptors: usize,
    },
    /// Only what waits for connections is kept.
    #[error("a descriptor is no listening socket")]
    NotAListener,
    /// There is an end to it.
    #[error("more than {MAX_PODS} pods")]
    TooManyPods,
    /// The kernel would not say or give something.
    #[error("a socket cannot be looked at or duplicated")]
    Socket(#[source] io::Error),
}

impl KeepError {
    /// Stable word for log and answer.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Count { .. } => "keep_count",
            Self::NotAListener => "keep_not_a_listener",
            Self::TooManyPods => "too_many_pods",
            Self::Socket(_) => "keep_socket",
        }
    }
}

/// The listeners of all pods, by UID and slot.
#[derive(Debug, Default)]
pub struct Keep {
    pods: BTreeMap<String, BTreeMap<u32, OwnedFd>>,
}

impl Keep {
    /// Keeps these in place of what is kept of the pod.
    pub fn put(&mut self, uid: &str, slots: &[u32], sockets: Vec<OwnedFd>) -> Result<(), KeepError> {
        if slots.len() != sockets.len() {
            return Err(KeepError::Count { slots: slots.len(), descriptors: sockets.len() });
        }
        if !sockets.iter().all(|socket| socket_acceptconn(socket).unwrap_or(false)) {
            return Err(KeepError::NotAListener);
        }
        if self.pods.len() >= MAX_PODS && !self.pods.contains_key(uid) {
            return Err(KeepError::TooManyPods);
        }
        self.pods.insert(uid.to_owned(), slots.iter().copied().zip(sockets).collect());
        Ok(())
    }

    /// Duplicates of what is kept of a pod; nothing is no error. The originals stay: their taker may die as well.
    pub fn take(&self, uid: &str) -> Result<(Vec<u32>, Vec<OwnedFd>), KeepError> {
        let Some(kept) = self.pods.get(uid) else { return Ok((Vec::new(), Vec::new())) };
        let duplicate = |socket: &OwnedFd| socket.as_fd().try_clone_to_owned().map_err(KeepError::Socket);
        let sockets = kept.values().map(duplicate).collect::<Result<_, _>>()?;
        Ok((kept.keys().copied().collect(), sockets))
    }

    /// Closes what is kept of a pod.
    pub fn drop(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// The kernel's name of each socket, by UID and slot.
    pub fn list(&self) -> Result<BTreeMap<String, BTreeMap<u32, u64>>, KeepError> {
        let cookie = |socket: &OwnedFd| socket_cookie(socket).map_err(|error| KeepError::Socket(error.into()));
        let of_pod = |kept: &BTreeMap<u32, OwnedFd>| {
            kept.iter().map(|(slot, socket)| Ok((*slot, cookie(socket)?))).collect::<Result<_, _>>()
        };
        self.pods.iter().map(|(uid, kept)| Ok((uid.clone(), of_pod(kept)?))).collect()
    }
}
