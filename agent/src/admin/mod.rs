//! The admin API: HTTP on the node's Unix socket, read-only, for root of the node; and metrics and health
//! on TCP. Answers are core's view types as JSON.

mod http;
mod metrics;
mod socket;

pub use http::{Answer, json, serve as serve_http, text};
pub use metrics::{answer as metrics_answer, serve as serve_metrics};
pub use socket::{AdminError, answers, ask, bind, serve, value};

use lark_core::view::{
    BpfView, CertView, CheckView, ConnectionView, EdgeView, HistoryView, PolicyExplainView, PolicyView,
    ServiceView, Status, TraceView, WorkloadView,
};

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
    /// All metrics as text.
    fn metrics(&self) -> String;
    /// Whether every pod of this node that is to be captured has been dealt with.
    fn ready(&self) -> bool;
}
