//! Services with their endpoints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use lark_core::capture::{self, Wanted};
use lark_core::snapshot::{self, Near, Topology, Traffic};

use super::super::fact::{self, Key, Life, Pod, Service, Slice};
use super::{Claims, World};

impl World {
    /// The Service with those addresses that are its own alone; `None` if it has none.
    pub(super) fn service(&self, service: &Service) -> Option<snapshot::Service> {
        let key = (service.namespace.clone(), service.name.clone());
        let claims = |address: &IpAddr| self.claims.get(address);
        let cluster: Vec<IpAddr> = service
            .cluster
            .iter()
            .copied()
            .filter(|a| claims(a).is_some_and(|c| c.cluster.len() == 1))
            .collect();
        let outer = service.outer.iter().copied().filter(|a| {
            claims(a).is_some_and(|c| c.outer.len() == 1 && c.against_pods() == 0) && !cluster.contains(a)
        });
        let addresses: Vec<IpAddr> = cluster.iter().copied().chain(outer).collect();
        if addresses.is_empty() || service.ports.is_empty() {
            return None;
        }
        let slices = self.slices_of.get(&key).into_iter().flatten().filter_map(|k| self.slices.get(k));
        let targets = numbers(slices.flat_map(|s| &s.ports));
        let target = |port: &fact::Port| targets.get(&*port.name).copied().unwrap_or(port.number);
        let port = |port: &fact::Port| snapshot::ServicePort {
            name: (!port.name.is_empty()).then(|| port.name.to_string()),
            port: port.number,
            target_port: target(port),
        };
        Some(snapshot::Service {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            addresses,
            ports: service.ports.iter().map(port).collect(),
            endpoints: self.service_endpoints(service, &key),
            traffic: Traffic {
                affinity: service.affinity,
                local_at: if service.local { cluster } else { Vec::new() },
                near: match service.near {
                    fact::Near::Any => Near::Any,
                    fact::Near::Zone => Near::Zone,
                    fact::Near::Node => Near::Node,
                },
            },
        })
    }

    pub(super) fn endpoints(&self, service: &Key) -> impl Iterator<Item = (&Slice, &fact::Endpoint)> {
        let slices = self.slices_of.get(service).into_iter().flatten().filter_map(|k| self.slices.get(k));
        slices.flat_map(|slice| slice.endpoints.iter().map(move |e| (slice, e)))
    }

    fn service_endpoints(&self, service: &Service, key: &Key) -> Vec<snapshot::Endpoint> {
        // By address: one that is in two slices for a moment is one endpoint.
        let mut found: BTreeMap<IpAddr, snapshot::Endpoint> = BTreeMap::new();
        // Endpoints of one slice share their ports, and most of a zone or node their topology.
        let mut shared_ports: BTreeMap<&Key, Arc<[(u16, u16)]>> = BTreeMap::new();
        let mut shared_places: BTreeSet<Arc<Topology>> = BTreeSet::new();
        let slices = self.slices_of.get(key).into_iter().flatten();
        for (slice_key, slice) in slices.filter_map(|k| Some((k, self.slices.get(k)?))) {
            let ports = shared_ports.entry(slice_key).or_insert_with(|| ports(service, slice)).clone();
            for endpoint in &slice.endpoints {
                let unknown = !self.is_known(endpoint);
                if unknown && !self.may_be_captured(&slice.namespace, endpoint.address) {
                    continue;
                }
                let place = Topology {
                    node: endpoint.node.clone(),
                    zone: endpoint.zone.clone(),
                    for_zones: endpoint.zones.clone(),
                    for_nodes: endpoint.nodes.clone(),
                };
                let place = match shared_places.get(&place) {
                    Some(shared) => shared.clone(),
                    None => {
                        let place = Arc::new(place);
                        shared_places.insert(place.clone());
                        place
                    }
                };
                let next = snapshot::Endpoint {
                    address: endpoint.address,
                    ready: endpoint.ready,
                    draining: endpoint.draining,
                    unknown,
                    ports: Some(ports.clone()),
                    topology: Some(place),
                };
                let rank = |e: &snapshot::Endpoint| (!e.unknown, e.ready, e.draining);
                let known = found.entry(endpoint.address).or_insert_with(|| next.clone());
                if rank(&next) > rank(known) {
                    *known = next;
                }
            }
        }
        found.into_values().collect()
    }

    /// Whether the endpoint's address means what the slice says: the very pod that it names, or, if it
    /// names none, whatever has that address.
    fn is_known(&self, endpoint: &fact::Endpoint) -> bool {
        let claims = self.claims.get(&endpoint.address);
        let Some(uid) = &endpoint.pod else {
            return claims.is_none_or(|c| c.pods.is_empty() || (c.against_pods() == 1 && self.all_told(c)));
        };
        let is_it = |pod: &Pod| pod.uid == *uid && pod.life == Life::Alive;
        match claims.filter(|c| !c.pods.is_empty()) {
            Some(claims) => {
                claims.against_pods() == 1
                    && self.all_told(claims)
                    && claims.pods.iter().filter_map(|key| self.pods.get(key)).any(is_it)
            }
            // A pod on its node's network has no address of its own.
            None => {
                let pod = self.host_pods.get(uid).and_then(|key| self.pods.get(key));
                pod.is_some_and(|pod| is_it(pod) && pod.addresses.contains(&endpoint.address))
            }
        }
    }

    /// Whether these pods' namespaces and nodes are known, so that it is known what they are.
    fn all_told(&self, claims: &Claims) -> bool {
        claims.pods.iter().filter_map(|key| self.pods.get(key)).all(|pod| {
            // Without an account it is no workload, and known to be none. One whose node is not known cannot
            // be reached, others may.
            let node =
                || pod.node.clone().is_some_and(|node| self.nodes.get(&(Arc::default(), node)).is_some());
            pod.account.is_none() || self.identity(pod).is_some() && node()
        })
    }

    /// Whether an endpoint that is not known may be of a captured workload.
    fn may_be_captured(&self, namespace: &Arc<str>, address: IpAddr) -> bool {
        let by_namespace = self
            .labels(namespace)
            .is_none_or(|labels| capture::wanted(namespace, labels, &BTreeMap::new()).is_wanted());
        let claims = self.claims.get(&address).into_iter().flat_map(|c| &c.pods);
        let mut pods = claims.filter_map(|key| self.pods.get(key));
        by_namespace || pods.any(|pod| self.wanted(pod).is_none_or(Wanted::is_wanted))
    }
}

/// The Service's ports that the slice's endpoints serve, each with its number there.
fn ports(service: &Service, slice: &Slice) -> Arc<[(u16, u16)]> {
    let own = numbers(&slice.ports);
    service.ports.iter().filter_map(|port| Some((port.number, *own.get(&*port.name)?))).collect()
}

/// Ports' numbers by name; of two with one name the first. A Service may have twenty thousand.
fn numbers<'a>(ports: impl IntoIterator<Item = &'a fact::Port>) -> HashMap<&'a str, u16> {
    let mut numbers = HashMap::new();
    for port in ports {
        numbers.entry(&*port.name).or_insert(port.number);
    }
    numbers
}
