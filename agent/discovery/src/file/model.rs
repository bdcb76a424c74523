//! The document's types; the JSON schema is made from them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use lark_core::constants::TUNNEL_PORT;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{AuthorizationPolicy, NetworkPolicy};

/// A whole mesh in one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshFile {
    /// Settings of the whole mesh.
    pub mesh: Mesh,
    /// Labels of namespaces. A namespace that is not listed has none.
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    /// The machines that run agents.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// The pods or captured cgroups, of all nodes.
    #[serde(default)]
    pub workloads: Vec<Workload>,
    /// The Services.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Who may connect to workloads: manifests of AuthorizationPolicy. One that cannot be read closes
    /// what it selects.
    #[serde(default)]
    #[schemars(with = "Vec<AuthorizationPolicy>")]
    pub authorization_policies: Vec<serde_json::Value>,
    /// The cluster's NetworkPolicies: manifests. One that cannot be read closes what it selects.
    #[serde(default)]
    #[schemars(with = "Vec<NetworkPolicy>")]
    pub network_policies: Vec<serde_json::Value>,
}

/// Settings of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mesh {
    /// Trust domain of all identities.
    #[serde(default = "default_domain")]
    pub trust_domain: String,
    /// How connections between captured pods of one node travel.
    #[serde(default)]
    pub same_node: SameNode,
    /// What captured pods do while their agent is dead or stuck: connect in plaintext, counted, or not
    /// at all.
    #[serde(default)]
    pub agent_down: AgentDown,
    /// What a change of policies means for open connections that it does not allow any more.
    #[serde(default)]
    pub policy_change: PolicyChange,
    /// Whether workloads take plaintext whose labels, and whose namespace's, say nothing of it
    /// (`lark.mesh/mtls`).
    #[serde(default)]
    pub mtls: Mtls,
    /// The cluster's own ranges, of pods and Services, for example `10.0.0.0/16`. What a strict workload dials
    /// there must be known to discovery: it waits for a second, and is then refused.
    #[serde(default)]
    pub cluster_ranges: Vec<String>,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            trust_domain: default_domain(),
            same_node: SameNode::default(),
            agent_down: AgentDown::default(),
            policy_change: PolicyChange::default(),
            mtls: Mtls::default(),
            cluster_ranges: Vec::new(),
        }
    }
}

/// See [`Mesh::same_node`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SameNode {
    /// Joined inside the agent; bytes never on a shared interface.
    #[default]
    Agent,
    /// By mTLS like those between nodes, through a tunnel of the agent to itself.
    Mtls,
    /// Pod to pod in plaintext where the kernel can decide it by identities and policies; joined inside the agent
    /// where not.
    Direct,
}

/// See [`Mesh::agent_down`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AgentDown {
    /// Connects are left alone and counted.
    #[default]
    Untouched,
    /// Connects are refused.
    Refuse,
}

/// See [`Mesh::policy_change`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyChange {
    /// They are reset, and the log says so.
    #[default]
    End,
    /// They go on; only new ones are refused.
    Keep,
}

/// See [`Mesh::mtls`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mtls {
    /// From whoever is not in the mesh.
    #[default]
    Permissive,
    /// From nobody.
    Strict,
}

fn default_domain() -> String {
    "cluster.local".to_owned()
}

const fn default_port() -> u16 {
    TUNNEL_PORT
}

fn default_account() -> String {
    "default".to_owned()
}

/// A namespace's labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// `lark.mesh/capture: enabled` captures its workloads, `lark.mesh/mtls: strict` lets them take no plaintext.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `lark.mesh/mtls-ports` lists ports that are something else, for example `9090=permissive`.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A machine that runs an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses; its agent accepts tunnels at the first.
    pub addresses: Vec<IpAddr>,
    /// Port of its agent's tunnel listener.
    #[serde(default = "default_port")]
    pub tunnel_port: u16,
}

/// A pod or captured cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// Never used again for another workload; `NAMESPACE.NAME` if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its namespace.
    pub namespace: String,
    /// Its name, unique in the namespace.
    pub name: String,
    /// Its service account.
    #[serde(default = "default_account")]
    pub account: String,
    /// Its labels; `lark.mesh/capture` and `lark.mesh/mtls` win over the namespace's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its annotations; `lark.mesh/foreign-policies: accepted` captures it although `foreignPolicies` select it,
    /// `lark.mesh/mtls-ports` lists ports whose mode is another and wins over the namespace's.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Policies of kinds that Lark does not understand which select it, for example
    /// `CiliumNetworkPolicy shop/web`. Nobody enforces them inside a tunnel, so it is not captured.
    #[serde(default)]
    pub foreign_policies: Vec<String>,
    /// The node it runs on.
    pub node: String,
    /// Its addresses; for one on the host network, its node's.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Whether it shares its node's network namespace.
    #[serde(default)]
    pub host_network: bool,
    /// The TCP ports that its containers name, for policies that name ports.
    #[serde(default)]
    pub ports: Vec<NamedPort>,
    /// Its cgroup (v2), absolute or relative to the mount. Only its own node's agent needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// File of its network namespace, absolute; the agent's own for one on the host network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_namespace: Option<PathBuf>,
    /// What it belongs to, for example a Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// A TCP port of a container that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
}

/// What a workload belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Owner {
    /// Kind, for example `Deployment`.
    pub kind: String,
    /// Name in the workload's namespace.
    pub name: String,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The addresses by which clients reach it.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// The addresses behind it.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// On the Service's addresses.
    pub port: u16,
    /// On the endpoints; the same if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
}

/// An address behind a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// Whether it takes connections.
    #[serde(default = "yes")]
    pub ready: bool,
}

const fn yes() -> bool {
    true
}

/// The JSON schema of the document.
pub fn schema() -> String {
    let schema = schemars::schema_for!(MeshFile);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
