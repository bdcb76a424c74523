//! Types of the admin API, of `-o json` and of the page: what a person or program may know of an
//! agent. Field names are stable. Times are seconds since the epoch, durations seconds.

mod ca;
mod cluster;
mod course;
mod history;
mod policy;
mod requests;

pub use policy::{
    PolicyCase, PolicyCaseView, PolicyDecisionView, PolicyExpectation, PolicyExplainView, PolicyView,
};

pub use requests::{OutcomeView, QuantilesView, RequestsView, TapConnection, TapEnding, TapRequest, TapView};

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::observe::Secured;
use crate::route::Step;
use crate::snapshot::{Snapshot, Workload};

pub use ca::{CaView, NodeHolds, RootView};
pub use cluster::NodeAnswer;
pub use course::{CourseView, StageView};
pub use history::{HistoryView, SeriesView};

/// How an agent is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the binary.
    pub version: String,
    /// The node it serves.
    pub node: String,
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// Whether every pod of this node that is to be captured has been dealt with.
    pub ready: bool,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Worker threads.
    pub workers: usize,
    /// Who carries the TLS records of tunnels: the agent or the kernel, and why. Empty from older agents.
    #[serde(default)]
    pub records: String,
    /// Number of the discovery state in use.
    pub discovery_generation: u64,
    /// Why discovery is not current, if it is not.
    pub discovery_error: Option<String>,
    /// Pods of this node by state.
    pub pods: Vec<StateCount>,
    /// Connections open now.
    pub connections_open: usize,
    /// Where certificates come from.
    pub ca_url: String,
    /// Agents of this node that only finish what they carry: those before this one, or this one itself.
    pub draining: Vec<DrainingView>,
    /// Whether `pods`, `connections_open`, `draining` and `ca_url` are left out, since whoever asks may not see all
    /// namespaces.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
}

/// Which log lines an agent writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogView {
    /// The filter in force.
    pub filter: String,
    /// Seconds until it is the configured one again; nothing if it is.
    pub back_in_seconds: Option<u64>,
    /// The filter that the agent was started with.
    pub configured: String,
}

/// An agent that takes nothing new any more and lets open connections finish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainingView {
    /// Version of its binary.
    pub version: String,
    /// Its process id.
    pub process: u32,
    /// Seconds until it resets what is still open then, and ends.
    pub ends_in_seconds: u64,
    /// Connections that it still carries.
    pub connections_open: usize,
    /// The oldest of them; a few dozen at most.
    pub connections: Vec<ConnectionView>,
}

/// Pods in a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCount {
    /// `captured`, `pending`, `failed`, `not_captured`, `releasing`.
    pub state: String,
    /// How many.
    pub count: usize,
}

/// A workload as this agent knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it belongs to, as in edges: `Kind/name`, or its name.
    #[serde(default)]
    pub owner: String,
    /// Its node.
    pub node: String,
    /// Its identity.
    pub identity: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Whether it is to be captured.
    #[serde(default)]
    pub is_wanted: bool,
    /// What said so.
    pub wanted: String,
    /// State on this node; `remote` for workloads of others.
    pub state: String,
    /// Why it is in that state.
    pub why: String,
    /// `strict` or `permissive`, and ports that are something else.
    pub mtls: String,
    /// What made it so, by a word that `lark explain` knows.
    pub mtls_by: String,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// `PORT->TARGET` each.
    pub ports: Vec<String>,
    /// Endpoints that take connections.
    pub ready: usize,
    /// All endpoints.
    pub endpoints: usize,
    /// Whether connects of captured pods to it are taken.
    pub in_mesh: bool,
}

/// One end of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Party {
    /// Namespace, empty if it is no workload.
    pub namespace: Arc<str>,
    /// Name, or the address if it is no workload.
    pub name: Arc<str>,
    /// What it belongs to, `Kind/name`, or its name.
    pub owner: Arc<str>,
    /// Identity that was proved or is known by cgroup; empty if none.
    pub identity: Arc<str>,
}

impl Party {
    /// `NAMESPACE/NAME`, or the name of what has no namespace.
    pub fn full_name(&self) -> String {
        if self.namespace.is_empty() {
            self.name.to_string()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }

    /// Whether it goes by that name: `NAME`, `KIND/NAME` of its owner, or either behind `NAMESPACE/`.
    pub fn goes_by(&self, name: &str) -> bool {
        let bare = |name: &str| {
            &*self.name == name
                || &*self.owner == name
                || self.owner.rsplit_once('/').is_some_and(|(_, owner)| owner == name)
        };
        bare(name)
            || name
                .split_once('/')
                .is_some_and(|(namespace, name)| &*self.namespace == namespace && bare(name))
    }

    /// A workload, with its identity.
    pub fn of(workload: &Workload) -> Self {
        Self {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            owner: workload.belongs_to(),
            identity: workload.identity.text(),
        }
    }

    /// Somebody outside the mesh. All of them are one in edges and metrics, or addresses would be labels.
    pub fn outside(address: IpAddr) -> Self {
        Self { name: address.to_string().into(), owner: "outside".into(), ..Self::default() }
    }

    /// Who is at an address, as far as discovery knows; nothing has proved it.
    pub fn at(address: IpAddr, snapshot: &Snapshot) -> Self {
        snapshot
            .workload_by_address(address)
            .map_or_else(|| Self::outside(address), |workload| Self::of(workload).unproved())
    }

    /// The same without an identity, where nothing proved one.
    #[must_use]
    pub fn unproved(self) -> Self {
        Self { identity: Arc::default(), ..self }
    }
}

/// A live connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionView {
    /// `outbound`, `inbound` or `local`.
    pub direction: String,
    /// Who dialled.
    pub source: Party,
    /// Who was dialled.
    pub destination: Party,
    /// Address and port of the source as the destination sees it.
    pub source_address: String,
    /// Address and port that were dialled.
    pub destination_address: String,
    /// The Service that was addressed, `namespace/name`.
    pub service: Option<String>,
    /// What secures it; nothing while it is being opened.
    pub secured: Option<Secured>,
    /// Bytes from source to destination.
    pub sent_bytes: u64,
    /// Bytes from destination to source.
    pub received_bytes: u64,
    /// Age in seconds, if it is known.
    pub age_seconds: Option<u64>,
    /// Why it is as it is, where that needs saying.
    pub note: String,
    /// What is spoken on it: `http1`, `http2`, `tls`, `postgres`, or `opaque`; empty while that is not clear.
    #[serde(default)]
    pub protocol: String,
    /// Requests on it that have ended.
    #[serde(default)]
    pub requests: u64,
    /// The smoothed round-trip time that the kernel measures; nothing where an agent carries it.
    #[serde(default)]
    pub round_trip_seconds: Option<f64>,
    /// Segments that the kernel sent again; nothing where an agent carries it.
    #[serde(default)]
    pub retransmits: Option<u32>,
}

/// Who talks to whom, and what secures it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgeView {
    /// `outbound`, `inbound` or `local`.
    pub direction: String,
    /// Who dials.
    pub source: Party,
    /// Who is dialled.
    pub destination: Party,
    /// What secures it.
    pub secured: Secured,
    /// Connections so far.
    pub connections: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes from source to destination so far.
    pub sent_bytes: u64,
    /// Bytes from destination to source so far.
    pub received_bytes: u64,
    /// Why connections were denied, by the last one.
    pub reason: Option<String>,
    /// What was said of it: the policy, for example.
    #[serde(default)]
    pub detail: Option<String>,
    /// The smoothed round-trip time that the kernel has measured last; nothing where agents carry connections.
    #[serde(default)]
    pub round_trip_seconds: Option<f64>,
    /// Segments that the kernel sent again; nothing where agents carry connections.
    #[serde(default)]
    pub retransmits: Option<u64>,
}

/// A certificate of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertView {
    /// Whose.
    pub identity: String,
    /// `valid`, `pending`, `renewal_late` or `expired`.
    pub state: String,
    /// Seconds since the epoch.
    pub expires_at: Option<u64>,
    /// Serial number.
    pub serial: Option<String>,
    /// What the last attempt to renew said, if it failed.
    pub last_error: Option<String>,
}

/// Outcome of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth a look.
    Warn,
    /// Not as it should be; `lark check` exits with 1.
    Fail,
}

impl Verdict {
    /// The sign in tables.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Ok => "√",
            Self::Warn => "!",
            Self::Fail => "✗",
        }
    }
}

/// One check: what is wanted against what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// What was looked at: a pod as `namespace/name`, or a part of the agent.
    pub subject: String,
    /// The outcome.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, if anything.
    pub advice: String,
}

/// What the kernel has of Lark.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BpfView {
    /// Loaded programs.
    pub programs: Vec<ProgramView>,
    /// Pinned links.
    pub links: Vec<LinkView>,
    /// Maps whose fullness matters.
    pub maps: Vec<MapView>,
    /// What the hooks counted.
    pub counters: Vec<CounterView>,
}

/// A loaded program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramView {
    /// Its name.
    pub name: String,
    /// Its kernel id.
    pub id: u32,
}

/// A pinned link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// Name of the pod's pins.
    pub pod: String,
    /// The hook.
    pub hook: String,
    /// The link's kernel id.
    pub link_id: u32,
    /// The program's kernel id.
    pub program_id: u32,
    /// The cgroup's id; nothing if the cgroup is gone (severed), or if it is attached to something else.
    pub cgroup_id: Option<u64>,
    /// Inode of the network namespace that it is attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
    /// Index of the host's interface that it is attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
}

/// A map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapView {
    /// Its name.
    pub name: String,
    /// Entries in it.
    pub entries: usize,
    /// Entries that fit.
    pub max: u32,
}

/// A counter of the hooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterView {
    /// Its label.
    pub event: String,
    /// How often.
    pub count: u64,
    /// What it means.
    pub meaning: String,
}

/// A route decision, told; nothing was opened for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceView {
    /// The source, `namespace/name`.
    pub from: String,
    /// The destination, `IP:PORT`.
    pub to: String,
    /// `tunnel`, `local`, `direct`, `passthrough`, `deny`, or `untouched` if the kernel would not take it.
    pub way: String,
    /// Step by step.
    pub steps: Vec<Step>,
}
