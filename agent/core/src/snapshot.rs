//! What discovery knows at one moment. A snapshot is immutable and complete; whoever needs an
//! answer takes the current one and asks it. Everything that is looked up is indexed, and the next
//! snapshot shares with this one what does not change.

mod alike;
mod change;
mod entries;
pub(crate) mod shards;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::identity::{SpiffeId, TrustDomain};
use crate::policy::{Cidr, Policies, PolicyIndex};

pub use alike::Alike;
pub use change::Change;

use entries::{At, Located, Named, OnNode, Serving};
use shards::Shards;

/// Name of a node, as discovery gives it.
pub type NodeName = Arc<str>;

/// A machine that runs an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, unique in the mesh.
    pub name: NodeName,
    /// Addresses of the node itself; the first is where its agent accepts tunnels.
    pub addresses: Vec<IpAddr>,
    /// Port of the agent's tunnel listener.
    pub tunnel_port: u16,
    /// The zone it is in, if discovery says so.
    pub zone: Option<Arc<str>>,
}

impl Node {
    /// Where this node's agent accepts tunnels.
    pub fn tunnel_address(&self) -> Option<SocketAddr> {
        self.addresses.first().map(|ip| SocketAddr::new(*ip, self.tunnel_port))
    }
}

/// Where a workload runs on its node. Only the agent of that node uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Directory of its cgroup (v2), absolute or relative to the cgroup2 mount.
    pub cgroup: PathBuf,
    /// File of its network namespace, for example `/run/netns/web`.
    pub netns: PathBuf,
}

/// An address of a workload that identifies nobody at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contested {
    /// The address.
    pub address: IpAddr,
    /// How many claim it, this workload included.
    pub claims: usize,
    /// Another one that does, for people.
    pub other: String,
}

/// A pod or a captured cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Unique for the workload's life, never used again (in Kubernetes the pod's UID).
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name, unique in the namespace at one moment.
    pub name: Arc<str>,
    /// Its service account; with trust domain and namespace it makes the identity.
    pub account: Arc<str>,
    /// The identity derived from trust domain, namespace and account.
    pub identity: SpiffeId,
    /// Its labels, which others may have alike.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Its addresses. Those of a host-network workload are the node's and identify nobody.
    pub addresses: Box<[IpAddr]>,
    /// Those of its addresses that something else is said to have too, so that they identify nobody until
    /// that is settled. Connections to one are refused if the workload is captured, and never guessed.
    pub contested: Box<[Contested]>,
    /// The node it runs on. It may be one that discovery does not list (any more).
    pub node: NodeName,
    /// What it belongs to (`Deployment/web`), for people and metrics.
    pub owner: Option<Arc<str>>,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// The TCP ports that its containers name, for policies that name ports.
    pub ports: Box<[NamedPort]>,
    /// Where it runs, if discovery says so.
    pub place: Option<Box<Place>>,
    /// Policies of kinds that Lark does not understand which select it, by kind and name.
    pub foreign_policies: Box<[String]>,
    /// Whether labels ask for capture, and which label or rule said so.
    pub capture: crate::capture::Wanted,
    /// Whether it takes plaintext, and which label or setting said so.
    pub mode: crate::mode::Mode,
}

/// A TCP port of a container that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
}

/// A Service in the sense of Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The addresses by which clients reach it.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its endpoints, ready or not.
    pub endpoints: Vec<Endpoint>,
    /// Which of them serve whom.
    pub traffic: Traffic,
}

/// Which endpoints of a Service serve which clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// A client stays with its endpoint until it has been away for this long.
    pub affinity: Option<Duration>,
    /// At these of the Service's addresses only endpoints of the caller's own node serve.
    pub local_at: Vec<IpAddr>,
    /// Preferred endpoints, where none has a hint.
    pub near: Near,
}

/// Which endpoints are preferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Near {
    /// All alike.
    #[default]
    Any,
    /// Those of the caller's zone.
    Zone,
    /// Those of the caller's node, then those of its zone.
    Node,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name of the port, if it has one.
    pub name: Option<String>,
    /// Port on the Service's addresses.
    pub port: u16,
    /// Port on the endpoints.
    pub target_port: u16,
}

/// One address behind a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address of the endpoint.
    pub address: IpAddr,
    /// Whether it takes connections.
    pub ready: bool,
    /// Whether it is ending, and takes connections as long as nothing is ready.
    pub draining: bool,
    /// Whether it stands for a workload that is to be captured and that discovery does not know (yet, any
    /// more, or for sure) by this address. Nobody is connected to it: who is there would be a guess.
    pub unknown: bool,
    /// Where it serves the Service's ports, as (the Service's, its own); `None`: all of them, at their
    /// [`ServicePort::target_port`].
    pub ports: Option<Arc<[(u16, u16)]>>,
    /// Where it is and for whom it is meant, if discovery says so.
    pub topology: Option<Arc<Topology>>,
}

/// Where an endpoint is, and which clients it is meant for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topology {
    /// The node it is on.
    pub node: Option<NodeName>,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
    /// Zones whose clients it is for; empty without a hint.
    pub for_zones: Vec<Arc<str>>,
    /// Nodes whose clients it is for; empty without a hint.
    pub for_nodes: Vec<NodeName>,
}

/// How captured connections between two pods of one node travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameNode {
    /// Joined inside the agent; bytes never on a shared interface.
    #[default]
    Agent,
    /// By mTLS like those between nodes, through a tunnel of the agent to itself.
    Mtls,
    /// Pod to pod in plaintext where the kernel can decide it; joined inside the agent where not.
    Direct,
}

/// What captured permissive pods do while their own agent is dead or stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentDown {
    /// Connect as if they were not captured: plaintext, counted.
    #[default]
    Untouched,
    /// Get ECONNREFUSED.
    Refuse,
}

/// What a change of policies means for connections that it does not allow any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyChange {
    /// They are reset, and the log says so.
    #[default]
    End,
    /// They go on; only new ones are refused.
    Keep,
}

/// Settings that hold for the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// Trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// How connections between pods of one node travel.
    pub same_node: SameNode,
    /// What permissive pods do while their agent is down.
    pub agent_down: AgentDown,
    /// What a change of policies means for connections that are open.
    pub policy_change: PolicyChange,
    /// The cluster's own ranges, of pods and Services: whom a strict pod dials there must be known.
    pub cluster_ranges: Vec<Cidr>,
}

/// Everything discovery knows at one moment, with its indices.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts up with each change; for logs and `lark status`.
    pub generation: u64,
    /// Mesh-wide settings.
    pub mesh: MeshSettings,
    nodes: Shards<Arc<Node>>,
    /// While a node takes another's place, both may have its address.
    nodes_by_address: Shards<At<Vec<Arc<Node>>>>,
    workloads: Shards<Arc<Workload>>,
    by_name: Shards<Named>,
    by_address: Shards<At<Located>>,
    /// Addresses that captured workloads have and that identify none, with how many these are.
    contested: Shards<At<usize>>,
    by_node: Shards<OnNode>,
    services: Shards<Arc<Service>>,
    services_by_address: Shards<At<Arc<Service>>>,
    /// The Services of an endpoint stand beside each other.
    services_by_endpoint: Shards<Serving>,
    policies: Arc<PolicyIndex>,
}

/// Namespace and name of a Service.
type ServiceKey = (Arc<str>, Arc<str>);

/// What there was in an earlier snapshot, and what there is in this one; never nothing twice.
pub type Turned<'a, T> = (Option<&'a Arc<T>>, Option<&'a Arc<T>>);

/// Why facts do not make a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Two nodes have one name.
    #[error("node {0} appears twice")]
    DuplicateNode(NodeName),
    /// Two workloads have one uid.
    #[error("workload uid {0} appears twice")]
    DuplicateUid(Arc<str>),
    /// Two workloads have one namespace and name.
    #[error("workload {namespace}/{name} appears twice")]
    DuplicateWorkload {
        /// The namespace.
        namespace: Arc<str>,
        /// The name.
        name: Arc<str>,
    },
    /// Two Services have one namespace and name.
    #[error("Service {0} appears twice")]
    DuplicateService(String),
    /// Two workloads claim one address, so that it identifies neither.
    #[error("address {address} is claimed by {first} and {second}; an address must identify one workload")]
    SharedAddress {
        /// The address.
        address: IpAddr,
        /// namespace/name of one.
        first: String,
        /// namespace/name of the other.
        second: String,
    },
    /// A Service's address is a workload's or another Service's.
    #[error("address {address} of Service {service} is already used by {other}")]
    SharedServiceAddress {
        /// The address.
        address: IpAddr,
        /// namespace/name of the Service.
        service: String,
        /// Who has it already.
        other: String,
    },
}

impl Snapshot {
    /// Builds a snapshot and its indices. A workload's node may be missing: then it cannot be reached.
    ///
    /// # Errors
    /// When an address, a uid or a name would identify two things: the caller keeps the last good
    /// snapshot, for an identity is never guessed.
    pub fn build(
        generation: u64,
        mesh: MeshSettings,
        nodes: Vec<Node>,
        workloads: Vec<Workload>,
        services: Vec<Service>,
    ) -> Result<Self, SnapshotError> {
        let mut all = Self { generation, ..Self::empty(mesh) };
        for node in nodes {
            if all.node(&node.name).is_some() {
                return Err(SnapshotError::DuplicateNode(node.name));
            }
            all.put_node(node);
        }
        for workload in workloads {
            if all.workload(&workload.uid).is_some() {
                return Err(SnapshotError::DuplicateUid(workload.uid));
            }
            all.put_workload(workload)?;
        }
        for service in services {
            if all.service_named(&service.namespace, &service.name).is_some() {
                return Err(SnapshotError::DuplicateService(service.full_name()));
            }
            all.index_endpoints(&service.key(), None, Some(&service));
            all.put_service(Arc::new(service))?;
        }
        Ok(all)
    }

    /// The same with these policies, compiled for its workloads.
    #[must_use]
    pub fn with_policies(mut self, policies: Policies) -> Self {
        self.policies = Arc::new(PolicyIndex::build(policies, self.workloads(), self.nodes()));
        self
    }

    /// A snapshot of nothing, before discovery has spoken.
    pub fn empty(mesh: MeshSettings) -> Self {
        Self {
            generation: 0,
            mesh,
            nodes: Shards::default(),
            nodes_by_address: Shards::default(),
            workloads: Shards::default(),
            by_name: Shards::default(),
            by_address: Shards::default(),
            contested: Shards::default(),
            by_node: Shards::default(),
            services: Shards::default(),
            services_by_address: Shards::default(),
            services_by_endpoint: Shards::default(),
            policies: Arc::default(),
        }
    }

    /// Who may connect to whom.
    pub fn policies(&self) -> &PolicyIndex {
        &self.policies
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name).map(|node| &**node)
    }

    /// All nodes, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(|node| &**node)
    }

    /// The nodes that have this address, by name: one, but for a moment in which another takes its place.
    pub fn nodes_by_address(&self, address: IpAddr) -> &[Arc<Node>] {
        self.nodes_by_address.get(address.into()).map_or(&[], |nodes| &nodes.found)
    }

    /// The workload of that uid.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter()
    }

    /// The workload of that namespace and name.
    pub fn workload_named(&self, namespace: &str, name: &str) -> Option<&Arc<Workload>> {
        self.by_name.get((namespace, name)).map(|named| &named.0)
    }

    /// The workloads of a node, by uid.
    pub fn workloads_on(&self, node: &str) -> impl Iterator<Item = &Arc<Workload>> + use<'_> {
        self.by_node.get(node).into_iter().flat_map(|on| on.workloads.iter())
    }

    /// The one workload that an address identifies; never a host-network one.
    pub fn workload_by_address(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(address.into()).map(|at| &at.found.workload)
    }

    /// The same with its node, if that is known.
    pub fn located(&self, address: IpAddr) -> Option<(&Arc<Workload>, Option<&Node>)> {
        self.by_address.get(address.into()).map(|at| (&at.found.workload, at.found.node.as_deref()))
    }

    /// Whether a captured workload claims this address without being identified by it: nobody is connected to
    /// it, whoever else has it.
    pub fn is_contested(&self, address: IpAddr) -> bool {
        self.contested.get(address.into()).is_some()
    }

    /// The Service that has this address.
    pub fn service_by_address(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.services_by_address.get(address.into()).map(|at| &at.found)
    }

    /// The Services that have an endpoint of this address, ready or not, by namespace and name.
    pub fn services_of_endpoint(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Service>> {
        let mut keys: Vec<_> = self.services_by_endpoint.all(address.into()).map(|at| &at.found).collect();
        keys.sort_unstable();
        keys.into_iter().filter_map(|(namespace, name)| self.service_named(namespace, name))
    }

    /// The Service of that namespace and name.
    pub fn service_named(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.services.get((namespace, name))
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }
}

impl Workload {
    /// Why it is to be captured or not, with the names of what keeps it from it.
    pub fn why_capture(&self) -> String {
        match self.capture {
            crate::capture::Wanted::ForeignPolicy => {
                format!("{}: {}", self.capture.why(), self.foreign_policies.join(", "))
            }
            capture => capture.why().to_owned(),
        }
    }

    /// What it belongs to, `Kind/name`, or its name.
    pub fn belongs_to(&self) -> Arc<str> {
        self.owner.as_ref().unwrap_or(&self.name).clone()
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The addresses that mean this workload and nobody else, in canonical form.
    pub fn identifying_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.own_addresses().filter(|address| !self.is_contested(*address))
    }

    /// Those that others claim too, in canonical form, if connections to them are to be refused for that.
    fn closed_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let closed = |address: &IpAddr| self.capture.is_wanted() && self.is_contested(*address);
        self.own_addresses().filter(closed)
    }

    fn is_contested(&self, address: IpAddr) -> bool {
        self.contested.iter().any(|c| c.address == address)
    }

    /// Its addresses in canonical form, unless they are its node's.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().filter(|_| !self.host_network).map(IpAddr::to_canonical)
    }
}

impl Endpoint {
    /// One that serves everybody at the ports that the Service says.
    pub const fn new(address: IpAddr, ready: bool) -> Self {
        Self { address, ready, draining: false, unknown: false, ports: None, topology: None }
    }

    /// Its port for one of the Service's; `None` if it does not serve that.
    pub fn port(&self, port: &ServicePort) -> Option<u16> {
        match &self.ports {
            None => Some(port.target_port),
            Some(ports) => ports.iter().find(|(service, _)| *service == port.port).map(|(_, own)| *own),
        }
    }
}

impl Service {
    fn key(&self) -> ServiceKey {
        (self.namespace.clone(), self.name.clone())
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
pub(crate) mod fixture;
