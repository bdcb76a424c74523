//! The last hour, as an agent remembers it.

use serde::{Deserialize, Serialize};

use crate::observe::Sample;

/// What happened step by step. Lists of a series may be shorter than `at`: their last entries belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryView {
    /// When each step ended, the oldest first.
    pub at: Vec<u64>,
    /// Of whom.
    pub series: Vec<SeriesView>,
}

/// One series. Each list has an entry a step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesView {
    /// `node` for all of it; `server` for what this node's workloads are asked; `client` for what they ask of others.
    pub seen_by: String,
    /// Namespace of who is asked; empty for the node, and for who is no workload.
    pub namespace: String,
    /// Who is asked, `Kind/name`; empty for the node.
    pub workload: String,
    /// Requests that ended.
    pub requests: Vec<u32>,
    /// Those of them that the server failed.
    pub failures: Vec<u32>,
    /// Microseconds to the last byte that half of the requests did not exceed; 0 if none was timed.
    pub p50_us: Vec<u32>,
    /// The same of 95 in 100.
    pub p95_us: Vec<u32>,
    /// The same of 99 in 100.
    pub p99_us: Vec<u32>,
    /// Connections that began.
    pub connections: Vec<u32>,
    /// Those of them in plaintext.
    pub plaintext: Vec<u32>,
    /// Those of them that were denied.
    pub denied: Vec<u32>,
    /// Bytes in both directions.
    pub bytes: Vec<u64>,
}

impl SeriesView {
    /// Adds a step.
    pub fn push(&mut self, sample: Sample) {
        self.requests.push(sample.requests);
        self.failures.push(sample.failures);
        self.p50_us.push(sample.p50_us);
        self.p95_us.push(sample.p95_us);
        self.p99_us.push(sample.p99_us);
        self.connections.push(sample.connections);
        self.plaintext.push(sample.plaintext);
        self.denied.push(sample.denied);
        self.bytes.push(sample.bytes);
    }
}
