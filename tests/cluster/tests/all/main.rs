//! culvert on a real Kubernetes with two nodes. `cargo xtask cluster test` runs it.

mod chart;
mod ground;
mod mesh;
mod outage;
mod policy;
mod probes;
