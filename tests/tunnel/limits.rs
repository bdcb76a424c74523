//! What is bounded, and what happens at the bound.

use std::cell::Cell;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use lark_core::framing;
use lark_core::quota::Full;
use lark_core::reason::Reason;
use lark_tunnel::{
    Deliver, Delivery, End, HandshakeError, Inbound, Refusal, ServeError, Traffic, TunnelSettings,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::ends::{
    Client, Node, World, accept, acceptor, echo, echoes, node, on_worker, quick, sockets, until,
};

/// Delivers when it is let, or refuses.
pub(crate) struct Gate {
    pub(crate) go: Rc<Notify>,
    pub(crate) result: fn() -> Result<(), Refusal>,
    pub(crate) begun: Cell<usize>,
}

impl Gate {
    pub(crate) fn new(result: fn() -> Result<(), Refusal>) -> Rc<Self> {
        Rc::new(Self { go: Rc::default(), result, begun: Cell::new(0) })
    }
}

impl Deliver for Gate {
    fn deliver(&self, _: Inbound) -> Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>> {
        self.begun.set(self.begun.get() + 1);
        let (go, result) = (self.go.clone(), self.result);
        Box::pin(async move {
            go.notified().await;
            result()?;
            let (pod, mut application) = sockets().await;
            tokio::task::spawn_local(async move {
                let (mut read, mut write) = application.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            Ok(Delivery {
                pod: pod.into(),
                traffic: Traffic::default(),
                would_deny: None,
                on_end: Box::new(|_| {}),
            })
        })
    }
}

#[test]
fn a_full_tunnel_gets_another_beside_it() {
    on_worker(async {
        let world = World::new();
        let few = framing::Settings { max_streams: 3, ..framing::Settings::default() };
        let settings = TunnelSettings { framing: few, ..quick() };
        let node = accept(world.store(&["db"]), echo().await, settings).await;
        let two = TunnelSettings { tunnels_a_key: 2, ..quick() };
        let client = Client::new(world.store(&["web"]), node, two).await;
        let mut open = Vec::new();
        for _ in 0..6 {
            let (mut socket, _, ended) = client.connect().await;
            echoes(&mut socket).await;
            open.push((socket, ended));
        }
        assert_eq!((client.seen.handshakes(), client.dialer.tunnels()), (2, 2));
        let (mut socket, _, ended) = client.connect().await;
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(ended.await.unwrap().refusal.unwrap().reason, Reason::LimitReached);
        // A stream that ends makes room.
        let (socket, ended) = open.remove(0);
        drop(socket);
        assert_eq!(ended.await.unwrap().how, End::Clean);
        echoes(&mut client.connect().await.0).await;
        assert_eq!(client.seen.handshakes(), 2);
    });
}

#[test]
fn streams_that_come_together_share_one_handshake_and_its_failure() {
    on_worker(async {
        let world = World::new();
        let address = accept(world.store(&["db"]), echo().await, quick()).await;
        let client = Client::new(world.store(&["web"]), address, quick()).await;
        let mut open = Vec::new();
        for _ in 0..50 {
            open.push(client.connect().await);
        }
        for (socket, _, _) in &mut open {
            echoes(socket).await;
        }
        assert_eq!((client.seen.handshakes(), client.seen.failures()), (1, 0));
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let client = Client::new(world.store(&["web"]), nobody, quick()).await;
        let mut open = Vec::new();
        for _ in 0..20 {
            open.push(client.connect().await);
        }
        for (_, _, ended) in open {
            assert_eq!(ended.await.unwrap().refusal.unwrap().reason, Reason::TunnelUnreachable);
        }
        assert_eq!((client.seen.handshakes(), client.seen.failures()), (0, 1));
    });
}

#[test]
fn deliveries_under_way_are_bounded() {
    on_worker(async {
        let world = World::new();
        let settings = TunnelSettings { deliveries_max: 2, ..quick() };
        let gate = Gate::new(|| Ok(()));
        let node = Node::new(acceptor(world.store(&["db"]), settings), gate.clone()).await;
        let client = Client::new(world.store(&["web"]), node.address, quick()).await;
        let (mut first, _, _) = client.connect().await;
        let (mut second, _, _) = client.connect().await;
        first.write_all(b"x").await.unwrap();
        until(|| gate.begun.get() == 2).await;
        let (_third, _, ended) = client.connect().await;
        assert_eq!(ended.await.unwrap().refusal.unwrap().reason, Reason::LimitReached);
        gate.go.notify_one();
        gate.go.notify_one();
        first.read_exact(&mut [0; 1]).await.unwrap();
        echoes(&mut second).await;
    });
}

#[test]
fn tunnels_are_bounded_and_closed_ones_make_room() {
    on_worker(async {
        let world = World::new();
        let settings = TunnelSettings { tunnels_max: 1, ..quick() };
        let mut node = node(world.store(&["db"]), echo().await, settings).await;
        let first = Client::new(world.store(&["web"]), node.address, quick()).await;
        let (mut socket, _, ended) = first.connect().await;
        echoes(&mut socket).await;
        let second = Client::new(world.store(&["web"]), node.address, quick()).await;
        let (_refused, _, failed) = second.connect().await;
        assert_eq!(failed.await.unwrap().refusal.unwrap().reason, Reason::TunnelHandshake);
        assert!(matches!(
            node.error().await,
            ServeError::TooMany { what: "tunnels", full: Full::All(1), .. }
        ));
        drop(socket);
        ended.await.unwrap();
        first.dialer.drain();
        let acceptor = node.acceptor.borrow().clone();
        until(|| acceptor.tunnels() == 0).await;
        let third = Client::new(world.store(&["web"]), node.address, quick()).await;
        echoes(&mut third.connect().await.0).await;
    });
}

#[test]
fn whoever_says_nothing_gets_no_handshake_for_ever() {
    on_worker(async {
        let world = World::new();
        let settings =
            TunnelSettings { handshake_timeout: Duration::from_millis(200), handshakes_max: 1, ..quick() };
        let mut node = node(world.store(&["db"]), echo().await, settings.clone()).await;
        let mut mute = TcpStream::connect(node.address).await.unwrap();
        tokio::task::yield_now().await;
        let _another = TcpStream::connect(node.address).await.unwrap();
        assert!(matches!(
            node.error().await,
            ServeError::TooMany { what: "handshakes", full: Full::All(1), .. }
        ));
        assert!(matches!(node.error().await, ServeError::TimedOut { .. }));
        assert_eq!(mute.read(&mut [0; 1]).await.unwrap(), 0);
        // And an agent that says nothing is not waited for either.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(world.store(&["web"]), silent.local_addr().unwrap(), settings).await;
        let refusal = client.connect().await.2.await.unwrap().refusal.unwrap();
        assert_eq!(refusal.reason, Reason::TunnelUnreachable, "{refusal}");
    });
}

#[test]
fn a_name_of_nobody_is_told_so_by_an_alert() {
    on_worker(async {
        let world = World::new();
        let mut node = node(world.store(&["db"]), echo().await, quick()).await;
        let client = Client::new(world.store(&["web"]), node.address, quick()).await;
        let (mut socket, _, ended) = client.connect_to("cache", 80).await;
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let refusal = ended.await.unwrap().refusal.unwrap();
        assert_eq!(refusal.reason, Reason::TunnelHandshake);
        assert!(refusal.detail.contains("unrecognized_name"), "{refusal}");
        let name = lark_tunnel::name::server_name(&crate::ends::id("cache"));
        match node.error().await {
            ServeError::Handshake { why: HandshakeError::UnknownName { name: found }, .. } => {
                assert_eq!(found, name);
            }
            other => panic!("{other}"),
        }
    });
}
