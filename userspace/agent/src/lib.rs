//! The node agent: takes the connections that the kernel hands over and carries each through
//! *accepted -> attributed -> authorized -> tunnelled -> outcome*. docs/architecture.md walks through one.

pub mod enrol;
pub mod harden;
pub mod metrics;
pub mod outcome;
pub mod settings;
