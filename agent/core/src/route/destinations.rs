//! Mesh destinations: what the kernel takes to the agent. Kept up to date by what differs between two
//! snapshots.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::snapshot::{Service, Snapshot, Turned, Workload};

/// What the kernel does with connects to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Takes them to the agent.
    Redirect,
    /// Refuses them: the Service has no ready endpoint.
    RefuseNoEndpoint,
}

/// One entry of the kernel's map of mesh destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshDestination {
    /// The address.
    pub address: IpAddr,
    /// The port; `None` for any.
    pub port: Option<u16>,
    /// What to do.
    pub action: Action,
}

impl MeshDestination {
    fn key(&self) -> DestinationKey {
        (self.address, self.port)
    }
}

/// Address, and port; `None` for any.
pub type DestinationKey = (IpAddr, Option<u16>);

/// How the kernel's map changes from one snapshot to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationChanges {
    /// New ones, and those with another action.
    pub written: Vec<MeshDestination>,
    /// Those that are none any more.
    pub removed: Vec<DestinationKey>,
}

/// Most entries of one Service, port by port. One that would have more has one for each address, for any port, so that
/// who may write Services cannot take the whole map.
const BY_PORT: usize = 1024;

/// All mesh destinations: addresses of captured pods, and of Services with a captured endpoint.
/// Never the address of a host-network pod, which is its node's.
///
/// Those that are first find a place if there is not enough: pods before Services, and small ones before large ones.
pub fn mesh_destinations(snapshot: &Snapshot) -> Vec<MeshDestination> {
    let mut all: Vec<MeshDestination> = snapshot.workloads().flat_map(|w| of_workload(w)).collect();
    let mut services: Vec<&Arc<Service>> = snapshot.services().collect();
    services.sort_by_key(|service| entries(service));
    all.extend(services.into_iter().flat_map(|s| of_service(snapshot, s)));
    all
}

/// Whether a Service has entries for any port.
fn is_wide(service: &Service) -> bool {
    service.addresses.len().saturating_mul(service.ports.len()) > BY_PORT
}

fn entries(service: &Service) -> usize {
    service.addresses.len() * if is_wide(service) { 1 } else { service.ports.len() }
}

/// What differs between the mesh destinations of two snapshots, at the cost of what differs between these:
/// workloads and Services that changed, and Services of which a workload that changed is an endpoint.
pub fn changed_destinations(before: &Snapshot, now: &Snapshot) -> DestinationChanges {
    let mut old: HashMap<DestinationKey, MeshDestination> = HashMap::new();
    let mut new = old.clone();
    let mut services: BTreeMap<_, Turned<'_, Service>> = BTreeMap::new();
    let name = |service: &Arc<Service>| (service.namespace.clone(), service.name.clone());
    for (was, is) in now.changed_workloads(before) {
        old.extend(was.into_iter().flat_map(|w| of_workload(w)).map(|d| (d.key(), d)));
        new.extend(is.into_iter().flat_map(|w| of_workload(w)).map(|d| (d.key(), d)));
        for address in was.into_iter().chain(is).flat_map(|w| w.identifying_addresses()) {
            for service in before.services_of_endpoint(address) {
                services.entry(name(service)).or_default().0 = Some(service);
            }
            for service in now.services_of_endpoint(address) {
                services.entry(name(service)).or_default().1 = Some(service);
            }
        }
    }
    for (was, is) in now.changed_services(before) {
        if let Some(service) = was.or(is) {
            services.insert(name(service), (was, is));
        }
    }
    for (was, is) in services.into_values() {
        old.extend(was.into_iter().flat_map(|s| of_service(before, s)).map(|d| (d.key(), d)));
        new.extend(is.into_iter().flat_map(|s| of_service(now, s)).map(|d| (d.key(), d)));
    }
    DestinationChanges {
        // Of several that claim an address, those that are left need not have changed.
        removed: old.keys().copied().filter(|key| !new.contains_key(key) && !stays(now, key)).collect(),
        written: new.into_iter().filter(|(key, d)| old.get(key) != Some(d)).map(|(_, d)| d).collect(),
    }
}

/// Whether connects to this address and port are taken.
pub fn is_mesh_destination(snapshot: &Snapshot, asked: SocketAddr) -> bool {
    let address = asked.ip().to_canonical();
    is_captured(snapshot, address)
        || snapshot
            .service_by_address(address)
            .is_some_and(|s| has_entry(s, asked.port()) && is_in_mesh(snapshot, s))
}

/// Whether a Service has a captured endpoint.
pub fn is_in_mesh(snapshot: &Snapshot, service: &Service) -> bool {
    service
        .endpoints
        .iter()
        .any(|e| e.unknown || snapshot.workload_by_address(e.address).is_some_and(|w| w.capture.is_wanted()))
}

fn has_entry(service: &Service, port: u16) -> bool {
    is_wide(service) || service.ports.iter().any(|p| p.port == port)
}

/// Whether an entry for any port is somebody else's too.
fn stays(snapshot: &Snapshot, (address, port): &DestinationKey) -> bool {
    let is_services = || {
        let service = snapshot.service_by_address(*address);
        service.is_some_and(|s| is_wide(s) && is_in_mesh(snapshot, s))
    };
    port.is_none() && (is_captured(snapshot, *address) || is_services())
}

/// Whether a captured workload has this address, or claims it.
fn is_captured(snapshot: &Snapshot, address: IpAddr) -> bool {
    snapshot.workload_by_address(address).is_some_and(|w| w.capture.is_wanted())
        || snapshot.is_contested(address)
}

fn of_workload(workload: &Workload) -> impl Iterator<Item = MeshDestination> + '_ {
    // A contested one too: it leads to the agent, which refuses it, and never to plaintext, whoever else has it.
    let addresses = workload.own_addresses().filter(|_| workload.capture.is_wanted());
    addresses.map(|address| MeshDestination { address, port: None, action: Action::Redirect })
}

fn of_service<'a>(
    snapshot: &Snapshot,
    service: &'a Service,
) -> impl Iterator<Item = MeshDestination> + use<'a> {
    let is_in_mesh = is_in_mesh(snapshot, service);
    service.addresses.iter().filter(move |_| is_in_mesh).flat_map(move |address| {
        let address = address.to_canonical();
        let ready = service
            .endpoints
            .iter()
            .any(|e| (e.ready || e.draining) && e.address.to_canonical().is_ipv4() == address.is_ipv4());
        let action = if ready { Action::Redirect } else { Action::RefuseNoEndpoint };
        let ports = if is_wide(service) { [].as_slice() } else { service.ports.as_slice() };
        let any = is_wide(service).then_some(MeshDestination { address, port: None, action });
        ports.iter().map(move |p| MeshDestination { address, port: Some(p.port), action }).chain(any)
    })
}

#[cfg(test)]
mod tests;
