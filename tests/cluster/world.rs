//! An API server with a small shop in it, and discovery that follows it.

use std::sync::Arc;
use std::time::Duration;

use lark_apiserver::{ApiServer, objects};
use lark_core::identity::TrustDomain;
use lark_core::mode::Mtls;
use lark_core::snapshot::{AgentDown, MeshSettings, PolicyChange, SameNode, Snapshot};
use lark_discovery::Discovery;
use lark_discovery::kubernetes::{Access, Mesh, watch};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::real::{Real, token_of};

/// Generous: what is awaited comes in milliseconds on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) server: ApiServer,
    /// Before the directory that it runs in.
    real: Option<Real>,
    pub(crate) home: TempDir,
}

impl World {
    /// Namespace `shop` is captured; `db` runs on node two behind Service `db`.
    pub(crate) async fn shop() -> Self {
        Self::with(None, tempfile::tempdir().unwrap()).await
    }

    /// The same on whatever API server there is: for scenarios without faults.
    pub(crate) async fn anywhere() -> Self {
        let home = tempfile::tempdir().unwrap();
        Self::with(Real::start(home.path()), home).await
    }

    async fn with(real: Option<Real>, home: TempDir) -> Self {
        let world = Self { server: ApiServer::start().await.unwrap(), real, home };
        world.put(objects::namespace("shop", Some("enabled")));
        world.put(objects::node("one", "192.168.0.1"));
        world.put(objects::node("two", "192.168.0.2"));
        let db = world.put(objects::pod("shop", "db-1", "db", "two", &["10.0.2.1", "fd02::1"]));
        let service = world.put(objects::service("shop", "db", "10.96.0.10", 5432));
        world.put(objects::slice(&service, &[&db]));
        world
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, object: Value) -> Value {
        match &self.real {
            Some(real) => real.put(object),
            None => self.server.put(object),
        }
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, object: &Value) {
        match &self.real {
            Some(real) => real.delete(object),
            None => self.server.delete(object),
        }
    }

    /// As an agent asks.
    pub(crate) fn access(&self) -> Access {
        self.access_of("agent")
    }

    /// As a controller asks.
    pub(crate) fn controller(&self) -> Access {
        self.access_of("controller")
    }

    fn access_of(&self, name: &str) -> Access {
        Access::Kubeconfig(match &self.real {
            Some(real) => real.kubeconfig(name),
            None => self.server.kubeconfig(self.home.path()).unwrap(),
        })
    }

    /// All objects of a resource.
    pub(crate) fn all(&self, group: &str, plural: &str) -> Vec<Value> {
        match &self.real {
            Some(real) => real.all(group, plural),
            None => self.server.all(group, plural),
        }
    }

    /// Whether a schema is in the way of an object; the tests' own server has none.
    pub(crate) fn takes(&self, object: &Value) -> Option<Result<String, String>> {
        self.real.as_ref().map(|real| real.takes(object))
    }

    /// A pod on node one, with that account of `lark-system`.
    pub(crate) fn system_pod(&self, name: &str, account: &str) -> Value {
        let mut pod = objects::pod("lark-system", name, account, "one", &["192.168.0.1"]);
        pod["spec"]["hostNetwork"] = json!(true);
        self.put(pod)
    }

    /// A token of an account in `lark-system`, for an audience, bound to a pod on node one if one is given.
    pub(crate) fn token(&self, account: &str, pod: Option<&Value>, audience: &str) -> String {
        if let Some(real) = &self.real {
            return real.token(account, pod, audience);
        }
        let user = format!("system:serviceaccount:lark-system:{account}");
        let token = format!("{user}:{audience}:{}", pod.and_then(uid).unwrap_or_default());
        let mut status = objects::review(&user, &[audience], pod.map(|_| "one"), pod.unwrap_or(&Value::Null));
        if pod.is_none() {
            status["user"]["extra"] = json!({});
        }
        self.server.know_token(&token, status);
        token
    }

    /// Deletes a pod, which ends what is bound to it.
    pub(crate) fn delete_bound(&self, pod: &Value, token: &str) {
        self.delete(pod);
        if self.real.is_none() {
            let gone = json!({ "authenticated": false, "error": "the pod has been deleted" });
            self.server.know_token(token, gone);
        }
    }

    /// The token of somebody who may get pods in `shop` and nowhere else.
    pub(crate) fn tenant(&self) -> String {
        let token = token_of("tenant");
        let Some(real) = &self.real else {
            self.server.user(&token, "tenant", &[]);
            self.server.may_get_pods("tenant", &["shop"]);
            return token;
        };
        let metadata = json!({ "name": "looks", "namespace": "shop" });
        let group = "rbac.authorization.k8s.io";
        real.put(json!({
            "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": metadata,
            "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]
        }));
        real.put(json!({
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": group, "kind": "Role", "name": "looks" },
            "subjects": [{ "apiGroup": group, "kind": "User", "name": "tenant" }]
        }));
        token
    }

    pub(crate) async fn discover(&self) -> Discovery {
        let settings = MeshSettings {
            trust_domain: TrustDomain::new("cluster.local").unwrap(),
            same_node: SameNode::Agent,
            agent_down: AgentDown::Untouched,
            policy_change: PolicyChange::End,
            cluster_ranges: Vec::new(),
        };
        let access = self.access();
        let started = watch(&access, Mesh { settings, mtls: Mtls::Permissive, tunnel_port: 15008 });
        tokio::time::timeout(LIMIT, started).await.unwrap().unwrap()
    }

    /// Puts a pod of that name and account on node two.
    pub(crate) fn pod(&self, name: &str, account: &str, address: &str) -> Value {
        self.put(objects::pod("shop", name, account, "two", &[address]))
    }
}

/// Waits for a snapshot.
pub(crate) async fn until(
    discovery: &Discovery,
    what: &str,
    is_so: impl FnMut(&Arc<Snapshot>) -> bool,
) -> Arc<Snapshot> {
    let mut snapshot = discovery.snapshot.clone();
    let waited = tokio::time::timeout(LIMIT, snapshot.wait_for(is_so)).await;
    waited.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}")).unwrap().clone()
}

/// The uid of the workload that an address identifies.
pub(crate) fn uid_at(snapshot: &Snapshot, address: &str) -> Option<String> {
    snapshot.workload_by_address(address.parse().unwrap()).map(|w| w.uid.to_string())
}

/// The uid of an object that was put.
pub(crate) fn uid(object: &Value) -> Option<String> {
    object["metadata"]["uid"].as_str().map(str::to_owned)
}
