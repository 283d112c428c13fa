//! Kernel contact: loads and attaches the BPF programs, prepares a pod's network namespace, checks
//! and repairs all of it by reading back from the kernel, and makes the agent's sockets inside a
//! pod's namespace. The only userspace crate with aya or `unsafe`.
//!
//! ```text
//! Redirect::open -> enrol(uid, netns) -> PodRedirect { listeners, netns }
//!                                          accept on listeners      netns.connect_wire / connect_app / connect_plain
//! ```
//!
//! Everything that enforces is pinned under `<bpffs>/culvert/v<abi>/<node>/`: dropping a
//! [`Redirect`] changes nothing in the kernel, only [`Redirect::withdraw`] does.

mod acceptor;
mod deviation;
mod diag;
mod enrol;
mod error;
mod event;
mod hardening;
mod hook;
mod interface;
mod kept;
mod listener;
mod log;
mod machine;
mod memory;
mod namespace;
mod netlink;
mod node;
mod pins;
mod pod;
mod programs;
mod redirect;
mod repair;
mod routing;
mod selftest;
mod settings;
mod socket;
mod sys;
mod verify;

pub use acceptor::Acceptor;
pub use culvert_abi::{AGENT_MARK, APP_LEG_PORT_MAX, APP_LEG_PORT_MIN, Counter, PROBE_MARK, PodCounters};
pub use deviation::{Deviation, Direction, Family, Finding, Repair};
pub use error::{DialError, EnrolError, EventsError, OpenError, VerifyError, WithdrawError};
pub use event::{DropEvent, DroppedBy, Events};
pub use hardening::forbid_inspection;
pub use memory::return_unused_memory;
pub use pod::{Listeners, PinnedPod, PodRedirect};
pub use redirect::{Counts, Redirect, check_machine};
pub use settings::{Config, HostHooks, OpenFlows, PodSettings};
pub use socket::{AppLeg, Leg, Netns};
