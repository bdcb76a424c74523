//! What happened to a connection, as the agent that carried it tells it.

use serde::{Deserialize, Serialize};

use super::Party;
use crate::observe::Secured;

/// The last connection between two workloads, stage by stage, as one agent saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CourseView {
    /// `outbound`, `inbound` or `local`.
    pub direction: String,
    /// Who dialled.
    pub source: Party,
    /// Who was dialled.
    pub destination: Party,
    /// Address and port of the source.
    pub source_address: String,
    /// Address and port that were dialled.
    pub destination_address: String,
    /// What secures it.
    pub secured: Option<Secured>,
    /// When this agent first saw it, in milliseconds since the epoch.
    pub began_ms: u64,
    /// What it went through, in order. One that goes on has no stage `ended`.
    pub stages: Vec<StageView>,
}

/// A stage of a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageView {
    /// `taken`, `known`, `allowed`, `tunnel`, `open`, `first_byte_sent`, `first_byte_received` or `ended`.
    pub stage: String,
    /// Seconds after the agent first saw the connection.
    pub after_seconds: f64,
    /// What happened then.
    pub found: String,
}
