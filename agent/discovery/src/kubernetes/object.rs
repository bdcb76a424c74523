//! Objects of the API, reduced to what the snapshot needs while they are parsed: what is not named
//! here is never held. Field names and meanings are those of the Kubernetes API reference (core/v1,
//! discovery.k8s.io/v1).

use std::borrow::Cow;
use std::fmt::Debug;

use kube::Resource;
use kube::api::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// What of one kind of object is kept, and where the API has it.
pub(crate) trait Fact: Clone + Debug + Send + Sync + Sized + 'static {
    /// The object as it is on the wire.
    type Raw: DeserializeOwned;
    /// Its kind, for example `Pod`.
    const KIND: &'static str;
    /// Its group; empty for the core.
    const GROUP: &'static str;
    /// The group's version.
    const VERSION: &'static str = "v1";
    /// Whether a cluster may not have this kind at all: then there are no objects of it, unless some are known.
    const OPTIONAL: bool = false;
    /// Its name in paths, for example `pods`.
    const PLURAL: &'static str;
    /// Keeps what is needed.
    fn reduce(raw: Self::Raw) -> (Meta, Self);
}

/// An object after reduction, with as much metadata as a watch needs to go on.
#[derive(Debug, Clone)]
pub(crate) struct Reduced<F> {
    meta: ObjectMeta,
    /// What is kept.
    pub(crate) fact: F,
}

impl<'de, F: Fact> Deserialize<'de> for Reduced<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (meta, fact) = F::reduce(F::Raw::deserialize(deserializer)?);
        let meta = ObjectMeta {
            name: Some(meta.name),
            namespace: meta.namespace,
            resource_version: meta.resource_version,
            ..ObjectMeta::default()
        };
        Ok(Self { meta, fact })
    }
}

impl<F: Fact> Resource for Reduced<F> {
    type DynamicType = ();
    type Scope = kube::core::DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        F::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        F::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        F::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        F::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// Metadata, as far as it is read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta {
    #[serde(default)]
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    #[serde(default)]
    pub(super) uid: String,
    pub(super) resource_version: Option<String>,
    pub(super) labels: Option<std::collections::BTreeMap<String, String>>,
    pub(super) annotations: Option<Annotations>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl Meta {
    /// Whether a kubelet made the object to show a static pod.
    pub(super) fn is_mirror(&self) -> bool {
        self.annotations.as_ref().is_some_and(|a| a.mirror.is_some())
    }

    /// The owner that manages the object: kind and name.
    pub(super) fn controller(&self) -> Option<(&str, &str)> {
        let owners = self.owner_references.as_deref().unwrap_or_default();
        owners.iter().find(|o| o.controller == Some(true)).map(|o| (o.kind.as_str(), o.name.as_str()))
    }
}

/// The annotations that count.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Annotations {
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<serde::de::IgnoredAny>,
    /// See [`ANNOTATION_MTLS_PORTS`].
    #[serde(rename = "lark.mesh/mtls-ports")]
    pub(super) mtls_ports: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct OwnerReference {
    kind: String,
    name: String,
    controller: Option<bool>,
}

/// The wire's form of each kind. One object that cannot be read makes a whole list so: numbers are taken as
/// they come, and what has any form is read later.
pub(crate) mod raw {
    use serde_json::value::RawValue;

    use super::{Deserialize, Meta};

    /// A policy of either kind.
    #[derive(Debug, Deserialize)]
    pub(crate) struct Policy {
        #[serde(default)]
        pub(in super::super) metadata: Meta,
        pub(in super::super) spec: Option<Box<RawValue>>,
    }

    /// A Namespace.
    #[derive(Debug, Deserialize)]
    pub(crate) struct Namespace {
        #[serde(default)]
        pub(in super::super) metadata: Meta,
    }

    /// A Node.
    #[derive(Debug, Deserialize)]
    pub(crate) struct Node {
        #[serde(default)]
        pub(in super::super) metadata: Meta,
        #[serde(default)]
        pub(in super::super) status: NodeStatus,
    }

    #[derive(Debug, Default, Deserialize)]
    pub(in super::super) struct NodeStatus {
        pub(in super::super) addresses: Option<Vec<NodeAddress>>,
    }

    #[derive(Debug, Deserialize)]
    pub(in super::super) struct NodeAddress {
        #[serde(rename = "type")]
        pub(in super::super) kind: String,
        pub(in super::super) address: String,
    }

    /// A Pod.
    #[derive(Debug, Deserialize)]
    pub(crate) struct Pod {
        #[serde(default)]
        pub(in super::super) metadata: Meta,
        #[serde(default)]
        pub(in super::super) spec: PodSpec,
        #[serde(default)]
        pub(in super::super) status: PodStatus,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct PodSpec {
        pub(in super::super) node_name: Option<String>,
        pub(in super::super) service_account_name: Option<String>,
        pub(in super::super) host_network: Option<bool>,
        pub(in super::super) containers: Option<Vec<Container>>,
        pub(in super::super) init_containers: Option<Vec<Container>>,
    }

    #[derive(Debug, Deserialize)]
    pub(in super::super) struct Container {
        pub(in super::super) ports: Option<Vec<ContainerPort>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct ContainerPort {
        pub(in super::super) name: Option<String>,
        pub(in super::super) container_port: i64,
        pub(in super::super) protocol: Option<String>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct PodStatus {
        pub(in super::super) phase: Option<String>,
        #[serde(rename = "podIP")]
        pub(in super::super) pod_ip: Option<String>,
        #[serde(rename = "podIPs")]
        pub(in super::super) pod_ips: Option<Vec<PodIp>>,
    }

    #[derive(Debug, Deserialize)]
    pub(in super::super) struct PodIp {
        pub(in super::super) ip: Option<String>,
    }

    /// A Service.
    #[derive(Debug, Deserialize)]
    pub(crate) struct Service {
        #[serde(default)]
        pub(in super::super) metadata: Meta,
        #[serde(default)]
        pub(in super::super) spec: ServiceSpec,
        #[serde(default)]
        pub(in super::super) status: ServiceStatus,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct ServiceSpec {
        #[serde(rename = "type")]
        pub(in super::super) kind: Option<String>,
        #[serde(rename = "clusterIP")]
        pub(in super::super) cluster_ip: Option<String>,
        #[serde(rename = "clusterIPs")]
        pub(in super::super) cluster_ips: Option<Vec<String>>,
        #[serde(rename = "externalIPs")]
        pub(in super::super) external_ips: Option<Vec<String>>,
        pub(in super::super) load_balancer_source_ranges: Option<Vec<String>>,
        pub(in super::super) ports: Option<Vec<ServicePort>>,
        pub(in super::super) session_affinity: Option<String>,
        pub(in super::super) session_affinity_config: Option<SessionAffinityConfig>,
        pub(in super::super) internal_traffic_policy: Option<String>,
        pub(in super::super) traffic_distribution: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct ServicePort {
        pub(in super::super) name: Option<String>,
        pub(in super::super) protocol: Option<String>,
        pub(in super::super) port: i64,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct SessionAffinityConfig {
        #[serde(rename = "clientIP")]
        pub(in super::super) client_ip: Option<ClientIp>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct ClientIp {
        pub(in super::super) timeout_seconds: Option<u64>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct ServiceStatus {
        #[serde(default)]
        pub(in super::super) load_balancer: LoadBalancer,
    }

    #[derive(Debug, Default, Deserialize)]
    pub(in super::super) struct LoadBalancer {
        pub(in super::super) ingress: Option<Vec<Ingress>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct Ingress {
        pub(in super::super) ip: Option<String>,
        pub(in super::super) ip_mode: Option<String>,
    }

    /// An EndpointSlice.
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(crate) struct EndpointSlice {
        #[serde(default)]
        pub(in super::super) metadata: Meta,
        #[serde(default)]
        pub(in super::super) address_type: String,
        pub(in super::super) endpoints: Option<Vec<Endpoint>>,
        pub(in super::super) ports: Option<Vec<EndpointPort>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct Endpoint {
        pub(in super::super) addresses: Option<Vec<String>>,
        #[serde(default)]
        pub(in super::super) conditions: Conditions,
        pub(in super::super) target_ref: Option<TargetRef>,
        pub(in super::super) node_name: Option<String>,
        pub(in super::super) zone: Option<String>,
        pub(in super::super) hints: Option<Hints>,
    }

    #[derive(Debug, Default, Deserialize)]
    pub(in super::super) struct Conditions {
        pub(in super::super) ready: Option<bool>,
        pub(in super::super) serving: Option<bool>,
        pub(in super::super) terminating: Option<bool>,
    }

    #[derive(Debug, Deserialize)]
    pub(in super::super) struct TargetRef {
        pub(in super::super) kind: Option<String>,
        pub(in super::super) uid: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in super::super) struct Hints {
        pub(in super::super) for_zones: Option<Vec<Hint>>,
        pub(in super::super) for_nodes: Option<Vec<Hint>>,
    }

    #[derive(Debug, Deserialize)]
    pub(in super::super) struct Hint {
        pub(in super::super) name: String,
    }

    #[derive(Debug, Deserialize)]
    pub(in super::super) struct EndpointPort {
        pub(in super::super) name: Option<String>,
        pub(in super::super) port: Option<i64>,
        pub(in super::super) protocol: Option<String>,
    }
}
