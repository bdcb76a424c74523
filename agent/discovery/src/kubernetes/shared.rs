//! What replicas of the controller share in one namespace: a Secret, a ConfigMap and a Lease. Each is written over
//! exactly what was read (`resourceVersion`), or created where nothing was, so of two that write at the same time one
//! is told so and nothing is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use lark_core::replica::Record;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{Access, ConnectError, connect};
use super::failure;

/// Where a Lease's holder is reached.
const ADDRESS: &str = "lark.mesh/address";

/// The files of a Secret.
pub type Files = BTreeMap<String, Vec<u8>>;
/// The texts of a ConfigMap.
pub type Texts = BTreeMap<String, String>;

/// Why the API did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SharedError {
    /// Somebody else wrote meanwhile: what was read is not what is there.
    #[error("{kind} {name} was changed by another replica meanwhile; it is read again")]
    Conflict {
        /// `Secret`, `ConfigMap` or `Lease`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The server does not let us.
    #[error(
        "the cluster's API refuses {verb} of {kind} {name}: {said}; Role lark-controller of deploy/ grants it"
    )]
    Forbidden {
        /// `get`, `create` or `update`.
        verb: &'static str,
        /// `Secret`, `ConfigMap` or `Lease`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What the server said.
        said: String,
    },
    /// It failed otherwise; whether it was done is not known.
    #[error("{verb} of {kind} {name} failed: {said}")]
    Failed {
        /// `get`, `create` or `update`.
        verb: &'static str,
        /// `Secret`, `ConfigMap` or `Lease`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        said: String,
    },
}

/// An object as it was read or written last.
#[derive(Debug, Clone)]
pub struct Found<T> {
    /// What is in it.
    pub value: T,
    /// Its metadata, which is written back as it was.
    meta: ObjectMeta,
}

impl<T> Found<T> {
    /// Its `resourceVersion`.
    pub fn version(&self) -> &str {
        self.meta.resource_version.as_deref().unwrap_or_default()
    }
}

/// A lease to be written.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// Who holds it; none gives it up.
    pub holder: Option<&'a str>,
    /// Where that one is reached.
    pub address: Option<&'a str>,
    /// For how long.
    pub duration: Duration,
    /// Holders that it had before.
    pub transitions: u32,
    /// Whether it changes hands now.
    pub acquires: bool,
}

/// The objects of one namespace.
#[derive(Clone)]
pub struct Shared {
    client: Client,
    namespace: String,
    /// Whatever takes longer has failed.
    limit: Duration,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Shared {
    /// Those of `namespace`; a request takes no longer than `limit`.
    ///
    /// # Errors
    /// When there is no way to the API server.
    pub async fn new(access: &Access, namespace: &str, limit: Duration) -> Result<Self, ConnectError> {
        Ok(Self { client: connect(access).await?, namespace: namespace.to_owned(), limit })
    }

    /// A Secret, if it is there. May be cancelled.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn secret(&self, name: &str) -> Result<Option<Found<Files>>, SharedError> {
        Ok(self.get::<Secret>("Secret", name).await?.map(files))
    }

    /// Writes a Secret over what was found, or creates it. Cancelled, it may be written or not.
    ///
    /// # Errors
    /// When it is not written, or nobody knows.
    pub async fn put_secret(
        &self,
        name: &str,
        found: Option<&Found<Files>>,
        files_of: Files,
    ) -> Result<Found<Files>, SharedError> {
        let data = files_of.into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect();
        let metadata = self.meta(name, found);
        let secret = Secret { metadata, data: Some(data), ..Secret::default() };
        Ok(files(self.put("Secret", name, found.is_some(), &secret).await?))
    }

    /// A ConfigMap, if it is there. May be cancelled.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn config_map(&self, name: &str) -> Result<Option<Found<Texts>>, SharedError> {
        Ok(self.get::<ConfigMap>("ConfigMap", name).await?.map(texts))
    }

    /// Writes a ConfigMap over what was found, or creates it. Cancelled, it may be written or not.
    ///
    /// # Errors
    /// When it is not written, or nobody knows.
    pub async fn put_config_map(
        &self,
        name: &str,
        found: Option<&Found<Texts>>,
        data: Texts,
    ) -> Result<Found<Texts>, SharedError> {
        let metadata = self.meta(name, found);
        let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
        Ok(texts(self.put("ConfigMap", name, found.is_some(), &map).await?))
    }

    /// A Lease, if it is there. May be cancelled.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn lease(&self, name: &str) -> Result<Option<Found<Record>>, SharedError> {
        Ok(self.get::<Lease>("Lease", name).await?.map(record))
    }

    /// Writes a Lease over what was found, or creates it. Cancelled, it may be written or not.
    ///
    /// # Errors
    /// When it is not written, or nobody knows.
    pub async fn put_lease(
        &self,
        name: &str,
        found: Option<&Found<Record>>,
        held: Held<'_>,
    ) -> Result<Found<Record>, SharedError> {
        let mut metadata = self.meta(name, found);
        let notes = metadata.annotations.get_or_insert_default();
        match held.address {
            Some(address) => drop(notes.insert(ADDRESS.to_owned(), address.to_owned())),
            None => drop(notes.remove(ADDRESS)),
        }
        let now = MicroTime(Timestamp::now());
        let acquired = found.and_then(|found| Some(MicroTime(found.value.acquired.as_ref()?.parse().ok()?)));
        let spec = LeaseSpec {
            holder_identity: held.holder.map(str::to_owned),
            lease_duration_seconds: Some(i32::try_from(held.duration.as_secs()).unwrap_or(i32::MAX).max(1)),
            lease_transitions: Some(i32::try_from(held.transitions).unwrap_or(i32::MAX)),
            acquire_time: if held.acquires { Some(now.clone()) } else { acquired },
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let lease = Lease { metadata, spec: Some(spec) };
        Ok(record(self.put("Lease", name, found.is_some(), &lease).await?))
    }

    fn meta<T>(&self, name: &str, found: Option<&Found<T>>) -> ObjectMeta {
        found.map(|found| found.meta.clone()).unwrap_or_else(|| ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some([("app.kubernetes.io/name".to_owned(), "lark".to_owned())].into()),
            ..ObjectMeta::default()
        })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn get<K>(&self, kind: &'static str, name: &str) -> Result<Option<K>, SharedError>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let api = self.api::<K>();
        let got = tokio::time::timeout(self.limit, api.get_opt(name)).await;
        got.unwrap_or_else(|_| Err(late())).map_err(|error| explain("get", kind, name, &error))
    }

    async fn put<K>(&self, kind: &'static str, name: &str, over: bool, object: &K) -> Result<K, SharedError>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let (api, how) = (self.api::<K>(), PostParams::default());
        let verb = if over { "update" } else { "create" };
        let writing = async {
            match over {
                true => api.replace(name, &how, object).await,
                false => api.create(&how, object).await,
            }
        };
        let put = tokio::time::timeout(self.limit, writing).await;
        put.unwrap_or_else(|_| Err(late())).map_err(|error| explain(verb, kind, name, &error))
    }
}

fn late() -> kube::Error {
    kube::Error::Service("no answer in time".into())
}

fn explain(verb: &'static str, kind: &'static str, name: &str, error: &kube::Error) -> SharedError {
    let name = name.to_owned();
    match error {
        kube::Error::Api(status) if status.code == 409 => SharedError::Conflict { kind, name },
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            SharedError::Forbidden { verb, kind, name, said: status.message.clone() }
        }
        kube::Error::Api(status) if !status.message.is_empty() => {
            SharedError::Failed { verb, kind, name, said: status.message.clone() }
        }
        error => SharedError::Failed { verb, kind, name, said: failure::deepest(error) },
    }
}

fn files(secret: Secret) -> Found<Files> {
    let data = secret.data.unwrap_or_default();
    Found { value: data.into_iter().map(|(name, bytes)| (name, bytes.0)).collect(), meta: secret.metadata }
}

fn texts(map: ConfigMap) -> Found<Texts> {
    Found { value: map.data.unwrap_or_default(), meta: map.metadata }
}

fn record(lease: Lease) -> Found<Record> {
    let meta = lease.metadata;
    let spec = lease.spec.unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
    let value = Record {
        version: meta.resource_version.clone().unwrap_or_default(),
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(seconds),
        transitions: spec.lease_transitions.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        acquired: spec.acquire_time.map(|time| time.0.to_string()),
        address: meta.annotations.as_ref().and_then(|notes| notes.get(ADDRESS).cloned()),
    };
    Found { value, meta }
}
