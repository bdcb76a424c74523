//! The admin API: HTTP on the node's Unix socket, for root of the node, read-only but for the log's levels; and
//! metrics and health on TCP. Answers are core's view types as JSON.

mod http;
mod metrics;
mod socket;
mod stream;

pub use http::{Accepted, Answer, json, serve as serve_http, text};
pub use metrics::{answer as metrics_answer, serve as serve_metrics};
pub use socket::{AdminError, answers, ask, bind, serve, value};

use lark_core::tap::Filter;
use lark_core::view::{
    BpfView, CertView, CheckView, ConnectionView, CourseView, EdgeView, HistoryView, LogView,
    PolicyExplainView, PolicyView, RequestsView, ServiceView, Status, TraceView, WorkloadView,
};

use crate::observe::Tap;

/// What the API tells; implemented where everything is at hand.
pub trait Source: Send + Sync + 'static {
    /// How the agent is.
    fn status(&self) -> Status;
    /// All workloads.
    fn workloads(&self) -> Vec<WorkloadView>;
    /// All Services.
    fn services(&self) -> Vec<ServiceView>;
    /// Live connections of captured pods, plaintext ones included.
    fn connections(&self) -> Vec<ConnectionView>;
    /// Who talks to whom.
    fn edges(&self) -> Vec<EdgeView>;
    /// Certificates of this node.
    fn certs(&self) -> Vec<CertView>;
    /// What is wanted against what is there.
    fn check(&self) -> Vec<CheckView>;
    /// What the kernel has.
    fn bpf(&self) -> BpfView;
    /// A route decision; `from` is `namespace/name`, `to` is `IP:PORT`.
    ///
    /// # Errors
    /// A sentence when either is not known or not of that form.
    fn trace(&self, from: &str, to: &str) -> Result<TraceView, String>;
    /// What became of the last connection between two ends, each `namespace/name` or an address; empty if this node
    /// saw none.
    fn last(&self, from: &str, to: &str) -> Vec<CourseView>;
    /// All policies.
    fn policies(&self) -> Vec<PolicyView>;
    /// What policies say; `from` is `namespace/name`, `to` is `namespace/name:port`.
    ///
    /// # Errors
    /// A sentence when either is not known or not of that form.
    fn policy(&self, from: &str, to: &str) -> Result<PolicyExplainView, String>;
    /// The policies that select a workload, `namespace/name`.
    ///
    /// # Errors
    /// A sentence when it is not known or not of that form.
    fn policies_of(&self, workload: &str) -> Result<Vec<PolicyView>, String>;
    /// The last hour.
    fn history(&self) -> HistoryView;
    /// Requests of the last seconds, by workload or by edge, busiest first.
    fn requests(&self, by_edge: bool, seconds: u64) -> Vec<RequestsView>;
    /// A tap, unless there are too many.
    fn tap(&self, filter: Filter) -> Option<Tap>;
    /// Which log lines are written.
    fn log(&self) -> LogView;
    /// Has other log lines written for so many seconds; `reset` goes back at once.
    ///
    /// # Errors
    /// A sentence when the filter is none.
    fn set_log(&self, filter: &str, seconds: u64) -> Result<LogView, String>;
    /// The last log lines.
    fn recent(&self) -> String;
    /// UIDs of pods of this node that are to be captured and are not, each with the reason: what people are told of by
    /// Events of the cluster.
    fn failing(&self) -> Vec<(String, String)> {
        Vec::new()
    }
    /// All metrics as text.
    fn metrics(&self) -> String;
    /// Whether every pod of this node that is to be captured has been dealt with.
    fn ready(&self) -> bool;
    /// A worker that does not turn, for as long as the heartbeat counts: the kernel takes the agent for dead.
    fn stuck(&self) -> Option<&str>;
}
