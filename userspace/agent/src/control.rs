//! The control plane's client: what it says becomes one snapshot per generation; what the kernel says is reported.

mod join;
mod report;
pub mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use join::{JoinError, follow_root, join_or_load, port};
pub use report::report;
pub use stream::{Feed, follow};
