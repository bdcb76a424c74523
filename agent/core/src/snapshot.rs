//! What discovery knows at one moment. A snapshot is immutable and complete; whoever needs an
//! answer takes the current one and asks it. Look-ups by address are indexed when it is built.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::{SpiffeId, TrustDomain};
use crate::policy::{Policies, PolicyIndex};

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
}

impl Node {
    /// Where this node's agent accepts tunnels.
    pub fn tunnel_address(&self) -> Option<SocketAddr> {
        self.addresses.first().map(|ip| SocketAddr::new(*ip, self.tunnel_port))
    }
}

/// What a workload belongs to (`Deployment/web`), for people and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Kind, for example `Deployment`.
    pub kind: String,
    /// Name within the namespace.
    pub name: String,
}

/// Where a workload runs on its node. Only the agent of that node uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Directory of its cgroup (v2), absolute or relative to the cgroup2 mount.
    pub cgroup: PathBuf,
    /// File of its network namespace, for example `/run/netns/web`.
    pub netns: PathBuf,
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
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses. Those of a host-network workload are the node's and identify nobody.
    pub addresses: Vec<IpAddr>,
    /// The node it runs on.
    pub node: NodeName,
    /// What it belongs to.
    pub owner: Option<Owner>,
    /// Whether it shares the node's network namespace.
    pub host_network: bool,
    /// The TCP ports that its containers name, for policies that name ports.
    pub ports: Vec<NamedPort>,
    /// Where it runs, if discovery says so.
    pub place: Option<Place>,
    /// Policies of kinds that Lark does not understand which select it, by kind and name.
    pub foreign_policies: Vec<String>,
    /// Whether labels ask for capture, and which label or rule said so.
    pub capture: crate::capture::Wanted,
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
}

/// How captured connections between two pods of one node travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameNode {
    /// Joined inside the agent; bytes never on a shared interface.
    #[default]
    Agent,
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
}

/// Everything discovery knows at one moment, with its indices.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts up with each change; for logs and `lark status`.
    pub generation: u64,
    /// Mesh-wide settings.
    pub mesh: MeshSettings,
    nodes: BTreeMap<NodeName, Node>,
    workloads: BTreeMap<Arc<str>, Arc<Workload>>,
    services: Vec<Arc<Service>>,
    by_address: HashMap<IpAddr, Arc<Workload>>,
    services_by_address: HashMap<IpAddr, Arc<Service>>,
    policies: PolicyIndex,
}

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
    /// A workload runs on a node that is not listed.
    #[error("workload {workload} runs on node {node}, which is not listed")]
    UnknownNode {
        /// namespace/name.
        workload: String,
        /// The node named.
        node: NodeName,
    },
}

impl Snapshot {
    /// Builds a snapshot and its indices.
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
        let mut by_name = BTreeMap::new();
        for node in nodes {
            if let Some(before) = by_name.insert(node.name.clone(), node) {
                return Err(SnapshotError::DuplicateNode(before.name));
            }
        }
        let mut by_uid = BTreeMap::new();
        let mut by_address: HashMap<IpAddr, Arc<Workload>> = HashMap::new();
        let mut names = std::collections::HashSet::new();
        for workload in workloads {
            let workload = Arc::new(workload);
            if !by_name.contains_key(&workload.node) {
                return Err(SnapshotError::UnknownNode {
                    workload: workload.full_name(),
                    node: workload.node.clone(),
                });
            }
            if !names.insert((workload.namespace.clone(), workload.name.clone())) {
                return Err(SnapshotError::DuplicateWorkload {
                    namespace: workload.namespace.clone(),
                    name: workload.name.clone(),
                });
            }
            if !workload.host_network {
                for address in &workload.addresses {
                    if let Some(other) = by_address.insert(address.to_canonical(), workload.clone()) {
                        return Err(SnapshotError::SharedAddress {
                            address: *address,
                            first: other.full_name(),
                            second: workload.full_name(),
                        });
                    }
                }
            }
            if let Some(before) = by_uid.insert(workload.uid.clone(), workload) {
                return Err(SnapshotError::DuplicateUid(before.uid.clone()));
            }
        }
        let services: Vec<Arc<Service>> = services.into_iter().map(Arc::new).collect();
        let mut services_by_address: HashMap<IpAddr, Arc<Service>> = HashMap::new();
        for service in &services {
            for address in &service.addresses {
                let address = address.to_canonical();
                let other = by_address
                    .get(&address)
                    .map(|w| w.full_name())
                    .or_else(|| services_by_address.get(&address).map(|s| s.full_name()));
                if let Some(other) = other {
                    return Err(SnapshotError::SharedServiceAddress {
                        address,
                        service: service.full_name(),
                        other,
                    });
                }
                services_by_address.insert(address, service.clone());
            }
        }
        Ok(Self {
            generation,
            mesh,
            nodes: by_name,
            workloads: by_uid,
            services,
            by_address,
            services_by_address,
            policies: PolicyIndex::default(),
        })
    }

    /// The same with these policies, compiled for its workloads.
    #[must_use]
    pub fn with_policies(mut self, policies: Policies) -> Self {
        self.policies = PolicyIndex::build(policies, self.workloads.values(), self.nodes.values());
        self
    }

    /// A snapshot of nothing, before discovery has spoken.
    pub fn empty(mesh: MeshSettings) -> Self {
        Self {
            generation: 0,
            mesh,
            nodes: BTreeMap::new(),
            workloads: BTreeMap::new(),
            services: Vec::new(),
            by_address: HashMap::new(),
            services_by_address: HashMap::new(),
            policies: PolicyIndex::default(),
        }
    }

    /// Who may connect to whom.
    pub fn policies(&self) -> &PolicyIndex {
        &self.policies
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The workload of that uid.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// All workloads, by uid.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workload of that namespace and name (a scan; for people, not for the data path).
    pub fn workload_named(&self, namespace: &str, name: &str) -> Option<&Arc<Workload>> {
        self.workloads.values().find(|w| &*w.namespace == namespace && &*w.name == name)
    }

    /// The workloads of a node.
    pub fn workloads_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads.values().filter(move |w| &*w.node == node)
    }

    /// The one workload that an address identifies; never a host-network one.
    pub fn workload_by_address(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address.to_canonical())
    }

    /// The Service that has this address.
    pub fn service_by_address(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.services_by_address.get(&address.to_canonical())
    }

    /// All Services.
    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
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

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Service {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
pub(crate) mod fixture;
