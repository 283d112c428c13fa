//! The control plane: reads a directory, serves delta xDS, signs identities. See `docs/control-plane.md`.

pub mod ca;
pub mod state_dir;
