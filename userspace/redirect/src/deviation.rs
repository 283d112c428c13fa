//! What a look at the kernel can find.

use crate::Listeners;

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which way a connection goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the wire.
    Inbound,
    /// From the pod's processes.
    Outbound,
}

/// One difference between what enrolment set up and what the kernel has. See [`name`](Self::name).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deviation {
    /// Stable snake_case word, e.g. `guard_missing`.
    pub name: &'static str,
    /// What was found, for people.
    pub detail: String,
    /// Whether [`crate::Redirect::repair`] can mend it.
    pub repairable: bool,
}

/// What a repair did.
#[derive(Debug)]
pub struct Repair {
    /// What is still wrong.
    pub remaining: Vec<Deviation>,
    /// New listeners, if a slot had lost its own: the agent accepts on these from now on.
    pub listeners: Option<Listeners>,
}

/// One line of `culvert check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable snake_case word for what was looked at, e.g. `bpffs`.
    pub name: &'static str,
    /// Whether culvert can run with what was found.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// One sentence on what to do, if not `ok`.
    pub remedy: Option<String>,
}
