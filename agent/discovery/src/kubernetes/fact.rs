//! What is kept of each kind of object, and how it is read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lark_core::constants::ANNOTATION_MTLS_PORTS;
use lark_core::snapshot::NamedPort;
use serde_json::{Value, json};

use super::object::{Fact, Meta, raw};

/// Names what an object is about within its kind: namespace (empty where there is none) and name.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Those of its annotations that count.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its internal addresses, in the API's order: the first is the one that the kubelet prefers.
    pub(crate) addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    pub(crate) zone: Option<Arc<str>>,
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It may have processes. A pod that is being deleted has some until it is gone from the API.
    Alive,
    /// All its containers have ended for good; its address may be another's already.
    Over,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    /// The API's uid, never used again.
    pub(crate) uid: Arc<str>,
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its service account; `None` for static pods, which cannot have one.
    pub(crate) account: Option<Arc<str>>,
    /// Its labels.
    pub(crate) labels: Arc<BTreeMap<String, String>>,
    /// Those of its annotations that count.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Its addresses, of both families.
    pub(crate) addresses: Vec<IpAddr>,
    /// The node it was bound to.
    pub(crate) node: Option<Arc<str>>,
    /// The Deployment, StatefulSet or whatever manages it.
    pub(crate) owner: Option<Arc<str>>,
    /// Whether it shares its node's network namespace.
    pub(crate) host_network: bool,
    /// The TCP ports that its containers name.
    pub(crate) ports: Vec<NamedPort>,
    /// How far it is.
    pub(crate) life: Life,
}

/// A NetworkPolicy: its manifest, for whoever reads policies.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkPolicy(pub(crate) Policy);

/// An AuthorizationPolicy: its manifest, for whoever reads policies.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AuthorizationPolicy(pub(crate) Policy);

/// A policy of either kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its name.
    pub(crate) name: Arc<str>,
    /// What it says.
    pub(crate) manifest: Value,
}

/// A Service that has addresses of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its cluster IPs: the API server gives each to one Service only. Empty for a headless one and for
    /// an ExternalName, which are left alone.
    pub(crate) cluster: Vec<IpAddr>,
    /// Its load balancers' and external IPs: several Services may share one, by port.
    pub(crate) outer: Vec<IpAddr>,
    /// Its TCP ports.
    pub(crate) ports: Vec<Port>,
    /// Clients stay with their endpoint until they have been away for this long.
    pub(crate) affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`: at its cluster IPs only endpoints of the caller's node serve.
    pub(crate) local: bool,
    /// `trafficDistribution`.
    pub(crate) near: Near,
}

/// Which endpoints a Service prefers where its slices give no hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Near {
    /// All alike.
    Any,
    /// Those of the caller's zone.
    Zone,
    /// Those of the caller's node, then of its zone.
    Node,
}

/// A TCP port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// Its name, empty if it is the only one.
    pub(crate) name: Arc<str>,
    /// The number on the Service's addresses.
    pub(crate) number: u16,
}

/// Some endpoints of a Service, of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Label `kubernetes.io/service-name`; the Service is in the same namespace.
    pub(crate) service: Arc<str>,
    /// The ports that these endpoints serve: the Service's name of each, and the number here.
    pub(crate) ports: Vec<Port>,
    /// The endpoints.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Its address.
    pub(crate) address: IpAddr,
    /// The uid of the pod it stands for; `None` for one that somebody wrote by hand.
    pub(crate) pod: Option<Arc<str>>,
    /// Condition `ready`: it takes new connections. Unknown counts as ready; a Service that publishes
    /// addresses of pods that are not ready has all of them ready.
    pub(crate) ready: bool,
    /// Conditions `serving` and `terminating`: it takes new connections if nothing else is ready.
    pub(crate) draining: bool,
    /// The node it is on.
    pub(crate) node: Option<Arc<str>>,
    /// The zone it is in.
    pub(crate) zone: Option<Arc<str>>,
    /// Zones that it is meant for; empty without a hint.
    pub(crate) zones: Vec<Arc<str>>,
    /// Nodes that it is meant for; empty without a hint.
    pub(crate) nodes: Vec<Arc<str>>,
}

/// Whether an address can be a pod's, a node's or a Service's.
fn address(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok()?.to_canonical();
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let nobody = address.is_loopback() || address.is_unspecified() || address.is_multicast() || local;
    (!nobody).then_some(address)
}

/// Most addresses of one object: what is beyond is left alone. Nobody has as many but who wants to be a burden.
const ADDRESSES_MAX: usize = 64;

fn addresses<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for address in texts.into_iter().filter_map(address) {
        if found.len() >= ADDRESSES_MAX {
            break;
        }
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

fn namespace(meta: &Meta) -> Arc<str> {
    meta.namespace.as_deref().unwrap_or_default().into()
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|p| p.is_empty() || p == "TCP")
}

fn annotations(meta: &mut Meta) -> BTreeMap<String, String> {
    let ports = meta.annotations.take().and_then(|annotations| annotations.mtls_ports);
    ports.map(|ports| (ANNOTATION_MTLS_PORTS.to_owned(), ports)).into_iter().collect()
}

impl Fact for Namespace {
    type Raw = raw::Namespace;
    const KIND: &'static str = "Namespace";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "namespaces";

    fn reduce(raw: raw::Namespace) -> (Meta, Self) {
        let mut meta = raw.metadata;
        let labels = meta.labels.take().unwrap_or_default();
        let annotations = annotations(&mut meta);
        let fact = Self { name: meta.name.as_str().into(), labels, annotations };
        (meta, fact)
    }
}

impl Fact for Node {
    type Raw = raw::Node;
    const KIND: &'static str = "Node";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "nodes";

    fn reduce(raw: raw::Node) -> (Meta, Self) {
        let listed = raw.status.addresses.unwrap_or_default();
        let internal = listed.iter().filter(|a| a.kind == "InternalIP").map(|a| a.address.as_str());
        let labels = raw.metadata.labels.as_ref();
        let zone = labels.and_then(|l| l.get("topology.kubernetes.io/zone")).filter(|z| !z.is_empty());
        let fact = Self {
            name: raw.metadata.name.as_str().into(),
            addresses: addresses(internal),
            zone: zone.map(|z| z.as_str().into()),
        };
        (raw.metadata, fact)
    }
}

impl Fact for Pod {
    type Raw = raw::Pod;
    const KIND: &'static str = "Pod";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "pods";

    fn reduce(raw: raw::Pod) -> (Meta, Self) {
        let raw::Pod { metadata: mut meta, spec, status } = raw;
        let labels = meta.labels.take().unwrap_or_default();
        // A kubelet may make a mirror pod in any namespace, so that no identity must follow from one.
        let is_mirror = meta.is_mirror();
        let listed = status.pod_ips.unwrap_or_default();
        let single = status.pod_ip.as_deref();
        let all = listed.iter().filter_map(|p| p.ip.as_deref()).chain(single);
        let fact = Self {
            uid: meta.uid.as_str().into(),
            namespace: namespace(&meta),
            name: meta.name.as_str().into(),
            account: spec.service_account_name.filter(|a| !a.is_empty() && !is_mirror).map(Arc::from),
            annotations: annotations(&mut meta),
            addresses: addresses(all),
            node: spec.node_name.filter(|n| !n.is_empty()).map(Arc::from),
            owner: owner(&meta, &labels).map(Arc::from),
            host_network: spec.host_network == Some(true),
            ports: ports(spec.containers.into_iter().chain(spec.init_containers).flatten()),
            life: match status.phase.as_deref() {
                Some("Succeeded" | "Failed") => Life::Over,
                _ => Life::Alive,
            },
            labels: Arc::new(labels),
        };
        (meta, fact)
    }
}

/// A number that can be a TCP port: what is none is left out.
fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

fn ports(containers: impl Iterator<Item = raw::Container>) -> Vec<NamedPort> {
    let all = containers.flat_map(|c| c.ports.unwrap_or_default());
    let tcp = all.filter(|p| is_tcp(p.protocol.as_deref()));
    tcp.filter_map(|p| Some(NamedPort { name: p.name?, port: port(p.container_port)? })).collect()
}

impl Fact for NetworkPolicy {
    type Raw = raw::Policy;
    const KIND: &'static str = "NetworkPolicy";
    const GROUP: &'static str = "networking.k8s.io";
    const PLURAL: &'static str = "networkpolicies";

    fn reduce(raw: raw::Policy) -> (Meta, Self) {
        let (meta, policy) = policy::<Self>(raw);
        (meta, Self(policy))
    }
}

impl Fact for AuthorizationPolicy {
    type Raw = raw::Policy;
    const KIND: &'static str = "AuthorizationPolicy";
    const GROUP: &'static str = "lark.mesh";
    const PLURAL: &'static str = "authorizationpolicies";
    const VERSION: &'static str = "v1alpha1";
    const OPTIONAL: bool = true;

    fn reduce(raw: raw::Policy) -> (Meta, Self) {
        let (meta, policy) = policy::<Self>(raw);
        (meta, Self(policy))
    }
}

/// Items of a list do not say what they are; status and much of the metadata do not count. A specification that
/// is no value at all, as one that nests too deep, stays as text, which no policy's is: that closes its
/// namespace.
fn policy<F: Fact>(raw: raw::Policy) -> (Meta, Policy) {
    let raw::Policy { metadata: meta, spec } = raw;
    let spec = spec.map(|spec| {
        serde_json::from_str(spec.get()).unwrap_or_else(|error| Value::String(format!("unreadable: {error}")))
    });
    let manifest = json!({
        "apiVersion": format!("{}/{}", F::GROUP, F::VERSION), "kind": F::KIND,
        "metadata": { "namespace": meta.namespace, "name": meta.name },
        "spec": spec
    });
    let policy = Policy { namespace: namespace(&meta), name: meta.name.as_str().into(), manifest };
    (meta, policy)
}

/// What a person calls the pod's owner: not the ReplicaSet of one revision, but the Deployment whose
/// name it carries before the pod's template hash; not a Job of one hour, but the CronJob.
fn owner(meta: &Meta, labels: &BTreeMap<String, String>) -> Option<String> {
    let (kind, name) = meta.controller()?;
    let above = match kind {
        "ReplicaSet" => labels
            .get("pod-template-hash")
            .and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'))
            .map(|deployment| ("Deployment", deployment)),
        // The CronJob controller names Jobs by their minute since 1970 (pkg/controller/cronjob).
        "Job" => name
            .rsplit_once('-')
            .filter(|(_, minute)| minute.len() == 8 && minute.bytes().all(|b| b.is_ascii_digit()))
            .map(|(cron, _)| ("CronJob", cron)),
        _ => None,
    };
    let (kind, name) = above.filter(|(_, name)| !name.is_empty()).unwrap_or((kind, name));
    Some(format!("{kind}/{name}"))
}

/// What the API makes of `sessionAffinity: ClientIP` without a time-out (three hours).
const AFFINITY: Duration = Duration::from_secs(10_800);

impl Fact for Service {
    type Raw = raw::Service;
    const KIND: &'static str = "Service";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "services";

    fn reduce(raw: raw::Service) -> (Meta, Self) {
        let raw::Service { metadata: meta, spec, status } = raw;
        let is_name = spec.kind.as_deref() == Some("ExternalName");
        let listed = spec.cluster_ips.unwrap_or_default();
        let own = listed.iter().map(String::as_str).chain(spec.cluster_ip.as_deref());
        // A balancer that is a proxy of its own wants to see the connections, and source ranges are to
        // keep clients out: both only work if such an address is left alone.
        let filtered = spec.load_balancer_source_ranges.is_some_and(|ranges| !ranges.is_empty());
        let ingress = status.load_balancer.ingress.unwrap_or_default();
        let balanced = ingress
            .iter()
            .filter(|i| !filtered && i.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|i| i.ip.as_deref());
        let external = spec.external_ips.unwrap_or_default();
        let outer = external.iter().map(String::as_str).chain(balanced);
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let given = spec.session_affinity_config.and_then(|c| c.client_ip?.timeout_seconds);
            given.map_or(AFFINITY, Duration::from_secs)
        });
        let ports = spec.ports.unwrap_or_default();
        let fact = Self {
            namespace: namespace(&meta),
            name: meta.name.as_str().into(),
            cluster: if is_name { Vec::new() } else { addresses(own) },
            outer: if is_name { Vec::new() } else { addresses(outer) },
            ports: ports
                .into_iter()
                .filter(|p| is_tcp(p.protocol.as_deref()))
                .filter_map(|p| Some(Port { number: port(p.port)?, name: p.name.unwrap_or_default().into() }))
                .collect(),
            affinity,
            local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            near: match spec.traffic_distribution.as_deref() {
                // The older name of the second.
                Some("PreferClose" | "PreferSameZone") => Near::Zone,
                Some("PreferSameNode") => Near::Node,
                _ => Near::Any,
            },
        };
        (meta, fact)
    }
}

impl Fact for Slice {
    type Raw = raw::EndpointSlice;
    const KIND: &'static str = "EndpointSlice";
    const GROUP: &'static str = "discovery.k8s.io";
    const PLURAL: &'static str = "endpointslices";

    fn reduce(raw: raw::EndpointSlice) -> (Meta, Self) {
        let raw::EndpointSlice { metadata: meta, address_type, endpoints, ports } = raw;
        let service = meta.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
        // A name is not an address.
        let endpoints = if address_type == "FQDN" { None } else { endpoints };
        let ports = ports.unwrap_or_default();
        let fact = Self {
            namespace: namespace(&meta),
            name: meta.name.as_str().into(),
            service: service.map(String::as_str).unwrap_or_default().into(),
            ports: ports
                .into_iter()
                .filter(|p| is_tcp(p.protocol.as_deref()))
                .filter_map(|p| {
                    Some(Port { number: port(p.port?)?, name: p.name.unwrap_or_default().into() })
                })
                .collect(),
            endpoints: endpoints.into_iter().flatten().filter_map(endpoint).collect(),
        };
        (meta, fact)
    }
}

fn endpoint(raw: raw::Endpoint) -> Option<Endpoint> {
    // The API: of several addresses only the first has a meaning.
    let first = raw.addresses.as_ref()?.first()?;
    let raw::Conditions { ready, serving, terminating } = raw.conditions;
    let pod = raw.target_ref.filter(|t| t.kind.as_deref() == Some("Pod")).and_then(|t| t.uid);
    let names = |hints: Option<Vec<raw::Hint>>| hints.into_iter().flatten().map(|h| h.name.into()).collect();
    let (zones, nodes) = raw.hints.map_or((None, None), |h| (h.for_zones, h.for_nodes));
    Some(Endpoint {
        address: address(first)?,
        pod: pod.map(Arc::from),
        ready: ready.unwrap_or(true),
        draining: serving.unwrap_or(ready.unwrap_or(true)) && terminating == Some(true),
        node: raw.node_name.map(Arc::from),
        zone: raw.zone.map(Arc::from),
        zones: names(zones),
        nodes: names(nodes),
    })
}

#[cfg(test)]
mod tests;
