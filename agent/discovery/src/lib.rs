//! Fills the snapshot of workloads, Services and nodes: from a file or from a cluster's API.

#![forbid(unsafe_code)]

/// One YAML document, watched.
pub mod file;
/// The API of a cluster, watched.
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
/// Policies as manifests write them, read one by one.
pub mod policy;

use std::sync::Arc;
use std::time::SystemTime;

use lark_core::snapshot::Snapshot;
use tokio::sync::watch;

/// How discovery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What was wrong with what it last saw; the snapshot is from before that.
    pub error: Option<String>,
    /// Since when it is so.
    pub since: SystemTime,
}

/// A running discovery, whichever kind: the current snapshot, and how it is.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// Always the last good one.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Whether that is also the newest.
    pub health: watch::Receiver<Health>,
}
