//! What the agent tells: metrics and readiness on TCP, everything else to root on a Unix socket.

mod answers;
mod http;
pub mod protocol;
mod socket;
#[cfg(test)]
mod tests;
mod why;

pub use http::serve as serve_metrics;
pub use socket::{Desk, serve};
