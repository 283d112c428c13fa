//! Tunnels that we dial: who shares one, who waits for one, when it goes.

use std::{future::Future, io, rc::Rc, sync::Arc, time::SystemTime};

use culvert_identity::SpiffeId;
use tokio::net::TcpStream;

use crate::{
    connect::ConnectRequest,
    error::OpenError,
    key::{Generation, Route, TunnelKey},
    limits::Limits,
    proofs::Proofs,
    stream::TunnelStream,
};

/// The dialled tunnels of one worker thread. A clone is the same pool.
///
/// Must be used inside a `LocalSet` (or a local runtime): each tunnel is driven by a task of its own.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    proofs: Arc<Proofs>,
}

/// How many tunnels and streams a pool has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCount {
    /// Tunnels, dying ones included.
    pub tunnels: usize,
    /// Tunnels that take no new stream.
    pub retired: usize,
    /// Open streams.
    pub streams: usize,
    /// Dials in progress.
    pub dials: usize,
}

impl Pool {
    /// An empty pool. `proofs` is shared by all workers of the agent.
    pub fn new(limits: Limits, proofs: Arc<Proofs>) -> Self {
        Self { inner: Rc::new(Inner { limits, proofs }) }
    }

    /// Opens a stream: over a tunnel that has room and was made with `route.generation`, else over a new one.
    ///
    /// `dial` makes the TCP connection and runs only if this call is the one that dials: at most one dial per
    /// [`TunnelKey`] is in flight, others wait for it and share its failure. The dial goes on when its caller is
    /// dropped. Tunnels of other generations take no new stream from here on.
    pub async fn open<D, F>(&self, route: &Route, request: &ConnectRequest, dial: D) -> Result<TunnelStream, OpenError>
    where
        D: FnOnce() -> F,
        F: Future<Output = io::Result<TcpStream>> + 'static,
    {
        let _ = (route, request, dial().await, &self.inner.limits, &self.inner.proofs);
        todo!()
    }

    /// Makes a fresh handshake with the peer of `route`, so that the streams of older tunnels to it may go on; gives
    /// the end of the new proof. To be called for each key of [`Pool::unproven`] once per SVID lifetime.
    pub async fn prove<D, F>(&self, route: &Route, dial: D) -> Result<SystemTime, OpenError>
    where
        D: FnOnce() -> F,
        F: Future<Output = io::Result<TcpStream>> + 'static,
    {
        let _ = (route, dial().await);
        todo!()
    }

    /// The keys of `source` that carry streams on tunnels of an older generation and have no tunnel of `generation`.
    pub fn unproven(&self, source: &SpiffeId, generation: Generation) -> Vec<TunnelKey> {
        let _ = (source, generation);
        todo!()
    }

    /// Takes the tunnels whose key fits out of use: no new streams, open ones go on.
    pub fn retire(&self, which: impl Fn(&TunnelKey) -> bool) {
        let _ = which;
        todo!()
    }

    /// Ends the tunnels whose key fits, streams included, with a stable snake_case reason.
    pub fn end(&self, which: impl Fn(&TunnelKey) -> bool, reason: &'static str) {
        let _ = (which, reason);
        todo!()
    }

    /// Opens nothing any more, and closes each tunnel when its last stream is done.
    pub fn drain(&self) {
        todo!()
    }

    /// What the pool holds.
    pub fn count(&self) -> PoolCount {
        todo!()
    }
}
