//! The main job, end to end, on the real binaries: control plane, two agents, real processes in the pods.
//!
//! [`mesh::Mesh`] starts everything in a sandbox; [`demo`] calls and judges; the tests in `tests/` are about what must
//! hold when things die, change or get large.

pub mod access;
pub mod call;
pub mod demo;
pub mod fixture;
pub mod http;
pub mod mesh;
pub mod streams;
pub mod world;
