//! The control plane: reads a directory, serves delta xDS, signs identities. See `docs/control-plane.md`.

pub mod api;
pub mod audit;
pub mod ca;
pub mod cli;
pub mod cluster;
pub mod http;
pub mod index;
pub mod metrics;
pub mod roots;
pub mod run;
pub mod server;
pub mod source;
pub mod state_dir;
pub mod token;
