//! Prometheus metrics: Istio's TCP set under its own names and labels, and what the agent adds.

mod kin;
mod observed;
mod own;
mod tcp;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use prometheus_client::{encoding::text::encode, registry::Registry};

pub use observed::Observed;
pub use own::{Kernel, Own};
pub use tcp::{Series, Tcp};

/// All metrics of the agent.
#[derive(Debug)]
pub struct Metrics {
    /// Istio's per-connection set.
    pub tcp: Arc<Tcp>,
    /// Handshakes, decisions, rotations, pods.
    pub own: Own,
    registry: Registry,
}

impl Metrics {
    /// `series`: most label sets of the TCP set; 0 switches it off.
    pub fn new(series: usize) -> Self {
        let mut registry = Registry::default();
        let tcp = Arc::new(Tcp::register(&mut registry, series));
        let own = Own::register(&mut registry);
        Self { tcp, own, registry }
    }

    /// The text that Prometheus reads; the bytes of live connections are brought up to date first.
    pub fn text(&self) -> String {
        self.tcp.count_live();
        let mut text = String::new();
        // Writing to a String cannot fail; should an encoder refuse, what it wrote so far is still shown.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
