use std::cell::Cell;
use std::fmt::Display;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use lark_core::explain::Cause;
use lark_core::framing::ConnectRequest;
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::reason::Reason;
use lark_identity::ca::Ca;
use lark_identity::store::issue_directly;
use lark_identity::{SvidStore, TrustBundle};
use lark_tunnel::{
    Acceptor, Carried, Deliver, Delivery, Dialer, Inbound, LocalIdentities, Observer, PoolKey, Refusal, Side,
    Traffic, TunnelSettings,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::cost::{cpu, resident};

const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Two tunnels to each node: one for each of these.
const DESTINATIONS: [&str; 2] = ["db", "cache"];
const SOURCE: &str = "web";

fn id(account: &str) -> Result<SpiffeId> {
    Ok(SpiffeId::new(&TrustDomain::new("cluster.local")?, "shop", account)?)
}

/// The CA of both ends: made by the one that comes first.
fn ca(keys: &Path) -> Result<Ca> {
    let (certificate, key) = (keys.join("scale.crt"), keys.join("scale.key"));
    if !key.exists() {
        let (ca, secret) = Ca::create(&TrustDomain::new("cluster.local")?, SystemTime::now())?;
        std::fs::create_dir_all(keys)?;
        std::fs::write(&certificate, ca.root_pem())?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key)?;
        file.write_all(secret.as_bytes())?;
    }
    Ok(Ca::load(&certificate, &key)?)
}

fn store(keys: &Path, accounts: &[&str]) -> Result<SvidStore> {
    let ca = ca(keys)?;
    let bundle = TrustBundle::from_pem(ca.root_pem().as_bytes())?;
    let store = SvidStore::new(bundle.clone(), Arc::new(SystemTime::now));
    for account in accounts {
        store.put(issue_directly(&ca, &id(account)?, LIFE, &bundle, SystemTime::now())?);
    }
    Ok(store)
}

struct Local(Vec<SpiffeId>);

impl LocalIdentities for Local {
    fn identity(&self, server_name: &str) -> Option<SpiffeId> {
        self.0.iter().find(|id| lark_tunnel::name::server_name(id) == server_name).cloned()
    }
    fn is_node(&self, address: IpAddr) -> bool {
        address.is_loopback()
    }
}

/// Counts.
#[derive(Default)]
struct Seen {
    done: Cell<usize>,
    failed: Cell<usize>,
    open: Cell<usize>,
}

impl Observer for Seen {
    fn handshake(&self, _: Side, result: Result<(), Cause>, _: Duration) {
        let count = if result.is_ok() { &self.done } else { &self.failed };
        count.set(count.get() + 1);
    }
    fn opened(&self, _: Side) {
        self.open.set(self.open.get() + 1);
    }
    fn closed(&self, _: Side, _: Option<Cause>) {
        self.open.set(self.open.get() - 1);
    }
    fn stream_refused(&self, _: SocketAddr, _: &SpiffeId, _: Reason, _: &dyn Display) {}
}

/// Delivers to an application that sends back what it gets.
struct Echo(SocketAddr);

impl Deliver for Echo {
    fn deliver(&self, _: Inbound) -> Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>> {
        let application = self.0;
        Box::pin(async move {
            let pod = TcpStream::connect(application)
                .await
                .map_err(|error| Refusal::new(Reason::DialFailed, error.to_string()))?;
            Ok(Delivery {
                pod: pod.into(),
                traffic: Traffic::default(),
                on_end: Box::new(|_| {}),
                would_deny: None,
            })
        })
    }
}

fn on_worker<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build_local(tokio::runtime::LocalOptions::default())?.block_on(work)
}

async fn echo(listener: TcpListener) {
    while let Ok((mut socket, _)) = listener.accept().await {
        tokio::task::spawn_local(async move {
            let (mut read, mut write) = socket.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    }
}

/// The accepting end; never returns.
pub(crate) fn accept(keys: &Path, ready: impl FnOnce(SocketAddr) -> Result<()>) -> Result<()> {
    on_worker(async {
        let svids = store(keys, &DESTINATIONS)?;
        let local = DESTINATIONS.map(id).into_iter().collect::<Result<_>>()?;
        let application = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let deliver: Rc<dyn Deliver> = Rc::new(Echo(application.local_addr()?));
        tokio::task::spawn_local(echo(application));
        let domain = TrustDomain::new("cluster.local")?;
        let acceptor = Acceptor::new(
            svids,
            domain,
            Rc::new(Local(local)),
            TunnelSettings::default(),
            Rc::new(Seen::default()),
        );
        let listener = lark_sys::socket::listen((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let listener = TcpListener::from_std(listener)?;
        ready((Ipv4Addr::LOCALHOST, listener.local_addr()?.port()).into())?;
        loop {
            let (socket, peer) = listener.accept().await?;
            let (acceptor, deliver) = (acceptor.clone(), deliver.clone());
            tokio::task::spawn_local(async move {
                // Whoever dialled counts what failed.
                let _ = acceptor.serve(socket, peer, deliver).await;
            });
        }
    })
}

/// The dialling end.
pub(crate) fn dial(keys: &Path, via: SocketAddr, peer: u32, nodes: u32, idle: f64) -> Result<Value> {
    on_worker(async {
        let own = std::process::id();
        let seen = Rc::new(Seen::default());
        let dialer = Dialer::new(store(keys, &[SOURCE])?, TunnelSettings::default(), seen.clone());
        let before = (resident(own)?, resident(peer)?);
        let began = Instant::now();
        let lost = connect_all(&dialer, via, nodes, DESTINATIONS[0]).await?;
        let at_once = began.elapsed().as_secs_f64();
        let handshakes = (seen.done.get(), seen.failed.get());
        let lost = lost + connect_all(&dialer, via, nodes, DESTINATIONS[1]).await?;
        ensure!(lost == 0, "{lost} connections were lost");
        // What the handshakes have left goes first.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (from, spent) = (Instant::now(), (cpu(own)?, cpu(peer)?));
        tokio::time::sleep(Duration::from_secs_f64(idle)).await;
        let took = from.elapsed().as_secs_f64();
        let tunnels = seen.open.get();
        let each = |now: f64, before: f64| (now - before) / tunnels as f64 / 1024.0;
        Ok(json!({
            "handshakes_at_once": handshakes.0, "handshakes_failed": handshakes.1, "handshakes_s": at_once,
            "tunnels": tunnels,
            "kib_a_tunnel_dialling": each(resident(own)?, before.0),
            "kib_a_tunnel_accepting": each(resident(peer)?, before.1),
            "idle_cpu_percent_dialling": (cpu(own)? - spent.0) / took * 100.0,
            "idle_cpu_percent_accepting": (cpu(peer)? - spent.1) / took * 100.0,
        }))
    })
}

/// One connection to each node, all at once. Returns how many did not get their echo.
async fn connect_all(dialer: &Dialer, via: SocketAddr, nodes: u32, destination: &str) -> Result<usize> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let at = listener.local_addr()?;
    let mut echoes = JoinSet::new();
    for number in 0..nodes {
        let [.., high, low] = number.to_be_bytes();
        let key = PoolKey {
            source: id(SOURCE)?,
            destination: id(destination)?,
            node: SocketAddr::new(Ipv4Addr::new(127, 2, high, low).into(), via.port()),
        };
        let request = ConnectRequest {
            authority: (Ipv4Addr::new(10, 0, high, low), 80).into(),
            source: (Ipv4Addr::new(10, 1, 0, 1), 4242).into(),
            host: None,
        };
        let (socket, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let (mut socket, (pod, _)) = (socket?, accepted?);
        let dialer = dialer.clone();
        let carried = Box::new(Carried::new(key, request, pod, Traffic::default()));
        tokio::task::spawn_local(async move {
            dialer.carry(carried, |_| {}).await;
        });
        echoes.spawn_local(async move {
            socket.write_all(b"ping").await?;
            let mut answer = [0; 4];
            socket.read_exact(&mut answer).await
        });
    }
    let results = echoes.join_all().await;
    ensure!(results.len() == usize::try_from(nodes).context("too many nodes")?, "a task ended early");
    Ok(results.iter().filter(|result| result.is_err()).count())
}
