//! Attacks on an accepting agent. Each is refused, counted under its own cause in the agent's own metrics, and
//! takes no memory to speak of, while a well-behaved agent goes on over the same worker.

mod frames;
mod handshakes;
mod hoards;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use lark::observe::Observer;
use lark::proxy::Tunnels;
use lark_testbed::hostile::Hostile;
use lark_tunnel::{Deliver, Delivery, Inbound, Refusal, Traffic, TunnelSettings};
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::certificates::Authority;
use crate::ends::{Client, Node, config, echo, echoes, quick, raw, sockets, watched};

/// A node that discovery knows, in other hands.
const TAKEN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Not a node.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
/// Where nothing is ever delivered.
const NEVER: &str = "10.0.0.2:9";
/// Where an application sends without end.
const FLOOD: &str = "10.0.0.2:19";
const SOMEBODY: &str = "for=\"10.0.0.1:4242\"";

/// Delivers to an application that echoes, but for the ports of [`NEVER`] and [`FLOOD`].
struct ToEcho {
    application: SocketAddr,
    begun: Cell<usize>,
}

impl Deliver for ToEcho {
    fn deliver(&self, inbound: Inbound) -> Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>> {
        self.begun.set(self.begun.get() + 1);
        let application = self.application;
        Box::pin(async move {
            let pod = match inbound.request.authority.port() {
                9 => std::future::pending().await,
                19 => flood().await,
                _ => TcpStream::connect(application).await.unwrap(),
            };
            Ok(Delivery {
                pod: pod.into(),
                traffic: Traffic::default(),
                would_deny: None,
                on_end: Box::new(|_| {}),
            })
        })
    }
}

/// How a record says how much memory a test's process took more, both ends together.
fn mib(bytes: u64) -> String {
    format!("at most {} MiB more for both ends", bytes.div_ceil(1 << 20))
}

async fn flood() -> TcpStream {
    let (pod, mut application) = sockets().await;
    tokio::task::spawn_local(async move { while application.write_all(&[7; 65_536]).await.is_ok() {} });
    pod
}

/// An accepting agent with the agent's own metrics, and a well-behaved agent that has a stream to it.
struct Stage {
    authority: Authority,
    node: Node,
    observer: Observer,
    deliver: Rc<ToEcho>,
    neighbour: Client,
    open: TcpStream,
    memory: u64,
}

impl Stage {
    async fn new(settings: TunnelSettings) -> Self {
        lark_sys::socket::raise_descriptor_limit();
        let authority = Authority::new();
        let observer = Observer::new().unwrap();
        let acceptor = watched(authority.store("db", |_| ()), settings, Rc::new(Tunnels(observer.clone())));
        let deliver = Rc::new(ToEcho { application: echo().await, begun: Cell::new(0) });
        let node = Node::new(acceptor, deliver.clone()).await;
        let neighbour = Client::new(authority.store("web", |_| ()), node.address, quick()).await;
        let mut open = neighbour.connect().await.0;
        echoes(&mut open).await;
        let mut stage = Self { authority, node, observer, deliver, neighbour, open, memory: 0 };
        stage.memory = stage.peak();
        stage
    }

    /// What hostile hands use to speak as web.
    fn config(&self) -> ClientConfig {
        config(&self.authority.store("web", |_| ()), "web")
    }

    /// A tunnel of web's in hostile hands.
    async fn tunnel(&self, settings: &[u8]) -> Hostile {
        let mut hostile = raw(&self.authority.store("web", |_| ()), TAKEN, self.node.address).await;
        hostile.hello(settings).await.unwrap();
        hostile
    }

    /// A series of the agent's metrics.
    fn metric(&self, series: &str) -> u64 {
        let text = self.observer.metrics(&vec![]).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no series {series}")).parse().unwrap()
    }

    fn handshakes(&self, result: &str) -> u64 {
        self.metric(&format!("lark_tunnel_handshakes_total{{result=\"{result}\",side=\"server\"}}"))
    }

    fn lost(&self, cause: &str) -> u64 {
        self.metric(&format!("lark_tunnel_lost_total{{cause=\"{cause}\",side=\"server\"}}"))
    }

    fn refused(&self, reason: &str) -> u64 {
        let name = "lark_proxy_connections_refused_total";
        self.metric(&format!("{name}{{direction=\"inbound\",reason=\"{reason}\"}}"))
    }

    /// Waits for a count; one that never comes lets the test hang, and fail.
    async fn until(&self, what: &str, count: impl Fn(&Self) -> u64, least: u64) {
        for _ in 0..2_000 {
            if count(self) >= least {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let text = self.observer.metrics(&vec![]).unwrap();
        let lost: Vec<&str> =
            text.lines().filter(|line| line.starts_with("lark_tunnel_lost_total")).collect();
        panic!("{what} was counted {} times, not {least}; of tunnels there are {lost:#?}", count(self));
    }

    /// The stream that was open goes on, another opens on its tunnel, and one on a new tunnel.
    async fn others_are_unharmed(&mut self) {
        echoes(&mut self.open).await;
        echoes(&mut self.neighbour.connect().await.0).await;
        let store = self.authority.store("web", |_| ());
        let newcomer = Client::new(store, self.node.address, quick()).await;
        echoes(&mut newcomer.connect().await.0).await;
    }

    /// The most memory that this process has had, in bytes.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// How much more memory the process has had than before the attacks, theirs included.
    fn grown(&self) -> u64 {
        self.peak() - self.memory
    }
}
