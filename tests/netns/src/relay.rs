//! A plaintext relay: what an agent does, without identities. It claims no security.
//!
//! Outbound: to the original destination over the wire. Inbound: to the app, in the client's name.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use culvert_lab::Node;
use culvert_redirect::{Netns, PodRedirect};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// A running relay of one pod. Dropped, it closes listeners and connections, as a killed agent does.
#[derive(Debug)]
pub struct Relay {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
    /// What it did.
    pub tally: Arc<Tally>,
}

/// What a relay did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections of the pod's processes.
    pub outbound: AtomicU64,
    /// Connections from the wire.
    pub inbound: AtomicU64,
    /// Legs that could not be connected.
    pub failed: AtomicU64,
    /// Connections to its own listeners, closed.
    pub own: AtomicU64,
}

impl Tally {
    /// Legs that could not be connected.
    pub fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Relay {
    /// Starts on a thread in the node's netns.
    pub fn start(node: &Node, pod: PodRedirect) -> Result<Relay> {
        let tally = Arc::new(Tally::default());
        let (stop, stopped) = oneshot::channel();
        let counted = tally.clone();
        let thread = node.netns().enter_detached(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let _tasks = serve(pod, &counted)?;
                let _ = stopped.await;
                Ok(())
            })
        })?;
        Ok(Relay { stop: Some(stop), thread: Some(thread), tally })
    }

    /// Ends it and waits until its sockets are closed.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take() {
            Some(thread) => thread.join().ok().context("the relay panicked")?,
            None => Ok(()),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Starts to accept; on a runtime. Ends when the returned set is dropped.
pub fn serve(pod: PodRedirect, tally: &Arc<Tally>) -> Result<tokio::task::JoinSet<()>> {
    let mut tasks = tokio::task::JoinSet::new();
    let listeners = pod.listeners;
    let outbound = [Some(listeners.outbound_v4), listeners.outbound_v6];
    let inbound = [Some(listeners.inbound_v4), listeners.inbound_v6];
    for (listener, out) in outbound.map(|l| (l, true)).into_iter().chain(inbound.map(|l| (l, false))) {
        let Some(listener) = listener else { continue };
        tasks.spawn(accept(listener, out, pod.netns.clone(), tally.clone()));
    }
    Ok(tasks)
}

async fn accept(listener: TcpListener, out: bool, netns: Netns, tally: Arc<Tally>) {
    let own = listener.local_addr().ok();
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if stream.local_addr().ok() == own {
            tally.own.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let counter = if out { &tally.outbound } else { &tally.inbound };
        counter.fetch_add(1, Ordering::Relaxed);
        let (netns, tally) = (netns.clone(), tally.clone());
        tokio::spawn(async move {
            let done = if out { outbound(stream, &netns).await } else { inbound(stream, &netns).await };
            if done.is_err() {
                tally.failed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// An end that is told as a reset, so that the other side sees a failure and no orderly end.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}

async fn splice(mut a: TcpStream, mut b: TcpStream) {
    if copy_bidirectional(&mut a, &mut b).await.is_err() {
        reset(&a);
        reset(&b);
    }
}

async fn outbound(client: TcpStream, netns: &Netns) -> Result<()> {
    let destination = client.local_addr()?;
    let leg = if netns.is_own(destination.ip()) {
        netns.connect_plain(destination).await
    } else {
        netns.connect_wire(destination).await
    };
    let server = leg.inspect_err(|_| reset(&client))?;
    splice(client, server).await;
    Ok(())
}

async fn inbound(peer: TcpStream, netns: &Netns) -> Result<()> {
    let (client, destination) = (peer.peer_addr()?, peer.local_addr()?);
    let leg = netns.connect_app(client.ip(), destination).await.inspect_err(|error| {
        eprintln!("app leg for {client} to {destination}: {error}");
        reset(&peer);
    })?;
    splice(peer, leg.stream).await;
    Ok(())
}
