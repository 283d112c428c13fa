//! culvert on a real Kubernetes with two nodes. `cargo xtask cluster test` runs it.

mod admission;
mod chart;
mod churn;
mod given;
mod ground;
mod leave;
mod losses;
mod mesh;
mod outage;
mod policy;
mod probes;
mod services;
mod start;
mod stolen;
