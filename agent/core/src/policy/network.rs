//! NetworkPolicy (`networking.k8s.io/v1`), read: which pods may speak with which, by its documented
//! semantics. Only TCP is judged, since nothing else is captured.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::block::Block;
use super::buckets::Token;
use super::selector::{Labels, Selector};
use crate::snapshot::Workload;

/// Seen from the pod that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Connections to the pod.
    Ingress,
    /// Connections from the pod.
    Egress,
}

impl Direction {
    /// The word in manifests and tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The pods of its namespace that it isolates.
    pub pods: Selector,
    /// What may come in; nothing here if it does not isolate ingress, an empty list closes it.
    pub ingress: Option<Vec<NetworkRule>>,
    /// What may go out, likewise.
    pub egress: Option<Vec<NetworkRule>>,
}

/// One rule: with any of these peers, on any of these ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRule {
    /// The other end.
    pub peers: Peers,
    /// Ports of the end that accepts.
    pub ports: Ports,
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Anybody.
    All,
    /// Any of these.
    These(Vec<Peer>),
}

/// One kind of peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Addresses.
    Block(Block),
    /// Pods.
    Pods {
        /// In which namespaces: those selected, or the policy's own.
        namespaces: Option<Selector>,
        /// Which of them.
        pods: Selector,
    },
}

/// Ports of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// All of them.
    All,
    /// Any of these. None at all is left where a rule names ports of other protocols only.
    These(Vec<PortMatch>),
}

/// One TCP port or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortMatch {
    /// All ports.
    Any,
    /// From one to another.
    Range(RangeInclusive<u16>),
    /// The port that the accepting pod has under this name.
    Name(String),
}

/// What a rule is held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Against<'a> {
    /// The other end, if it is a pod with an address of its own.
    pub(super) pod: Option<&'a Workload>,
    /// Labels of that pod's namespace.
    pub(super) namespace_labels: &'a Labels,
    /// Its address, canonical.
    pub(super) address: IpAddr,
    /// The pod that accepts, if it is one.
    pub(super) accepts: Option<&'a Workload>,
    /// The port on which it accepts.
    pub(super) port: u16,
}

impl NetworkPolicy {
    /// Its rules for a direction; nothing if it does not isolate that.
    pub(super) fn rules(&self, direction: Direction) -> Option<&[NetworkRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

impl NetworkRule {
    /// Under what it is looked up: a peer that it allows has one of these. `carried` tells how many
    /// workloads carry a label, so that of several the rarest is taken.
    pub(super) fn tokens<'a>(
        &'a self,
        own_namespace: &'a str,
        carried: &impl Fn(&str, &str) -> usize,
    ) -> Vec<Token<'a>> {
        match &self.peers {
            Peers::All => vec![Token::Any],
            Peers::These(peers) => peers.iter().map(|peer| peer.token(own_namespace, carried)).collect(),
        }
    }

    pub(super) fn allows(&self, own_namespace: &str, against: &Against<'_>) -> bool {
        let ports = match &self.ports {
            Ports::All => true,
            Ports::These(ports) => ports.iter().any(|port| port.matches(against)),
        };
        ports
            && match &self.peers {
                Peers::All => true,
                Peers::These(peers) => peers.iter().any(|peer| peer.matches(own_namespace, against)),
            }
    }
}

impl Peer {
    fn token<'a>(&'a self, own_namespace: &'a str, carried: &impl Fn(&str, &str) -> usize) -> Token<'a> {
        let Self::Pods { namespaces, pods } = self else { return Token::Any };
        let rarest = pods.labels.iter().min_by_key(|(key, value)| carried(key, value));
        match (rarest, namespaces) {
            (Some((key, value)), _) => Token::Label(key, value),
            (None, None) => Token::Namespace(own_namespace),
            (None, Some(_)) => Token::Any,
        }
    }

    fn matches(&self, own_namespace: &str, against: &Against<'_>) -> bool {
        match self {
            Self::Block(block) => block.contains(against.address),
            Self::Pods { namespaces, pods } => against.pod.is_some_and(|pod| {
                let namespace = match namespaces {
                    None => &*pod.namespace == own_namespace,
                    Some(selector) => selector.matches(against.namespace_labels),
                };
                namespace && pods.matches(&pod.labels)
            }),
        }
    }
}

impl PortMatch {
    fn matches(&self, against: &Against<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Range(range) => range.contains(&against.port),
            Self::Name(name) => against
                .accepts
                .is_some_and(|pod| pod.ports.iter().any(|p| p.name == *name && p.port == against.port)),
        }
    }
}
