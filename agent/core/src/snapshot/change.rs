//! From one snapshot to the next, at the cost of what differs.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::entries::{At, Located, Named, OnNode};
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
    /// to another in any order. What does not change is shared, so this costs what changes does; only where
    /// workloads are selected by policies as none was before, those are compiled anew for all workloads.
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
        let followed = self.policies.follow(next.changed_workloads(self), next.nodes.changed(&self.nodes));
        let policies = followed.unwrap_or_else(|| self.policies.rebuild(next.workloads(), next.nodes()));
        next.policies = Arc::new(policies);
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
            match self.nodes_by_address.get_mut((*address).into()) {
                Some(At { found: nodes, .. }) => {
                    // By name, so that it does not matter which came first.
                    let place = nodes.partition_point(|other| other.name < node.name);
                    nodes.insert(place, node.clone());
                }
                None => self.nodes_by_address.add(At::new(*address, vec![node.clone()])),
            }
        }
        self.locate_on(&node.name, Some(&node));
        self.nodes.insert(node);
    }

    /// Notes with all workloads of a node's name what that node is now.
    fn locate_on(&mut self, name: &str, node: Option<&Arc<Node>>) {
        let workloads = self.by_node.get(name).map(|on| on.workloads.clone()).unwrap_or_default();
        for address in workloads.iter().flat_map(|workload| workload.identifying_addresses()) {
            if let Some(at) = self.by_address.get_mut(address.into()) {
                at.found.node = node.cloned();
            }
        }
    }

    fn take_node(&mut self, name: &str) {
        let Some(node) = self.nodes.remove(name) else { return };
        self.locate_on(name, None);
        for address in &node.addresses {
            if let Some(At { found: nodes, .. }) = self.nodes_by_address.get_mut((*address).into()) {
                nodes.retain(|other| *other.name != *name);
                if nodes.is_empty() {
                    self.nodes_by_address.remove((*address).into());
                }
            }
        }
    }

    /// Adds a workload whose uid is new.
    pub(super) fn put_workload(&mut self, workload: Workload) -> Result<(), SnapshotError> {
        let workload = Arc::new(workload);
        if self.by_name.insert(Named(workload.clone())).is_some() {
            return Err(SnapshotError::DuplicateWorkload {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
            });
        }
        let node = self.nodes.get(&workload.node).cloned();
        for address in workload.identifying_addresses() {
            let located = Located { workload: workload.clone(), node: node.clone() };
            if let Some(other) = self.by_address.insert(At::new(address, located)) {
                return Err(SnapshotError::SharedAddress {
                    address,
                    first: other.found.workload.full_name(),
                    second: workload.full_name(),
                });
            }
            if let Some(service) = self.service_by_address(address) {
                return Err(SnapshotError::SharedServiceAddress {
                    address,
                    service: service.full_name(),
                    other: workload.full_name(),
                });
            }
        }
        for address in workload.closed_addresses() {
            let others = self.contested.get(address.into()).map_or(0, |at| at.found);
            self.contested.insert(At::new(address, others + 1));
        }
        match self.by_node.get_mut(&workload.node) {
            Some(OnNode { workloads, .. }) => {
                let workloads = Arc::make_mut(workloads);
                let place = workloads.partition_point(|other| other.uid < workload.uid);
                workloads.insert(place, workload.clone());
            }
            None => {
                let (node, workloads) = (workload.node.clone(), Arc::new(vec![workload.clone()]));
                self.by_node.add(OnNode { node, workloads });
            }
        }
        self.workloads.insert(workload);
        Ok(())
    }

    fn take_workload(&mut self, uid: &str) {
        let Some(workload) = self.workloads.remove(uid) else { return };
        self.by_name.remove((&workload.namespace, &workload.name));
        for address in workload.identifying_addresses() {
            self.by_address.remove(address.into());
        }
        for address in workload.closed_addresses() {
            if let Some(At { found: many @ 2.., .. }) = self.contested.remove(address.into()) {
                self.contested.insert(At::new(address, many - 1));
            }
        }
        if let Some(OnNode { workloads, .. }) = self.by_node.get_mut(&workload.node) {
            let workloads = Arc::make_mut(workloads);
            workloads.retain(|other| *other.uid != *uid);
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
                .workload_by_address(address)
                .map(|w| w.full_name())
                .or_else(|| self.service_by_address(address).map(|s| s.full_name()));
            if let Some(other) = other {
                return Err(SnapshotError::SharedServiceAddress {
                    address,
                    service: service.full_name(),
                    other,
                });
            }
            self.services_by_address.add(At::new(address, service.clone()));
        }
        self.services.insert(service);
        Ok(())
    }

    /// Takes a Service out, but for its endpoints.
    fn take_service(&mut self, (namespace, name): &ServiceKey) -> Option<Arc<Service>> {
        let service = self.services.remove((namespace, name))?;
        for address in &service.addresses {
            self.services_by_address.remove((*address).into());
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
            self.services_by_endpoint.remove_one((*address).into(), |at| at.found == *key);
        }
        for address in now.difference(&before) {
            self.services_by_endpoint.add(At::new(*address, key.clone()));
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
