//! From one snapshot to the next, at the cost of what differs.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Node, NodeName, Service, ServiceKey, Snapshot, SnapshotError, Turned, Workload};

/// Something that discovery learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node is there, or is different.
    Node(Node),
    /// A node is gone. Workloads that are still there cannot be reached.
    NodeGone(NodeName),
    /// A workload is there, or is different; its uid says which.
    Workload(Workload),
    /// The workload of that uid is gone.
    WorkloadGone(Arc<str>),
    /// A Service is there, or is different; namespace and name say which.
    Service(Service),
    /// A Service is gone.
    ServiceGone {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
}

impl Snapshot {
    /// The snapshot after all of these changes, which are one moment: an address may go from one workload
    /// to another in any order. What does not change is shared, so this costs what changes does; only
    /// policies, if there are any, are compiled anew for all workloads.
    ///
    /// # Errors
    /// As [`Snapshot::build`], when an address or a name would identify two things: the caller keeps this
    /// snapshot.
    pub fn with(
        &self,
        generation: u64,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Self, SnapshotError> {
        let changes = Changes::of(changes);
        let mut next = Self { generation, ..self.clone() };
        for (name, node) in &changes.nodes {
            next.take_node(name);
            if let Some(node) = node {
                next.put_node(node.clone());
            }
        }
        // All that goes or is replaced first, so that addresses are free.
        for uid in changes.workloads.keys() {
            next.take_workload(uid);
        }
        let services: Vec<_> = changes
            .services
            .into_iter()
            .map(|(key, service)| (next.take_service(&key), key, service.map(Arc::new)))
            .collect();
        for workload in changes.workloads.into_values().flatten() {
            next.put_workload(workload)?;
        }
        for (before, key, now) in services {
            next.index_endpoints(&key, before.as_deref(), now.as_deref());
            if let Some(service) = now {
                next.put_service(service)?;
            }
        }
        // What selects whom and the nodes' own addresses hang on all that may have changed above.
        next.policies = Arc::new(self.policies.rebuild(next.workloads(), next.nodes()));
        Ok(next)
    }

    /// What became of workloads since an earlier snapshot: before, and now.
    pub fn changed_workloads<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Turned<'a, Workload>> {
        self.workloads.changed(&before.workloads)
    }

    /// What became of Services since an earlier snapshot: before, and now.
    pub fn changed_services<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Turned<'a, Service>> {
        self.services.changed(&before.services)
    }

    /// Adds a node whose name is new.
    pub(super) fn put_node(&mut self, node: Node) {
        let node = Arc::new(node);
        for address in &node.addresses {
            let address = address.to_canonical();
            match self.nodes_by_address.get_mut(&address) {
                Some(nodes) => {
                    // By name, so that it does not matter which came first.
                    let place = nodes.partition_point(|other| other.name < node.name);
                    nodes.insert(place, node.clone());
                }
                None => {
                    self.nodes_by_address.insert(address, vec![node.clone()]);
                }
            }
        }
        self.nodes.insert(node.name.clone(), node);
    }

    fn take_node(&mut self, name: &NodeName) {
        let Some(node) = self.nodes.remove(name) else { return };
        for address in &node.addresses {
            let address = address.to_canonical();
            if let Some(nodes) = self.nodes_by_address.get_mut(&address) {
                nodes.retain(|other| other.name != *name);
                if nodes.is_empty() {
                    self.nodes_by_address.remove(&address);
                }
            }
        }
    }

    /// Adds a workload whose uid is new.
    pub(super) fn put_workload(&mut self, workload: Workload) -> Result<(), SnapshotError> {
        let workload = Arc::new(workload);
        let name = (workload.namespace.clone(), workload.name.clone());
        if self.by_name.insert(name, workload.clone()).is_some() {
            return Err(SnapshotError::DuplicateWorkload {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
            });
        }
        for address in workload.identifying_addresses() {
            if let Some(other) = self.by_address.insert(address, workload.clone()) {
                return Err(SnapshotError::SharedAddress {
                    address,
                    first: other.full_name(),
                    second: workload.full_name(),
                });
            }
            if let Some(service) = self.services_by_address.get(&address) {
                return Err(SnapshotError::SharedServiceAddress {
                    address,
                    service: service.full_name(),
                    other: workload.full_name(),
                });
            }
        }
        for address in workload.closed_addresses() {
            let others = self.contested.get(&address).copied().unwrap_or(0);
            self.contested.insert(address, others + 1);
        }
        match self.by_node.get_mut(&workload.node) {
            Some(workloads) => {
                Arc::make_mut(workloads).insert(workload.uid.clone(), workload.clone());
            }
            None => {
                let first = BTreeMap::from([(workload.uid.clone(), workload.clone())]);
                self.by_node.insert(workload.node.clone(), Arc::new(first));
            }
        }
        self.workloads.insert(workload.uid.clone(), workload);
        Ok(())
    }

    fn take_workload(&mut self, uid: &Arc<str>) {
        let Some(workload) = self.workloads.remove(uid) else { return };
        self.by_name.remove(&(workload.namespace.clone(), workload.name.clone()));
        for address in workload.identifying_addresses() {
            self.by_address.remove(&address);
        }
        for address in workload.closed_addresses() {
            if let Some(many @ 2..) = self.contested.remove(&address) {
                self.contested.insert(address, many - 1);
            }
        }
        if let Some(workloads) = self.by_node.get_mut(&workload.node) {
            let workloads = Arc::make_mut(workloads);
            workloads.remove(uid);
            if workloads.is_empty() {
                self.by_node.remove(&workload.node);
            }
        }
    }

    /// Adds a Service whose name is new, but for its endpoints.
    pub(super) fn put_service(&mut self, service: Arc<Service>) -> Result<(), SnapshotError> {
        for address in &service.addresses {
            let address = address.to_canonical();
            let other = self
                .by_address
                .get(&address)
                .map(|w| w.full_name())
                .or_else(|| self.services_by_address.get(&address).map(|s| s.full_name()));
            if let Some(other) = other {
                return Err(SnapshotError::SharedServiceAddress {
                    address,
                    service: service.full_name(),
                    other,
                });
            }
            self.services_by_address.insert(address, service.clone());
        }
        self.services.insert(service.key(), service);
        Ok(())
    }

    /// Takes a Service out, but for its endpoints.
    fn take_service(&mut self, key: &ServiceKey) -> Option<Arc<Service>> {
        let service = self.services.remove(key)?;
        for address in &service.addresses {
            self.services_by_address.remove(&address.to_canonical());
        }
        Some(service)
    }

    /// Notes which endpoints came and went: of thousands, an update changes a few.
    pub(super) fn index_endpoints(
        &mut self,
        key: &ServiceKey,
        before: Option<&Service>,
        now: Option<&Service>,
    ) {
        let addresses = |service: Option<&Service>| -> HashSet<IpAddr> {
            service.into_iter().flat_map(|s| &s.endpoints).map(|e| e.address.to_canonical()).collect()
        };
        let (before, now) = (addresses(before), addresses(now));
        for address in before.difference(&now) {
            if let Some(keys) = self.services_by_endpoint.get_mut(address) {
                keys.retain(|other| other != key);
                if keys.is_empty() {
                    self.services_by_endpoint.remove(address);
                }
            }
        }
        for address in now.difference(&before) {
            match self.services_by_endpoint.get_mut(address) {
                Some(keys) => {
                    let place = keys.partition_point(|other| other < key);
                    keys.insert(place, key.clone());
                }
                None => {
                    self.services_by_endpoint.insert(*address, vec![key.clone()]);
                }
            }
        }
    }
}

/// Changes by what they are of; of several the last holds, and nothing means gone.
#[derive(Default)]
struct Changes {
    nodes: BTreeMap<NodeName, Option<Node>>,
    workloads: BTreeMap<Arc<str>, Option<Workload>>,
    services: BTreeMap<ServiceKey, Option<Service>>,
}

impl Changes {
    fn of(changes: impl IntoIterator<Item = Change>) -> Self {
        let mut all = Self::default();
        for change in changes {
            match change {
                Change::Node(node) => {
                    all.nodes.insert(node.name.clone(), Some(node));
                }
                Change::NodeGone(name) => {
                    all.nodes.insert(name, None);
                }
                Change::Workload(workload) => {
                    all.workloads.insert(workload.uid.clone(), Some(workload));
                }
                Change::WorkloadGone(uid) => {
                    all.workloads.insert(uid, None);
                }
                Change::Service(service) => {
                    all.services.insert(service.key(), Some(service));
                }
                Change::ServiceGone { namespace, name } => {
                    all.services.insert((namespace, name), None);
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
