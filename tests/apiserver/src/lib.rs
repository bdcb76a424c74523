//! A Kubernetes API server for tests, over real TLS and HTTP. It behaves as the API's documentation says:
//! lists in pages of one revision, watches from a revision on with bookmarks, `410 Gone` for what was
//! compacted, optimistic locking by `resourceVersion`, patches, TokenReview. A scenario drives it: puts and
//! deletes objects, and makes it fail.

#![forbid(unsafe_code)]

/// Constructors of objects.
pub mod objects;
mod reach;
mod registry;
mod serve;
mod tls;
mod users;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch as signal;
use tokio::task::JoinHandle;

pub use reach::Backend;
use registry::Registry;
pub use registry::{Refusal, Resource};

/// The token with which requests are let in.
const TOKEN: &str = "a-token-of-this-test";

/// A request that was served, as an RBAC rule would have to grant it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// `list`, `watch`, `get`, `create`, `update`, `patch` or `delete`.
    pub verb: &'static str,
    /// The group.
    pub group: String,
    /// The resource, with its subresource: `pods`, `pods/status`.
    pub resource: String,
    /// The object's name, where the path has one.
    pub name: Option<String>,
}

/// What is made to fail.
#[derive(Debug, Default)]
struct Faults {
    /// Watches of these resources tell nothing until they are let go on.
    held: BTreeSet<String>,
    /// Requests for these resources get this answer, so many times.
    refused: BTreeMap<String, (Refusal, u32)>,
}

struct Shared {
    registry: Mutex<Registry>,
    faults: Mutex<Faults>,
    requests: Mutex<BTreeMap<Request, usize>>,
    tokens: Mutex<BTreeMap<String, Value>>,
    users: Mutex<users::Users>,
    /// How pods are reached.
    dial: Mutex<Option<reach::Dial>>,
    /// Counts up with everything that a watch may have to look at.
    stirred: signal::Sender<u64>,
    /// Counts up when all connections are to be cut.
    cut: signal::Sender<u64>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server that runs until it is dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: tls::Tls,
    accepting: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts one on a free port of the loopback.
    ///
    /// # Errors
    /// When the port or the certificate cannot be had.
    pub async fn start() -> std::io::Result<Self> {
        Self::start_on(std::net::TcpListener::bind("127.0.0.1:0")?).await
    }

    /// Starts one on a listener, for example of another network namespace.
    ///
    /// # Errors
    /// When the listener cannot be used or there is no certificate for its address.
    pub async fn start_on(listener: std::net::TcpListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let tls = tls::Tls::new(address.ip()).map_err(std::io::Error::other)?;
        let shared = Arc::new(Shared {
            registry: Mutex::default(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            tokens: Mutex::default(),
            users: Mutex::default(),
            dial: Mutex::default(),
            stirred: signal::channel(0).0,
            cut: signal::channel(0).0,
        });
        let accepting = Some(tokio::spawn(serve::accept(listener, tls.acceptor.clone(), shared.clone())));
        Ok(Self { shared, address, tls, accepting })
    }

    /// Writes a kubeconfig that leads here.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, directory: &Path) -> std::io::Result<PathBuf> {
        let path = directory.join("kubeconfig");
        let root = directory.join("api-root.pem");
        std::fs::write(&root, &self.tls.root)?;
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://{}", self.address), "certificate-authority": root
            } }],
            "users": [{ "name": "test", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }]
        });
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Creates or replaces an object; its `kind` says what it is.
    ///
    /// # Panics
    /// When the object is refused: the scenario is wrong.
    pub fn put(&self, object: Value) -> Value {
        let resource = objects::resource(&object);
        let put = locked(&self.shared.registry).put(&resource, object, false);
        self.stir();
        match put {
            Ok(object) => object,
            Err(refusal) => panic!("{refusal:?}"),
        }
    }

    /// Deletes an object.
    ///
    /// # Panics
    /// When there is none.
    pub fn delete(&self, object: &Value) {
        let resource = objects::resource(object);
        let name = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let deleted = locked(&self.shared.registry).delete(&resource, &name("namespace"), &name("name"));
        self.stir();
        if let Err(refusal) = deleted {
            panic!("{refusal:?}");
        }
    }

    /// An object as it is now, by its resource.
    pub fn find(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = (group.to_owned(), plural.to_owned());
        locked(&self.shared.registry).get(&resource, namespace, name).ok()
    }

    /// All objects of a resource.
    pub fn all(&self, group: &str, plural: &str) -> Vec<Value> {
        let resource = (group.to_owned(), plural.to_owned());
        let page = locked(&self.shared.registry).list(&resource, None, None, None);
        page.map(|page| page.items.iter().map(|item| Value::clone(item)).collect()).unwrap_or_default()
    }

    /// The present revision.
    pub fn revision(&self) -> u64 {
        locked(&self.shared.registry).revision
    }

    /// Watches of a resource tell nothing of what happens from now on, until [`ApiServer::release`].
    pub fn hold(&self, resource: &str) {
        locked(&self.shared.faults).held.insert(resource.to_owned());
    }

    /// Watches of a resource go on.
    pub fn release(&self, resource: &str) {
        locked(&self.shared.faults).held.remove(resource);
        self.stir();
    }

    /// The next requests for a resource are refused.
    pub fn refuse(&self, resource: &str, code: u16, reason: &'static str, times: u32) {
        let refusal = Refusal::new(code, reason, format!("{resource}: refused by the scenario"));
        locked(&self.shared.faults).refused.insert(resource.to_owned(), (refusal, times));
    }

    /// Forgets the history of changes: watches that are behind, and lists that were begun, expire.
    pub fn compact(&self) {
        locked(&self.shared.registry).compact();
        self.stir();
    }

    /// Cuts every connection, in the middle of whatever it carries.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// Stops listening and cuts every connection.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Until the listener is closed.
            let _ended = accepting.await;
        }
        self.cut();
    }

    /// Listens again at the same port.
    ///
    /// # Errors
    /// When the port was taken meanwhile.
    pub async fn start_again(&mut self) -> std::io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.accepting =
            Some(tokio::spawn(serve::accept(listener, self.tls.acceptor.clone(), self.shared.clone())));
        Ok(())
    }

    /// Everything that was asked so far, and how often.
    pub fn requests(&self) -> BTreeMap<Request, usize> {
        locked(&self.shared.requests).clone()
    }

    /// TokenReview answers with this status for that token.
    pub fn know_token(&self, token: &str, status: Value) {
        locked(&self.shared.tokens).insert(token.to_owned(), status);
    }

    fn stir(&self) {
        self.shared.stirred.send_modify(|n| *n += 1);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.cut();
    }
}
