//! A captured pod as the data path sees it, and the table of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use lark_sys::cgroup::Cgroup;
use lark_sys::netns::NetNs;

/// A pod whose sockets are redirected. Held by every connection of it, so that its namespace
/// stays open no longer than the last of them.
#[derive(Debug)]
pub struct Pod {
    /// Discovery's uid: never used again for another pod.
    pub uid: Arc<str>,
    /// The number by which the kernel's entries name it.
    pub id: u32,
    /// `namespace/name`, for people.
    pub name: String,
    /// Its network namespace.
    pub netns: NetNs,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Its own addresses.
    pub addresses: Box<[IpAddr]>,
    acceptor: OnceLock<Option<u32>>,
    netns_cookie: OnceLock<u64>,
    listeners: OnceLock<Vec<u16>>,
    hooks_live: AtomicBool,
    connections: AtomicUsize,
    next_source: AtomicU32,
}

impl Pod {
    /// A pod that is about to be captured; its hooks are not live yet.
    pub fn new(
        uid: Arc<str>,
        id: u32,
        name: String,
        netns: NetNs,
        cgroup: Cgroup,
        addresses: Box<[IpAddr]>,
    ) -> Self {
        Self {
            uid,
            id,
            name,
            netns,
            cgroup,
            addresses,
            acceptor: OnceLock::new(),
            netns_cookie: OnceLock::new(),
            listeners: OnceLock::new(),
            hooks_live: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            next_source: AtomicU32::new(0),
        }
    }

    /// Whether all hooks are attached in the kernel. Without them nothing is delivered, because the
    /// application would be told a wrong source address.
    pub fn hooks_live(&self) -> bool {
        self.hooks_live.load(Ordering::Acquire)
    }

    /// Records whether all hooks are attached.
    pub fn set_hooks_live(&self, live: bool) {
        self.hooks_live.store(live, Ordering::Release);
    }

    /// By what hooks know its namespace.
    ///
    /// # Errors
    /// When the kernel does not tell; the next one may have more luck.
    pub fn netns_cookie(&self) -> std::io::Result<u64> {
        match self.netns_cookie.get() {
            Some(cookie) => Ok(*cookie),
            None => self.netns.cookie().map(|cookie| *self.netns_cookie.get_or_init(|| cookie)),
        }
    }

    /// By which number verdicts of direct connections name its namespace; nothing if the kernel does not tell.
    pub fn acceptor(&self) -> Option<u32> {
        *self.acceptor.get_or_init(|| self.netns.cookie().ok().and_then(super::direct::number))
    }

    /// Records the ports of the agent's own listeners in the pod, once they are there.
    pub fn set_listeners(&self, ports: Vec<u16>) {
        // A pod's listeners are opened once, when it is captured.
        let _ = self.listeners.set(ports);
    }

    /// Whether the agent itself listens on that port in the pod: nothing is delivered there.
    pub fn is_listener(&self, port: u16) -> bool {
        self.listeners.get().is_some_and(|ports| ports.contains(&port))
    }

    /// Open connections that this agent carries for the pod.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// A running number that spreads deliveries over loopback source addresses.
    pub fn next_source(&self) -> u32 {
        self.next_source.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether `address` is one of the pod's own.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.addresses.iter().any(|own| own.to_canonical() == address)
    }

    /// Counts a connection for as long as the returned value lives.
    pub fn connection(self: &Arc<Self>) -> ConnectionOf {
        self.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionOf(self.clone())
    }
}

/// One open connection of a pod; counted down when dropped.
#[derive(Debug)]
pub struct ConnectionOf(Arc<Pod>);

impl Drop for ConnectionOf {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The captured pods of this node, read by every worker and written by the reconciler alone.
#[derive(Debug, Default)]
pub struct Pods(ArcSwap<HashMap<Arc<str>, Arc<Pod>>>);

impl Pods {
    /// The pod of that uid, if it is captured here.
    pub fn by_uid(&self, uid: &str) -> Option<Arc<Pod>> {
        self.0.load().get(uid).cloned()
    }

    /// The pod that the kernel's entries name so.
    pub fn by_id(&self, id: u32) -> Option<Arc<Pod>> {
        self.0.load().values().find(|pod| pod.id == id).cloned()
    }

    /// The pod whose namespace verdicts of direct connections name so.
    pub fn by_acceptor(&self, acceptor: u32) -> Option<Arc<Pod>> {
        self.0.load().values().find(|pod| pod.acceptor() == Some(acceptor)).cloned()
    }

    /// All captured pods.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.0.load().values().cloned().collect()
    }

    /// Adds or replaces a pod.
    pub fn insert(&self, pod: Arc<Pod>) {
        let mut next = HashMap::clone(&self.0.load());
        next.insert(pod.uid.clone(), pod);
        self.0.store(Arc::new(next));
    }

    /// Takes a pod out.
    pub fn remove(&self, uid: &str) {
        let mut next = HashMap::clone(&self.0.load());
        next.remove(uid);
        self.0.store(Arc::new(next));
    }
}
