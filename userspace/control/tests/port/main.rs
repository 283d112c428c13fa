//! The binary over real sockets: every rule of the control port, seen from outside.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests, and helpers of tests")]

mod client;
mod discovery;
mod files;
mod identities;
mod joining;
mod plane;
mod reports;
