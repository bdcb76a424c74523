//! What comes in one piece with the last bytes of a handshake, or instead of them: rustls makes the handshake, and
//! everything behind it is ours.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use lark_core::reason::Reason;
use lark_core::spread::Pair;
use lark_testbed::hostile::{END, frame, kind};
use lark_tunnel::TunnelSettings;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ends::{
    Client, Node, Seen, World, acceptor, config, echo, echoes, id, on_worker, quick, to, until, watched,
};

/// A client that says what it likes, when it likes.
pub(crate) struct Slow {
    pub(crate) tls: ClientConnection,
    pub(crate) socket: TcpStream,
    heard: Vec<u8>,
}

impl Slow {
    async fn new(world: &World, node: SocketAddr) -> Self {
        Self::with(config(&world.store(&["web"]), "web"), node).await
    }

    pub(crate) async fn with(config: ClientConfig, node: SocketAddr) -> Self {
        let name = ServerName::try_from(lark_tunnel::name::server_name(&id("db"))).unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        tls.set_buffer_limit(None);
        Self { tls, socket: TcpStream::connect(node).await.unwrap(), heard: Vec::new() }
    }

    /// All that waits, in one piece.
    pub(crate) fn waiting(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        out
    }

    pub(crate) async fn send(&mut self) {
        let out = self.waiting();
        self.socket.write_all(&out).await.unwrap();
    }

    pub(crate) async fn receive(&mut self) {
        let mut bytes = [0; 4096];
        let count = self.socket.read(&mut bytes).await.unwrap();
        assert_ne!(count, 0, "the other end closed");
        let mut bytes = &bytes[..count];
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).unwrap();
            self.tls.process_new_packets().unwrap();
            match self.tls.reader().read_to_end(&mut self.heard) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                read => drop(read.unwrap()),
            }
        }
    }

    /// Up to the last flight, which waits.
    pub(crate) async fn shakes_hands(&mut self) {
        while self.tls.is_handshaking() {
            self.send().await;
            self.receive().await;
        }
        assert!(self.tls.wants_write());
    }

    /// What begins a connection of HTTP/2, and a first question.
    pub(crate) fn says_hello(&mut self, ping: &[u8]) {
        self.says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        self.says(&frame(kind::SETTINGS, 0, 0, &[]));
        self.says(&frame(kind::PING, 0, 0, ping));
    }

    pub(crate) fn says(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
    }

    /// Reads until that many bytes are there.
    pub(crate) async fn hears(&mut self, count: usize) -> Vec<u8> {
        while self.heard.len() < count {
            self.receive().await;
        }
        self.heard.drain(..count).collect()
    }
}

/// A node that is watched.
pub(crate) async fn node(world: &World) -> (Node, Rc<Seen>) {
    let seen = Rc::<Seen>::default();
    let acceptor = watched(world.store(&["db"]), quick(), seen.clone());
    (Node::new(acceptor, to(echo().await)).await, seen)
}

/// Behind the flight, whole records and the beginning of one; both are answered.
async fn speaks_with_the_last_flight(client: &mut Slow) {
    client.says_hello(b"together");
    let mut together = client.waiting();
    client.says(&frame(kind::PING, 0, 0, b"cut here"));
    let cut = client.waiting();
    together.extend_from_slice(&cut[..9]);
    client.socket.write_all(&together).await.unwrap();
    heard(client, b"together").await;
    client.socket.write_all(&cut[9..]).await.unwrap();
    heard(client, b"cut here").await;
}

#[test]
fn frames_that_come_with_the_last_flight_are_taken() {
    on_worker(async {
        let world = World::new();
        let (node, seen) = node(&world).await;
        let mut client = Slow::new(&world, node.address).await;
        client.shakes_hands().await;
        speaks_with_the_last_flight(&mut client).await;
        assert_eq!((seen.handshakes(), seen.failures()), (1, 0));
    });
}

#[test]
fn another_worker_carries_what_one_has_accepted_with_what_came_behind_the_last_flight() {
    on_worker(async {
        let world = World::new();
        let application = echo().await;
        let (accepted, mut proved) = tokio::sync::mpsc::unbounded_channel();
        let (ours, theirs) = (world.store(&["db"]), world.store(&["db"]));
        let other = std::thread::spawn(move || {
            on_worker(async move {
                let acceptor = acceptor(theirs, quick());
                while let Some(proved) = proved.recv().await {
                    let (acceptor, deliver) = (acceptor.clone(), to(application));
                    // It ends by the peer's leaving, in whichever way.
                    tokio::task::spawn_local(async move { acceptor.carry(proved, deliver).await });
                }
            });
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::task::spawn_local(async move {
            let acceptor = acceptor(ours, quick());
            loop {
                let (socket, peer) = listener.accept().await.unwrap();
                let proved = acceptor.accept(socket, peer).await.unwrap();
                let pair = Pair { node: peer.ip(), client: id("web"), server: id("db") };
                assert_eq!(proved.pair(), pair);
                accepted.send(proved).unwrap();
            }
        });
        let mut client = Slow::new(&world, address).await;
        client.shakes_hands().await;
        speaks_with_the_last_flight(&mut client).await;
        // And streams.
        let dialling = Client::new(world.store(&["web"]), address, quick()).await;
        let (mut application, ..) = dialling.connect().await;
        echoes(&mut application).await;
        accepting.abort();
        let _ = accepting.await;
        tokio::task::spawn_blocking(move || other.join().unwrap()).await.unwrap();
    });
}

#[test]
fn a_worker_that_has_as_many_tunnels_as_it_takes_refuses_one_from_another() {
    on_worker(async {
        let world = World::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepts, carries) = (Rc::<Seen>::default(), Rc::<Seen>::default());
        let accepting = watched(world.store(&["db"]), quick(), accepts.clone());
        let few = TunnelSettings { tunnels_max: 1, ..quick() };
        let carrying = watched(world.store(&["db"]), few, carries.clone());
        let deliver = to(echo().await);
        let mut open = Vec::new();
        for n in 0..2 {
            let mut client = Slow::new(&world, address).await;
            let (socket, peer) = listener.accept().await.unwrap();
            let accepting = accepting.clone();
            let proved = tokio::task::spawn_local(async move { accepting.accept(socket, peer).await });
            client.shakes_hands().await;
            client.send().await;
            let proved = proved.await.unwrap().unwrap();
            let (carrying, deliver) = (carrying.clone(), deliver.clone());
            let carried = tokio::task::spawn_local(async move { carrying.carry(proved, deliver).await });
            if n == 0 {
                // It goes on, and is what the worker has.
                until(|| carries.handshakes() == 1).await;
                open.push(client);
            } else {
                let refused = carried.await.unwrap().unwrap_err();
                assert_eq!(refused.reason(), Reason::LimitReached, "{refused}");
            }
        }
        // One outcome of each connection, at whoever was to carry it.
        assert_eq!((carries.handshakes(), carries.failures()), (1, 1));
        assert_eq!((accepts.handshakes(), accepts.failures()), (0, 0));
    });
}

/// Waits for the answer to a PING.
pub(crate) async fn heard(client: &mut Slow, ping: &[u8]) {
    loop {
        let header = client.hears(9).await;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let payload = client.hears(usize::try_from(length).unwrap()).await;
        if (header[3], header[4]) == (kind::PING, END) && payload == ping {
            return;
        }
    }
}

#[test]
fn new_keys_that_are_asked_for_with_the_last_flight_are_taken_and_given() {
    on_worker(async {
        let world = World::new();
        let (node, _) = node(&world).await;
        let mut client = Slow::new(&world, node.address).await;
        client.shakes_hands().await;
        client.tls.refresh_traffic_keys().unwrap();
        client.says_hello(b"new keys");
        client.send().await;
        heard(&mut client, b"new keys").await;
        // Those that we gave for it.
        client.says(&frame(kind::PING, 0, 0, b"and more"));
        client.send().await;
        heard(&mut client, b"and more").await;
    });
}

#[test]
fn a_goodbye_with_the_last_flight_is_a_tunnel_that_closed() {
    on_worker(async {
        let world = World::new();
        let (node, seen) = node(&world).await;
        let mut client = Slow::new(&world, node.address).await;
        client.shakes_hands().await;
        client.tls.send_close_notify();
        client.send().await;
        until(|| seen.closed() == 1).await;
        assert_eq!((seen.handshakes(), seen.failures()), (1, 0));
    });
}

#[test]
fn rubbish_instead_of_the_last_flight_is_a_failure_that_harms_nobody() {
    on_worker(async {
        let world = World::new();
        let (node, seen) = node(&world).await;
        for (number, rubbish) in [
            // Encrypted, by its header.
            [&[23, 3, 3, 0, 20][..], &[7; 20]].concat(),
            // A record too long, a record of no kind, and a client that forgets what it does.
            vec![23, 3, 3, 0xff, 0xff],
            vec![99, 3, 3, 0, 1, 0],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ]
        .into_iter()
        .enumerate()
        {
            let mut client = Slow::new(&world, node.address).await;
            client.send().await;
            client.socket.write_all(&rubbish).await.unwrap();
            until(|| seen.failures() == number + 1).await;
        }
        let client = Client::new(world.store(&["web"]), node.address, quick()).await;
        echoes(&mut client.connect().await.0).await;
    });
}

#[test]
fn a_node_that_speaks_no_tls_is_a_failure_by_name() {
    on_worker(async {
        let world = World::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                tokio::task::spawn_local(async move { socket.read(&mut [0; 4096]).await });
            }
        });
        let client = Client::new(world.store(&["web"]), node, quick()).await;
        let (_socket, _, ended) = client.connect().await;
        let refusal = ended.await.unwrap().refusal.unwrap();
        assert_eq!(refusal.reason, Reason::TunnelHandshake, "{refusal}");
        assert!(refusal.detail.contains("not_our_tls"), "{refusal}");
    });
}
