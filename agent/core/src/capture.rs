//! Which workloads of this node are to be captured, and why the others are not.

use serde::{Deserialize, Serialize};

/// Whether the labels ask for capture, and what said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// The workload's own label says enabled.
    ByWorkload,
    /// The namespace's label says enabled.
    ByNamespace,
    /// The workload's own label says disabled.
    OptedOut,
    /// The namespace is never captured unless a workload asks by its own label.
    Excluded,
    /// No label asks for it.
    NotAsked,
}

impl Wanted {
    /// Whether the workload is to be captured.
    pub const fn is_wanted(self) -> bool {
        matches!(self, Self::ByWorkload | Self::ByNamespace)
    }
}
