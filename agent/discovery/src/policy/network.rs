//! NetworkPolicy of Kubernetes, by its API reference; validation as the API server does it
//! (pkg/apis/networking/validation), defaults likewise.

use lark_core::policy::{self, PortMatch, Ports};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::selector::{IpBlock, LabelSelector};
use super::{Metadata, PolicyError, impossible};

/// Which pods may speak with which, as Kubernetes has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicy {
    /// `networking.k8s.io/v1`.
    pub api_version: Version,
    /// `NetworkPolicy`.
    pub kind: Kind,
    /// Its namespace and name.
    pub metadata: Metadata,
    /// What it says.
    #[serde(default)]
    pub spec: NetworkPolicySpec,
}

/// See [`NetworkPolicy::api_version`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Version {
    /// The only one.
    #[serde(rename = "networking.k8s.io/v1")]
    V1,
}

/// See [`NetworkPolicy::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// The only one.
    NetworkPolicy,
}

/// What a NetworkPolicy says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicySpec {
    /// The pods of the namespace that it isolates; all if it is empty.
    #[serde(default)]
    pub pod_selector: LabelSelector,
    /// What may come in.
    #[serde(default)]
    pub ingress: Option<Vec<IngressRule>>,
    /// What may go out.
    #[serde(default)]
    pub egress: Option<Vec<EgressRule>>,
    /// Which directions it isolates: Ingress, and Egress if there are egress rules, if it is not given.
    #[serde(default)]
    pub policy_types: Option<Vec<PolicyType>>,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyType {
    /// To the pods.
    Ingress,
    /// From the pods.
    Egress,
}

/// From any of these peers, to any of these ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IngressRule {
    /// Anybody if it is empty or not given.
    #[serde(default)]
    pub from: Option<Vec<Peer>>,
    /// All ports if it is empty or not given.
    #[serde(default)]
    pub ports: Option<Vec<Port>>,
}

/// To any of these peers, on any of these ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EgressRule {
    /// Anybody if it is empty or not given.
    #[serde(default)]
    pub to: Option<Vec<Peer>>,
    /// All ports if it is empty or not given.
    #[serde(default)]
    pub ports: Option<Vec<Port>>,
}

/// The other end: addresses, or pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// Pods with these labels: of the namespaces selected, or of the policy's own if none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Pods of namespaces with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses. Not together with the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

/// A port, or a range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// TCP if it is not given.
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// Number, or name of a container's port; all if it is not given.
    #[serde(default)]
    pub port: Option<PortNumber>,
    /// Last of a range that begins with `port`.
    #[serde(default)]
    pub end_port: Option<u16>,
}

/// See [`Port::protocol`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// What Lark carries.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// Not captured.
    #[serde(rename = "UDP")]
    Udp,
    /// Not captured.
    #[serde(rename = "SCTP")]
    Sctp,
}

/// See [`Port::port`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PortNumber {
    /// A number.
    Number(u16),
    /// A name.
    Name(String),
}

impl NetworkPolicy {
    /// The same, found possible, with its defaults spelled out.
    ///
    /// # Errors
    /// When the API server would not have taken it.
    pub fn read(self) -> Result<policy::NetworkPolicy, PolicyError> {
        let (metadata, spec) = (self.metadata, self.spec);
        let pods = spec.pod_selector.read("spec.podSelector")?;
        let ingress = spec.ingress.unwrap_or_default();
        let egress = spec.egress.unwrap_or_default();
        if spec.policy_types.as_ref().is_some_and(|types| types.len() > 2) {
            return impossible("spec.policyTypes", "there are two types, and more are named");
        }
        // An empty list of types counts as none, as in the API server's defaults.
        let types = spec.policy_types.filter(|types| !types.is_empty()).unwrap_or_else(|| {
            let outward = (!egress.is_empty()).then_some(PolicyType::Egress);
            [PolicyType::Ingress].into_iter().chain(outward).collect()
        });
        let ingress = ingress
            .into_iter()
            .enumerate()
            .map(|(i, r)| rule(r.from, r.ports, &format!("spec.ingress[{i}]"), "from"));
        let egress = egress
            .into_iter()
            .enumerate()
            .map(|(i, r)| rule(r.to, r.ports, &format!("spec.egress[{i}]"), "to"));
        // Rules of a direction that is not isolated are read nevertheless: what cannot be, is refused.
        let ingress = ingress.collect::<Result<Vec<_>, _>>()?;
        let egress = egress.collect::<Result<Vec<_>, _>>()?;
        Ok(policy::NetworkPolicy {
            namespace: metadata.namespace.into(),
            name: metadata.name.into(),
            pods,
            ingress: types.contains(&PolicyType::Ingress).then_some(ingress),
            egress: types.contains(&PolicyType::Egress).then_some(egress),
        })
    }
}

fn rule(
    peers: Option<Vec<Peer>>,
    ports: Option<Vec<Port>>,
    at: &str,
    side: &str,
) -> Result<policy::NetworkRule, PolicyError> {
    let peers = peers.unwrap_or_default().into_iter().enumerate();
    let peers =
        peers.map(|(i, peer)| peer.read(&format!("{at}.{side}[{i}]"))).collect::<Result<Vec<_>, _>>()?;
    let ports = ports.unwrap_or_default();
    let all = ports.is_empty();
    let ports =
        ports.into_iter().enumerate().filter_map(|(i, p)| p.read(&format!("{at}.ports[{i}]")).transpose());
    let ports = ports.collect::<Result<Vec<_>, _>>()?;
    Ok(policy::NetworkRule {
        peers: if peers.is_empty() { policy::Peers::All } else { policy::Peers::These(peers) },
        ports: if all { Ports::All } else { Ports::These(ports) },
    })
}

impl Peer {
    fn read(self, at: &str) -> Result<policy::Peer, PolicyError> {
        match self {
            Self { ip_block: Some(block), pod_selector: None, namespace_selector: None } => {
                Ok(policy::Peer::Block(block.read(&format!("{at}.ipBlock"))?))
            }
            Self { ip_block: Some(_), .. } => impossible(at, "ipBlock stands alone, without selectors"),
            Self { pod_selector: None, namespace_selector: None, .. } => {
                impossible(at, "it names no peer: podSelector, namespaceSelector or ipBlock")
            }
            Self { pod_selector, namespace_selector, .. } => Ok(policy::Peer::Pods {
                namespaces: namespace_selector
                    .map(|selector| selector.read(&format!("{at}.namespaceSelector")))
                    .transpose()?,
                pods: pod_selector.unwrap_or_default().read(&format!("{at}.podSelector"))?,
            }),
        }
    }
}

impl Port {
    /// Nothing for another protocol than TCP, which is checked all the same.
    fn read(self, at: &str) -> Result<Option<PortMatch>, PolicyError> {
        let found = match (self.port, self.end_port) {
            (None, None) => PortMatch::Any,
            (Some(PortNumber::Number(0)), _) => return impossible(at, "0 is no port"),
            (Some(PortNumber::Number(port)), None) => PortMatch::Range(port..=port),
            (Some(PortNumber::Number(port)), Some(end)) if end >= port => PortMatch::Range(port..=end),
            (Some(PortNumber::Number(port)), Some(end)) => {
                return impossible(at, format!("endPort {end} is below port {port}"));
            }
            (Some(PortNumber::Name(name)), None) => PortMatch::Name(port_name(name, at)?),
            (Some(PortNumber::Name(_)) | None, Some(_)) => {
                return impossible(at, "endPort needs a port that is a number");
            }
        };
        Ok((self.protocol.unwrap_or_default() == Protocol::Tcp).then_some(found))
    }
}

/// A name as containers give to ports (RFC 6335, section 5.1, in lower case).
fn port_name(name: String, at: &str) -> Result<String, PolicyError> {
    let valid = (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    if valid { Ok(name) } else { impossible(at, format!("{name:?} is no name of a port")) }
}
