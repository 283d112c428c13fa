//! Holds duplicates of the pods' listeners, so that connections wait in their backlogs while an agent restarts.
//!
//! It knows nothing of pods, mesh or policy, decides nothing and never accepts a connection: what it holds is closed
//! when it is told so, or when it ends. One request at a time, each bounded in time and size.

mod keep;
mod serve;
#[cfg(test)]
mod tests;

pub use keep::{Keep, KeepError};
pub use serve::{listen, serve};
