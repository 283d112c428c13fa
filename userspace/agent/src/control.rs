//! The control plane's client: what it says becomes one snapshot per generation.

pub mod state;
