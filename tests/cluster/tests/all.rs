//! culvert on a real Kubernetes with two nodes. `cargo xtask cluster test` runs it.

mod ground;
mod mesh;
