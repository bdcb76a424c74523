//! What a controller tells of its CA.

use serde::{Deserialize, Serialize};

/// The roots of the mesh, and which node holds what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaView {
    /// The mesh.
    pub trust_domain: String,
    /// `steady`, `trust`, `issue`, `settle`, `revert` or `retire`.
    pub phase: String,
    /// What that means, in a sentence.
    pub meaning: String,
    /// Counts up with each change of phase.
    pub epoch: u64,
    /// When the phase began.
    pub since: u64,
    /// The roots that the phase names.
    pub roots: Vec<RootView>,
    /// The nodes of the mesh.
    pub nodes: Vec<NodeHolds>,
    /// What the phase waits for, nodes and time, one sentence each.
    pub waits_for: Vec<String>,
}

/// A root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootView {
    /// SHA-256 of its certificate, in hexadecimal.
    pub id: String,
    /// What it does now: `trusted`, `issues`, `serves`.
    pub roles: Vec<String>,
    /// When its CA expires: the first end of life in its chain.
    pub expires_at: Option<u64>,
    /// Whether the controller has its key.
    pub key: bool,
}

/// What a node holds, as its agent said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHolds {
    /// Its name.
    pub name: String,
    /// Seconds since it was heard; none if it was not since the controller started.
    pub heard: Option<u64>,
    /// Version of its agent.
    pub version: Option<String>,
    /// The last change of phase that it has seen.
    pub epoch: Option<u64>,
    /// Roots that it trusts.
    pub roots: Vec<String>,
    /// Roots from which its valid certificates hang.
    pub svids: Vec<String>,
    /// Whether it waits for certificates.
    pub asking: bool,
    /// What the rotation waits for at this node, if it does.
    pub waits_for: Option<String>,
}
