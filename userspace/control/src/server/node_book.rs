//! What is known of the nodes that have called.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use culvert_wire::{Kind, report::NodeStatus};

/// All nodes that have called since the start.
#[derive(Debug, Default)]
pub struct NodeBook(Mutex<BTreeMap<String, NodeEntry>>);

/// One node.
#[derive(Debug, Clone, Default)]
pub struct NodeEntry {
    /// Open discovery streams.
    pub streams: usize,
    /// The generation that it has answered for all types.
    pub answered_generation: u64,
    /// What it refused last, by type: until the type is taken again.
    pub refused: BTreeMap<Kind, String>,
    /// Its last report.
    pub report: Option<(SystemTime, NodeStatus)>,
}

impl NodeBook {
    /// Changes what is known of a node.
    pub fn update(&self, node: &str, change: impl FnOnce(&mut NodeEntry)) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(book.entry(node.to_owned()).or_default());
    }

    /// All that is known.
    pub fn all(&self) -> BTreeMap<String, NodeEntry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
