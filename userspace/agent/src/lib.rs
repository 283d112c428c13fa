//! The node agent: takes the connections that the kernel hands over and carries each through
//! *accepted -> attributed -> authorized -> tunnelled -> outcome*. docs/architecture.md walks through one.

pub mod accepted;
mod acceptor;
pub mod admin;
pub mod assemble;
mod carried;
pub mod cni;
pub mod control;
pub mod coverage;
pub mod enrol;
pub mod harden;
pub mod inbound;
pub mod judge;
pub mod kubelet;
pub mod live;
pub mod log;
pub mod metrics;
pub mod outbound;
pub mod outcome;
pub mod places;
pub mod pod;
#[cfg(test)]
mod samples;
pub mod settings;
pub mod snapshot;
mod telemetry;
pub mod uninstall;
pub mod worker;
