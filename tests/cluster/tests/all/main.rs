//! culvert on a real Kubernetes with two nodes. `cargo xtask cluster test` runs it.

mod admission;
mod chart;
mod ground;
mod mesh;
mod outage;
mod policy;
mod probes;
mod start;
