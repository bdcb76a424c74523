//! What a snapshot's indices hold, and by what it is found there.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::shards::Entry;
use super::{Node, NodeName, Service, ServiceKey, Workload};

/// Nodes by name.
impl Entry for Arc<Node> {
    type Key<'a> = &'a str;

    fn key(&self) -> &str {
        &self.name
    }

    fn is(&self, key: &str) -> bool {
        *self.name == *key
    }
}

/// Workloads by uid.
impl Entry for Arc<Workload> {
    type Key<'a> = &'a str;

    fn key(&self) -> &str {
        &self.uid
    }

    fn is(&self, key: &str) -> bool {
        *self.uid == *key
    }
}

/// Services by namespace and name.
impl Entry for Arc<Service> {
    type Key<'a> = (&'a str, &'a str);

    fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }

    fn is(&self, key: (&str, &str)) -> bool {
        self.key() == key
    }
}

/// Workloads by namespace and name.
#[derive(Debug, Clone)]
pub(super) struct Named(pub(super) Arc<Workload>);

impl Entry for Named {
    type Key<'a> = (&'a str, &'a str);

    fn key(&self) -> (&str, &str) {
        (&self.0.namespace, &self.0.name)
    }

    fn is(&self, key: (&str, &str)) -> bool {
        self.key() == key
    }
}

/// The workloads of a node, in the order of their uids.
#[derive(Debug, Clone)]
pub(super) struct OnNode {
    pub(super) node: NodeName,
    pub(super) workloads: Arc<Vec<Arc<Workload>>>,
}

impl Entry for OnNode {
    type Key<'a> = &'a str;

    fn key(&self) -> &str {
        &self.node
    }

    fn is(&self, key: &str) -> bool {
        *self.node == *key
    }
}

/// An address as indices have it: those of IPv4 mapped, which no other address looks like once it is canonical.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Address(Ipv6Addr);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped()),
            IpAddr::V6(v6) => Self(v6),
        }
    }
}

/// Something by an address.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) address: Address,
    pub(super) found: T,
}

impl<T> At<T> {
    pub(super) fn new(address: IpAddr, found: T) -> Self {
        Self { address: address.into(), found }
    }
}

impl<T: Clone> Entry for At<T> {
    type Key<'a> = Address;

    fn key(&self) -> Address {
        self.address
    }

    fn is(&self, key: Address) -> bool {
        self.address == key
    }
}

/// The workload that an address identifies, and its node: each connection asks for both, and to look for a node by its
/// name is to read memory that nothing has read for long.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) workload: Arc<Workload>,
    /// Nothing while discovery does not list it.
    pub(super) node: Option<Arc<Node>>,
}

/// A Service of which an address is an endpoint.
pub(super) type Serving = At<ServiceKey>;
