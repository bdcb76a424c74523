//! Two ends of a tunnel on loopback, with real TLS and an application behind the accepting one.

use std::cell::RefCell;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use lark_core::constants::HELD_MAX;
use lark_core::explain::Cause;
use lark_core::framing::ConnectRequest;
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::observe::ByteCounters;
use lark_core::reason::Reason;
use lark_identity::ca::Ca;
use lark_identity::store::issue_directly;
use lark_identity::{SvidStore, TrustBundle};
use lark_sys::ktls::Offer;
use lark_testbed::hostile::{self, Hostile};
use lark_tunnel::cipher::{by_speed, provider};
use lark_tunnel::{
    Acceptor, Carried, Carrying, Deliver, Delivery, Dialer, Ended, Holding, Inbound, LocalIdentities,
    Observer, PodShare, PoolKey, Refusal, ServeError, Side, Traffic, TunnelSettings,
};
use rustls::ClientConfig;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

/// One CA and what it issues.
pub(crate) struct World {
    pub(crate) ca: Ca,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { ca: Ca::create(&domain(), SystemTime::now()).unwrap().0 }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(self.ca.root_pem().as_bytes()).unwrap()
    }

    pub(crate) fn store(&self, accounts: &[&str]) -> SvidStore {
        let store = SvidStore::new(self.bundle(), Arc::new(SystemTime::now));
        for account in accounts {
            let now = SystemTime::now();
            store.put(issue_directly(&self.ca, &id(account), DAY, &self.bundle(), now).unwrap());
        }
        store
    }
}

#[derive(Default)]
pub(crate) struct Seen {
    handshakes: AtomicUsize,
    failures: AtomicUsize,
    opened: AtomicUsize,
    closed: AtomicUsize,
}

impl Seen {
    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::Relaxed)
    }
    pub(crate) fn failures(&self) -> usize {
        self.failures.load(Ordering::Relaxed)
    }
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
    pub(crate) fn closed(&self) -> usize {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Observer for Seen {
    fn handshake(&self, _: Side, result: Result<(), Cause>, _: Duration) {
        let which = if result.is_ok() { &self.handshakes } else { &self.failures };
        which.fetch_add(1, Ordering::Relaxed);
    }
    fn opened(&self, _: Side) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }
    fn closed(&self, _: Side, _: Option<Cause>) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
    fn stream_refused(&self, _: SocketAddr, _: &SpiffeId, _: Reason, _: &dyn Display) {}
}

pub(crate) struct Local(pub(crate) Vec<SpiffeId>);

impl LocalIdentities for Local {
    fn identity(&self, server_name: &str) -> Option<SpiffeId> {
        self.0.iter().find(|id| lark_tunnel::name::server_name(id) == server_name).cloned()
    }

    fn is_node(&self, address: IpAddr) -> bool {
        [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)].map(IpAddr::from).contains(&address)
    }
}

/// Delivers to a fixed application, except port 1, which policy denies.
struct ToApplication(SocketAddr);

impl Deliver for ToApplication {
    fn deliver(&self, inbound: Inbound) -> Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>> {
        let application = self.0;
        Box::pin(async move {
            assert_eq!(inbound.client, id("web"));
            if inbound.request.authority.port() == 1 {
                return Err(Refusal::new(Reason::PolicyDenied, "port 1"));
            }
            let pod = TcpStream::connect(application)
                .await
                .map_err(|e| Refusal::new(Reason::DialRefused, e.to_string()))?;
            Ok(Delivery {
                pod: pod.into(),
                traffic: Traffic::default(),
                would_deny: None,
                on_end: Box::new(|_| {}),
            })
        })
    }
}

/// An accepting agent's acceptor, for db. It knows nodes 127.0.0.1 and 127.0.0.2.
pub(crate) fn acceptor(store: SvidStore, settings: TunnelSettings) -> Acceptor {
    watched(store, settings, Rc::new(Seen::default()))
}

/// The same, with somebody who is told.
pub(crate) fn watched(store: SvidStore, settings: TunnelSettings, observer: Rc<dyn Observer>) -> Acceptor {
    let local = Rc::new(Local(vec![id("db")]));
    Acceptor::new(store, domain(), local, settings, observer)
}

/// An accepting agent with db's certificate.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    /// Takes what is accepted from now on.
    pub(crate) acceptor: Rc<RefCell<Acceptor>>,
    errors: mpsc::UnboundedReceiver<ServeError>,
}

impl Node {
    pub(crate) async fn new(acceptor: Acceptor, deliver: Rc<dyn Deliver>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Rc::new(RefCell::new(acceptor));
        let current = acceptor.clone();
        let (said, errors) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            loop {
                let (socket, peer) = listener.accept().await.unwrap();
                let acceptor = current.borrow().clone();
                let (deliver, said) = (deliver.clone(), said.clone());
                tokio::task::spawn_local(async move {
                    if let Err(error) = acceptor.serve(socket, peer, deliver).await {
                        let _ = said.send(error);
                    }
                });
            }
        });
        Self { address, acceptor, errors }
    }

    /// What the next connection that became no tunnel, or lost it, said.
    pub(crate) async fn error(&mut self) -> ServeError {
        self.errors.recv().await.unwrap()
    }
}

/// Delivers to `application`.
pub(crate) fn to(application: SocketAddr) -> Rc<dyn Deliver> {
    Rc::new(ToApplication(application))
}

/// An accepting agent with db's certificate in front of `application`.
pub(crate) async fn node(store: SvidStore, application: SocketAddr, settings: TunnelSettings) -> Node {
    Node::new(acceptor(store, settings), to(application)).await
}

/// The same, when only its address matters.
pub(crate) async fn accept(
    store: SvidStore,
    application: SocketAddr,
    settings: TunnelSettings,
) -> SocketAddr {
    node(store, application, settings).await.address
}

pub(crate) fn quick() -> TunnelSettings {
    TunnelSettings { identity_wait: Duration::from_millis(50), ktls: *KTLS, ..TunnelSettings::default() }
}

/// What the kernel carries of all tunnels here: nothing, unless that is demanded, as `cargo xtask vm` does on a kernel
/// that can.
static KTLS: LazyLock<Option<Offer>> = LazyLock::new(|| {
    let demanded = std::env::var_os("LARK_TEST_KTLS").is_some_and(|how| how == "demanded");
    demanded.then(|| lark_sys::ktls::probe().expect("the kernel's TLS is demanded and not there"))
});

/// Whether a tunnel goes on with a peer that renews its keys.
pub(crate) fn renews() -> bool {
    KTLS.is_none_or(|offer| offer.renews)
}

/// Speaks as `account` to db, whatever it does then.
pub(crate) fn config(store: &SvidStore, account: &str) -> ClientConfig {
    let svid = store.current(&id(account)).unwrap();
    lark_tunnel::tls::client(&provider(&by_speed()), &svid, store, &id("db")).unwrap()
}

/// A tunnel to db in hands that need not be an agent's.
pub(crate) async fn raw(store: &SvidStore, from: IpAddr, node: SocketAddr) -> Hostile {
    let socket = hostile::from(from, node).await.unwrap();
    let name = lark_tunnel::name::server_name(&id("db"));
    Hostile::new(socket, config(store, "web"), Some(&name)).await.unwrap()
}

/// A dialling agent; `connect` gives the application's end of a captured connection.
pub(crate) struct Client {
    pub(crate) dialer: Dialer,
    pub(crate) seen: Rc<Seen>,
    pub(crate) node: SocketAddr,
    /// What carriers were told of their connections.
    pub(crate) news: Rc<RefCell<Vec<String>>>,
    listener: TcpListener,
}

impl Client {
    pub(crate) async fn new(store: SvidStore, node: SocketAddr, settings: TunnelSettings) -> Self {
        let seen = Rc::new(Seen::default());
        let dialer = Dialer::new(store, settings, seen.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { dialer, seen, node, news: Rc::default(), listener }
    }

    pub(crate) async fn connect_to(
        &self,
        destination: &str,
        port: u16,
    ) -> (TcpStream, Arc<ByteCounters>, tokio::task::JoinHandle<Ended>) {
        let application = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
        let (pod, _) = self.listener.accept().await.unwrap();
        let (counters, ended) = self.carry(destination, port, pod);
        (application, counters, ended)
    }

    /// Carries what somebody has accepted.
    pub(crate) fn carry(
        &self,
        destination: &str,
        port: u16,
        pod: TcpStream,
    ) -> (Arc<ByteCounters>, tokio::task::JoinHandle<Ended>) {
        let key = PoolKey { source: id("web"), destination: id(destination), node: self.node };
        let request = ConnectRequest {
            authority: SocketAddr::from(([10, 0, 0, 2], port)),
            source: SocketAddr::from(([10, 0, 0, 1], 4242)),
            host: None,
        };
        let counters: Arc<ByteCounters> = Arc::default();
        let (dialer, counted) = (self.dialer.clone(), counters.clone());
        let carried = Box::new(Carried::new(key, request, pod, counted));
        let news = self.news.clone();
        let told = move |is: Carrying| news.borrow_mut().push(format!("{is:?}"));
        let ended = tokio::task::spawn_local(async move { dialer.carry(carried, told).await });
        (counters, ended)
    }

    pub(crate) async fn connect(&self) -> (TcpStream, Arc<ByteCounters>, tokio::task::JoinHandle<Ended>) {
        self.connect_to("db", 80).await
    }
}

/// What is sent comes back.
pub(crate) async fn echoes(socket: &mut TcpStream) {
    socket.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ping");
}

/// What a joined connection may hold: enough.
pub(crate) fn held() -> PodShare {
    Holding::of_all(HELD_MAX).of_pod(1)
}

/// Whoever sends without end until he is reset, and then reads what he was told: as `curl` does with an upload.
pub(crate) async fn told_amid_a_flood(mut socket: TcpStream) -> Vec<u8> {
    let flood = vec![7; 64 * 1024 * 1024];
    let _reset = socket.write_all(&flood).await.unwrap_err();
    let mut told = Vec::new();
    let _end = socket.read_to_end(&mut told).await;
    told
}

/// Reads the beginning of a request, answers, and closes with the rest of it unread.
pub(crate) async fn answers_early(mut socket: TcpStream) {
    socket.read_exact(&mut [0; 10]).await.unwrap();
    // Enough has come that some of it is unread for sure.
    until(|| SockRef::from(&socket).peek(&mut [std::mem::MaybeUninit::new(0); 65536]).unwrap() == 65536)
        .await;
    socket.write_all(EARLY).await.unwrap();
}

/// What is answered early.
pub(crate) const EARLY: &[u8] = b"413 Content Too Large";

/// Two connected sockets.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// Waits until it is so; whoever never becomes so lets the test hang, and fail.
pub(crate) async fn until(so: impl Fn() -> bool) {
    while !so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs a test on a worker like the agent's.
pub(crate) fn on_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async {
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test hangs");
    };
    tokio::task::LocalSet::new().block_on(&runtime, limited);
}

/// An application that sends back what it gets, and ends when its client does.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let (mut read, mut write) = socket.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}
