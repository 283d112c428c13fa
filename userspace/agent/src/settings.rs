//! Settings: read raw (text, as given), then checked (typed, resolved across fields, all faults at once).

mod checked;
mod node;
mod raw;
#[cfg(test)]
mod tests;

pub use checked::{Fault, LogFormat, Settings};
pub use node::NodeSettings;
pub use raw::{Cli, Command, Run, Uninstall};

/// Documented exit codes of `culvert-agent` (after `sysexits.h`).
pub mod exit {
    /// Stopped in order.
    pub const OK: u8 = 0;
    /// A setting is missing or wrong; every fault was printed.
    pub const USAGE: u8 = 64;
    /// The machine, the control plane or another agent is in the way; the message names it.
    pub const UNAVAILABLE: u8 = 69;
    /// The agent itself is at fault.
    pub const SOFTWARE: u8 = 70;
    /// The enrolment socket answered with a refusal.
    pub const REFUSED: u8 = 77;
}
