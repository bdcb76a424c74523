//! From objects of the API to the snapshot: pure, and at the cost of what changes.
//!
//! Each kind of object has a watch of its own, so that what one tells may be older or newer than what
//! another tells, by any time. Nothing is concluded from an order between kinds. A pod is a workload only
//! when its namespace is known too; once it was, the namespace counts as it was last until the last of its pods
//! is gone. Its node need not be known: until it is, and after it went, nobody is taken there, and nothing is
//! let go that was held. An address identifies a pod only while exactly one live pod
//! has it and nothing else is said to: two claims make it *contested* until one is gone. An endpoint counts
//! as the pod that it names only while that very pod has this address; until then it is *unknown* and nobody
//! is connected to it. One contradiction therefore costs one address, and never an identity.

mod service;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use lark_core::capture::{self, Wanted};
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::mode::{Marks, Mode, Mtls, mode};
use lark_core::policy::Policies;
use lark_core::snapshot::{self, Alike, Change, Contested, Snapshot};

use super::fact::{AuthorizationPolicy, Key, Life, Namespace, NetworkPolicy, Node, Pod, Service, Slice};
use super::few::Few;
use super::object::Fact;
use super::store::{Difference, Event, Store};
use crate::policy;

/// What of one watch arrived.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// Of namespaces.
    Namespace(Event<Namespace>),
    /// Of nodes.
    Node(Event<Node>),
    /// Of pods.
    Pod(Event<Pod>),
    /// Of Services.
    Service(Event<Service>),
    /// Of EndpointSlices.
    Slice(Event<Slice>),
    /// Of NetworkPolicies.
    Network(Event<NetworkPolicy>),
    /// Of AuthorizationPolicies.
    Authorization(Event<AuthorizationPolicy>),
}

/// What kind of news an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A list begins.
    Listing,
    /// A list is complete.
    ListedAll,
    /// An object.
    Object,
}

impl Told {
    /// The kind, as paths of the API name it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Namespace(_) => Namespace::PLURAL,
            Self::Node(_) => Node::PLURAL,
            Self::Pod(_) => Pod::PLURAL,
            Self::Service(_) => Service::PLURAL,
            Self::Slice(_) => Slice::PLURAL,
            Self::Network(_) => NetworkPolicy::PLURAL,
            Self::Authorization(_) => AuthorizationPolicy::PLURAL,
        }
    }

    /// What kind of news it is.
    pub(crate) fn step(&self) -> Step {
        match self {
            Self::Namespace(event) => event.step(),
            Self::Node(event) => event.step(),
            Self::Pod(event) => event.step(),
            Self::Service(event) => event.step(),
            Self::Slice(event) => event.step(),
            Self::Network(event) => event.step(),
            Self::Authorization(event) => event.step(),
        }
    }
}

/// Everything that the watches have told.
#[derive(Debug)]
pub(crate) struct World {
    domain: TrustDomain,
    /// Of workloads whose labels, and whose namespace's, say nothing.
    mtls: Mtls,
    tunnel_port: u16,
    namespaces: Store<Namespace>,
    /// Namespaces that went before their last pods, as they were.
    departed: BTreeMap<Arc<str>, Namespace>,
    nodes: Store<Node>,
    pods: Store<Pod>,
    services: Store<Service>,
    slices: Store<Slice>,
    network: Store<NetworkPolicy>,
    authorization: Store<AuthorizationPolicy>,
    /// Who has an address, by what was told.
    claims: HashMap<IpAddr, Claims>,
    /// The slices of each Service.
    slices_of: HashMap<Key, Few<Key>>,
    /// The Services that have an endpoint at an address.
    endpoints_at: HashMap<IpAddr, Few<Key>>,
    /// Pods on their node's network, by uid: an address does not tell them apart.
    host_pods: HashMap<Arc<str>, Key>,
    /// What has to be looked at before the next snapshot.
    stale: Stale,
    /// The uid under which each pod is in the snapshot.
    told_pods: HashMap<Key, Arc<str>>,
    told_services: BTreeSet<Key>,
    /// What many objects have alike.
    alike: Alike,
}

/// Who has one address.
#[derive(Debug, Default)]
struct Claims {
    pods: Few<Key>,
    nodes: Few<Arc<str>>,
    /// Services that have it as a cluster IP.
    cluster: Few<Key>,
    /// Services that have it as an address of a load balancer or an external one.
    outer: Few<Key>,
}

impl Claims {
    fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.nodes.is_empty() && self.cluster.is_empty() && self.outer.is_empty()
    }

    /// How many claim it in a way that a pod cannot share. Whoever may write Services can name any address
    /// as an external one, so that this does not count against a pod.
    fn against_pods(&self) -> usize {
        self.pods.len() + self.nodes.len() + self.cluster.len()
    }
}

#[derive(Debug, Default)]
struct Stale {
    nodes: BTreeSet<Arc<str>>,
    /// Nodes that came or went: their pods are looked at.
    node_sets: BTreeSet<Arc<str>>,
    pods: BTreeSet<Key>,
    services: BTreeSet<Key>,
    /// Policies, or labels that they select by.
    policies: bool,
}

impl World {
    /// Nothing is known yet.
    pub(crate) fn new(domain: TrustDomain, mtls: Mtls, tunnel_port: u16) -> Self {
        Self {
            domain,
            mtls,
            tunnel_port,
            namespaces: Store::default(),
            departed: BTreeMap::new(),
            nodes: Store::default(),
            pods: Store::default(),
            services: Store::default(),
            slices: Store::default(),
            network: Store::default(),
            authorization: Store::default(),
            claims: HashMap::new(),
            slices_of: HashMap::new(),
            endpoints_at: HashMap::new(),
            host_pods: HashMap::new(),
            stale: Stale::default(),
            told_pods: HashMap::new(),
            told_services: BTreeSet::new(),
            alike: Alike::default(),
        }
    }

    /// Whether each kind has been listed once: before that, what is missing may just not have been told.
    pub(crate) fn is_complete(&self) -> bool {
        self.namespaces.is_listed()
            && self.nodes.is_listed()
            && self.pods.is_listed()
            && self.services.is_listed()
            && self.slices.is_listed()
            && self.network.is_listed()
            && self.authorization.is_listed()
    }

    /// Whether an AuthorizationPolicy is known, be it by a list that is not complete.
    pub(crate) fn knows_authorization(&self) -> bool {
        self.authorization.heard_any()
    }

    /// Takes in what a watch tells. Returns whether the snapshot may be different by it.
    pub(crate) fn take(&mut self, told: Told) -> bool {
        let alike = &mut self.alike;
        match told {
            Told::Namespace(event) => each(self.namespaces.take(event, alike), |d| self.namespace_changed(d)),
            Told::Node(event) => each(self.nodes.take(event, alike), |d| self.node_changed(d)),
            Told::Pod(event) => each(self.pods.take(event, alike), |d| self.pod_changed(d)),
            Told::Service(event) => each(self.services.take(event, alike), |d| self.service_changed(d)),
            Told::Slice(event) => each(self.slices.take(event, alike), |d| self.slice_changed(d)),
            Told::Network(event) => each(self.network.take(event, alike), |_| self.stale.policies = true),
            Told::Authorization(event) => {
                each(self.authorization.take(event, alike), |_| self.stale.policies = true)
            }
        }
    }

    /// The next changes are to be everything, for a snapshot of nothing.
    pub(crate) fn forget_told(&mut self) {
        self.told_pods.clear();
        self.told_services.clear();
        let pods = self.pods.all().map(|p| (p.namespace.clone(), p.name.clone()));
        let services = self.services.all().map(|s| (s.namespace.clone(), s.name.clone()));
        self.stale = Stale {
            nodes: self.nodes.all().map(|n| n.name.clone()).collect(),
            node_sets: BTreeSet::new(),
            pods: pods.collect(),
            services: services.collect(),
            policies: true,
        };
    }

    /// All policies, if they or what they select by may be different since the last call of
    /// [`World::changes`], which comes after this.
    pub(crate) fn policies(&self) -> Option<Policies> {
        let read = || {
            let all = self.namespaces.all().chain(self.departed.values());
            let labels = all.map(|n| (n.name.clone(), n.labels.clone())).collect();
            let authorization = self.authorization.all().map(|p| p.0.manifest.clone()).collect();
            let network = self.network.all().map(|p| p.0.manifest.clone()).collect();
            policy::read(&self.domain, labels, authorization, network)
        };
        self.stale.policies.then(read)
    }

    /// What may be different since the last call.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        let mut stale = std::mem::take(&mut self.stale);
        let mut changes = Vec::new();
        for name in &stale.nodes {
            changes.push(match self.nodes.get(&(Arc::default(), name.clone())) {
                Some(node) => Change::Node(self.node(node)),
                None => Change::NodeGone(name.clone()),
            });
        }
        if !stale.node_sets.is_empty() {
            let on = |pod: &&Pod| pod.node.as_ref().is_some_and(|node| stale.node_sets.contains(node));
            stale.pods.extend(self.pods.all().filter(on).map(|p| (p.namespace.clone(), p.name.clone())));
        }
        // What is known of a pod decides what its endpoints mean.
        let addresses = stale.pods.iter().filter_map(|key| self.pods.get(key)).flat_map(|p| &p.addresses);
        stale.services.extend(addresses.filter_map(|a| self.endpoints_at.get(a)).flatten().cloned());
        for key in stale.pods {
            let mut workload = self.pods.get(&key).and_then(|pod| self.workload(pod));
            if let Some(workload) = &mut workload {
                // The rest was shared when the pod was told.
                self.alike.identity(&mut workload.identity);
            }
            let uid = workload.as_ref().map(|w| w.uid.clone());
            let before = match uid.clone() {
                Some(uid) => self.told_pods.insert(key, uid),
                None => self.told_pods.remove(&key),
            };
            if let Some(before) = before.filter(|before| Some(before) != uid.as_ref()) {
                changes.push(Change::WorkloadGone(before));
            }
            changes.extend(workload.map(Change::Workload));
        }
        for key in stale.services {
            match self.services.get(&key).and_then(|service| self.service(service)) {
                Some(service) => {
                    self.told_services.insert(key);
                    changes.push(Change::Service(service));
                }
                None => {
                    if self.told_services.remove(&key) {
                        changes.push(Change::ServiceGone { namespace: key.0, name: key.1 });
                    }
                }
            }
        }
        changes
    }

    fn namespace_changed(&mut self, (before, now): Difference<Namespace>) {
        let Some(name) = before.as_ref().or(now.as_ref()).map(|n| n.name.clone()) else { return };
        self.stale.policies = true;
        // What it said of pods that are there still holds: without it a strict one would be let go.
        match before.filter(|_| now.is_none() && self.pods.of_namespace(&name).next().is_some()) {
            Some(last) => drop(self.departed.insert(name.clone(), last)),
            None => drop(self.departed.remove(&name)),
        }
        let keys = |f: &Pod| (f.namespace.clone(), f.name.clone());
        self.stale.pods.extend(self.pods.of_namespace(&name).map(keys));
        let services = self.services.of_namespace(&name).map(|s| (s.namespace.clone(), s.name.clone()));
        self.stale.services.extend(services);
    }

    fn node_changed(&mut self, (before, now): Difference<Node>) {
        if before.is_some() != now.is_some() {
            self.stale.node_sets.extend(before.iter().chain(&now).map(|n| n.name.clone()));
        }
        for node in before.iter().chain(&now) {
            self.stale.nodes.insert(node.name.clone());
        }
        for (node, is_there) in sides(&before, &now) {
            for address in &node.addresses {
                self.claim(*address, |claims| change(&mut claims.nodes, &node.name, is_there));
            }
        }
    }

    fn pod_changed(&mut self, (before, now): Difference<Pod>) {
        for pod in before.iter().chain(&now) {
            let key = (pod.namespace.clone(), pod.name.clone());
            self.stale.pods.insert(key);
            // Also those of host-network pods: an endpoint is known by its pod.
            for address in &pod.addresses {
                let services = self.endpoints_at.get(address).into_iter().flatten().cloned();
                self.stale.services.extend(services);
            }
        }
        for (pod, is_there) in sides(&before, &now) {
            let key = (pod.namespace.clone(), pod.name.clone());
            if pod.life == Life::Over {
                continue;
            }
            if pod.host_network {
                if is_there {
                    self.host_pods.insert(pod.uid.clone(), key);
                } else {
                    self.host_pods.remove(&pod.uid);
                }
                continue;
            }
            for address in &pod.addresses {
                self.claim(*address, |claims| change(&mut claims.pods, &key, is_there));
            }
        }
        if let Some(gone) = before.filter(|_| now.is_none())
            && self.pods.of_namespace(&gone.namespace).next().is_none()
            && self.departed.remove(&gone.namespace).is_some()
        {
            self.stale.policies = true;
            let services = self.services.of_namespace(&gone.namespace);
            self.stale.services.extend(services.map(|s| (s.namespace.clone(), s.name.clone())));
        }
    }

    fn service_changed(&mut self, (before, now): Difference<Service>) {
        for (service, is_there) in sides(&before, &now) {
            let key = (service.namespace.clone(), service.name.clone());
            self.stale.services.insert(key.clone());
            for address in &service.cluster {
                self.claim(*address, |claims| change(&mut claims.cluster, &key, is_there));
            }
            for address in &service.outer {
                self.claim(*address, |claims| change(&mut claims.outer, &key, is_there));
            }
        }
    }

    fn slice_changed(&mut self, (before, now): Difference<Slice>) {
        let of = |slice: &Slice| (slice.namespace.clone(), slice.service.clone());
        let affected: BTreeSet<Key> = before.iter().chain(&now).map(of).collect();
        let gone: BTreeSet<IpAddr> = before.iter().flat_map(|s| &s.endpoints).map(|e| e.address).collect();
        for (slice, is_there) in sides(&before, &now) {
            let key = (slice.namespace.clone(), slice.name.clone());
            let slices = self.slices_of.entry(of(slice)).or_default();
            change(slices, &key, is_there);
            if slices.is_empty() {
                self.slices_of.remove(&of(slice));
            }
            if is_there {
                for endpoint in &slice.endpoints {
                    self.endpoints_at.entry(endpoint.address).or_default().insert(of(slice));
                }
            }
        }
        for service in affected {
            // An endpoint may be in two slices while it moves from one to the other.
            let still: BTreeSet<IpAddr> = self.endpoints(&service).map(|(_, e)| e.address).collect();
            for address in gone.difference(&still) {
                if let Some(services) = self.endpoints_at.get_mut(address) {
                    services.remove(&service);
                    if services.is_empty() {
                        self.endpoints_at.remove(address);
                    }
                }
            }
            self.stale.services.insert(service);
        }
    }

    /// Changes who claims an address. Everybody to whom it may matter is looked at anew.
    fn claim(&mut self, address: IpAddr, change: impl FnOnce(&mut Claims)) {
        let claims = self.claims.entry(address).or_default();
        let before = (claims.pods.clone(), claims.cluster.clone(), claims.outer.clone());
        change(claims);
        self.stale.pods.extend(before.0.iter().chain(&claims.pods).cloned());
        let services = before.1.iter().chain(&before.2).chain(&claims.cluster).chain(&claims.outer);
        self.stale.services.extend(services.cloned());
        self.stale.services.extend(self.endpoints_at.get(&address).into_iter().flatten().cloned());
        if claims.is_empty() {
            self.claims.remove(&address);
        }
    }

    fn namespace(&self, name: &Arc<str>) -> Option<&Namespace> {
        self.namespaces.get(&(Arc::default(), name.clone())).or_else(|| self.departed.get(name))
    }

    fn labels(&self, namespace: &Arc<str>) -> Option<&BTreeMap<String, String>> {
        self.namespace(namespace).map(|n| &n.labels)
    }

    /// What asks for the pod's capture; `None` while its namespace is not known.
    fn wanted(&self, pod: &Pod) -> Option<Wanted> {
        Some(capture::wanted(&pod.namespace, self.labels(&pod.namespace)?, &pod.labels))
    }

    /// Whether the pod takes plaintext; `None` while its namespace is not known.
    fn mode(&self, pod: &Pod) -> Option<Mode> {
        let namespace = self.namespace(&pod.namespace)?;
        let outer = Marks { labels: &namespace.labels, annotations: &namespace.annotations };
        Some(mode(self.mtls, outer, Marks { labels: &pod.labels, annotations: &pod.annotations }))
    }

    fn node(&self, node: &Node) -> snapshot::Node {
        snapshot::Node {
            name: node.name.clone(),
            addresses: node.addresses.clone(),
            tunnel_port: self.tunnel_port,
            zone: node.zone.clone(),
        }
    }

    /// Whose the pod's connections are, once everything is known that this needs: it is alive and bound to
    /// a node, in a known namespace, and has an account. Whether the node is known does not matter: its agent
    /// would let go of a strict pod, and others dial in plaintext what they do not know.
    fn identity(&self, pod: &Pod) -> Option<SpiffeId> {
        if pod.life == Life::Over {
            return None;
        }
        pod.node.as_ref()?;
        self.labels(&pod.namespace)?;
        SpiffeId::new(&self.domain, &pod.namespace, pod.account.as_deref()?).ok()
    }

    fn workload(&self, pod: &Pod) -> Option<snapshot::Workload> {
        let identity = self.identity(pod)?;
        Some(snapshot::Workload {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            account: pod.account.clone()?,
            identity,
            labels: pod.labels.clone(),
            addresses: pod.addresses.as_slice().into(),
            contested: self.contested(pod),
            node: pod.node.clone()?,
            owner: pod.owner.clone(),
            host_network: pod.host_network,
            ports: pod.ports.as_slice().into(),
            place: None,
            foreign_policies: Box::default(),
            mode: self.mode(pod)?,
            capture: self.wanted(pod)?,
        })
    }

    fn contested(&self, pod: &Pod) -> Box<[Contested]> {
        let of = |address: &IpAddr| {
            let claims = self.claims.get(address).filter(|c| c.against_pods() > 1)?;
            let other = claims.pods.iter().find(|key| **key != (pod.namespace.clone(), pod.name.clone()));
            let name = |key: &Key| format!("{}/{}", key.0, key.1);
            let other = (other.map(|key| format!("pod {}", name(key))))
                .or_else(|| claims.cluster.first().map(|key| format!("Service {}", name(key))))
                .or_else(|| claims.nodes.first().map(|node| format!("node {node}")));
            Some(Contested {
                address: *address,
                claims: claims.against_pods(),
                other: other.unwrap_or_default(),
            })
        };
        if pod.host_network { Box::default() } else { pod.addresses.iter().filter_map(of).collect() }
    }
}

/// Before and after, and whether it is there: what is there last, so that what both have stays.
fn sides<'a, F>(before: &'a Option<F>, now: &'a Option<F>) -> impl Iterator<Item = (&'a F, bool)> {
    before.iter().map(|f| (f, false)).chain(now.iter().map(|f| (f, true)))
}

fn change<T: Ord + Clone>(set: &mut Few<T>, item: &T, is_there: bool) {
    if is_there {
        set.insert(item.clone());
    } else {
        set.remove(item);
    }
}

/// Leaves out what the snapshot has already.
pub(crate) fn news(snapshot: &Snapshot, changes: Vec<Change>) -> Vec<Change> {
    let is_new = |change: &Change| match change {
        Change::Node(node) => snapshot.node(&node.name) != Some(node),
        Change::NodeGone(name) => snapshot.node(name).is_some(),
        Change::Workload(workload) => snapshot.workload(&workload.uid).is_none_or(|w| **w != *workload),
        Change::WorkloadGone(uid) => snapshot.workload(uid).is_some(),
        Change::Service(service) => {
            let known = snapshot.service_named(&service.namespace, &service.name);
            known.is_none_or(|s| **s != *service)
        }
        Change::ServiceGone { namespace, name } => snapshot.service_named(namespace, name).is_some(),
    };
    changes.into_iter().filter(is_new).collect()
}

fn each<F>(differences: Vec<Difference<F>>, mut then: impl FnMut(Difference<F>)) -> bool {
    let any = !differences.is_empty();
    for difference in differences {
        then(difference);
    }
    any
}

#[cfg(test)]
mod tests;
