//! Who may connect to whom: AuthorizationPolicy and the cluster's NetworkPolicy, judged against the
//! workloads that a connection was proved to be of.
//!
//! A snapshot's policies are compiled into a [`PolicyIndex`] by workload, which follows single changes. Every answer is a
//! [`Decision`] that carries its reason; whoever prints it does not reconstruct it. Order of policies and
//! rules never matters, except for which of several that agree is named.

mod authorization;
mod block;
mod buckets;
mod compile;
mod decision;
mod denial;
mod index;
mod network;
mod passage;
mod plaintext;
mod ports;
mod selector;
mod told;

pub use authorization::{Action, AuthorizationPolicy, AuthorizationRule, IdentityPattern, Scope, Source};
pub use block::{Block, BlockError, Cidr};
pub use decision::{Because, Decision, Selecting, Stage};
pub use denial::{Denial, How};
pub use index::{Listed, Policy, PolicyIndex};
pub use network::{Direction, NetworkPolicy, NetworkRule, Peer, Peers, PortMatch, Ports};
pub use passage::{At, Denied, Passage, Verdict};
pub use ports::{PORTS_MAX, PortsAsked};
pub use selector::{Labels, Operator, Requirement, Selector};
pub use told::{explain, list, selecting};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::snapshot::Workload;

/// One end of a connection, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The workload that it is of.
    pub workload: Option<&'a Workload>,
    /// Its address.
    pub address: IpAddr,
    /// Whether the workload was proved, by a handshake or by its cgroup, and is not just known by the
    /// address. AuthorizationPolicy believes in nothing less.
    pub proved: bool,
}

/// A connection that somebody wants to make.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Who connects.
    pub source: End<'a>,
    /// To whom; of a Service, the endpoint that was chosen.
    pub destination: End<'a>,
    /// The port of the destination itself, not of a Service in front of it.
    pub port: u16,
}

/// Kinds of policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `lark.mesh/v1alpha1`.
    Authorization,
    /// `networking.k8s.io/v1`.
    Network,
}

impl Kind {
    /// The kind as manifests write it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Authorization => "AuthorizationPolicy",
            Self::Network => "NetworkPolicy",
        }
    }
}

/// Which policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty if not even that could be read.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl std::fmt::Display for PolicyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.label(), self.namespace, self.name)
    }
}

/// A policy that could not be read. What it selects is closed until it can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Which one.
    pub policy: PolicyName,
    /// Why, in a sentence.
    pub why: String,
    /// The namespace whose workloads it selects from; nothing for those of all.
    pub within: Option<Arc<str>>,
    /// The workloads that it selects; all if its selector could not be read either.
    pub selector: Selector,
    /// Whether it asks to be a dry run, which closes nothing.
    pub dry_run: bool,
}

/// All policies of a moment, and what their selectors look at besides workloads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// Labels of namespaces. Each has `kubernetes.io/metadata.name` besides, listed or not.
    pub namespaces: BTreeMap<Arc<str>, Labels>,
    /// Who may connect to a workload.
    pub authorization: Vec<AuthorizationPolicy>,
    /// Which pods may speak with which.
    pub network: Vec<NetworkPolicy>,
    /// Those that could not be read.
    pub unreadable: Vec<Unreadable>,
}

#[cfg(test)]
pub(crate) mod tests;
