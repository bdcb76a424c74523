//! Requests that are given up or left unanswered, on each way that a connection can take: both of a tunnel's ends
//! and a joined connection tell the same of them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lark_core::framing::ConnectRequest;
use lark_core::recognise::{Event, Outcome};
use lark_sys::connections::destroy;
use lark_sys::socket::reset_on_close;
use lark_tunnel::{Carried, Deliver, Delivery, Ended, Inbound, PoolKey, Refusal, Traffic, join};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::ends::{Client, Node, World, acceptor, held, id, on_worker, quick, sockets, until};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const BEGUN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";

/// How the requests of a connection ended, by the words of the metrics.
#[derive(Clone, Default)]
struct Told(Rc<RefCell<Vec<String>>>);

impl Told {
    fn traffic(&self) -> Traffic {
        let told = self.0.clone();
        Traffic::recognised(Arc::default(), move |event: Event| {
            if let Some((outcome, _)) = Outcome::of(&event) {
                let word = format!("{} {}", outcome.status(), outcome.judgement());
                told.borrow_mut().push(word);
            }
        })
    }
}

/// Delivers the one end of each pair of sockets that is put here.
struct ToSockets(RefCell<Vec<TcpStream>>, Told);

impl Deliver for ToSockets {
    fn deliver(&self, _: Inbound) -> Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>> {
        let pod = self.0.borrow_mut().pop().unwrap().into();
        let traffic = self.1.traffic();
        Box::pin(async {
            // Whoever says little says all of it before.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(Delivery { pod, traffic, would_deny: None, on_end: Box::new(|_| {}) })
        })
    }
}

/// A connection on its way, the agent's sockets by their addresses.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    near: (SocketAddr, SocketAddr),
    ended: JoinHandle<Ended>,
}

/// Two agents, and what each of them tells.
struct Tunnelled {
    dialling: Client,
    deliver: Rc<ToSockets>,
    told: [Told; 2],
}

fn addresses(socket: &TcpStream) -> (SocketAddr, SocketAddr) {
    (socket.local_addr().unwrap(), socket.peer_addr().unwrap())
}

impl Tunnelled {
    async fn new() -> Self {
        let told = [Told::default(), Told::default()];
        let world = World::new();
        let deliver = Rc::new(ToSockets(RefCell::default(), told[1].clone()));
        let node = Node::new(acceptor(world.store(&["db"]), quick()), deliver.clone()).await;
        let dialling = Client::new(world.store(&["web"]), node.address, quick()).await;
        Self { dialling, deliver, told }
    }

    async fn connect(&self) -> Connection {
        let ((client, near), (far, server)) = (sockets().await, sockets().await);
        self.deliver.0.borrow_mut().push(far);
        let key = PoolKey { source: id("web"), destination: id("db"), node: self.dialling.node };
        let request = ConnectRequest {
            authority: SocketAddr::from(([10, 0, 0, 2], 80)),
            source: SocketAddr::from(([10, 0, 0, 1], 4242)),
            host: None,
        };
        let addresses = addresses(&near);
        let carried = Box::new(Carried::new(key, request, near, self.told[0].traffic()));
        let dialer = self.dialling.dialer.clone();
        let ended = tokio::task::spawn_local(async move { dialer.carry(carried, |_| {}).await });
        Connection { client, server, near: addresses, ended }
    }
}

async fn joined(told: &Told) -> Connection {
    let ((client, near), (far, server)) = (sockets().await, sockets().await);
    let addresses = addresses(&near);
    let ended = tokio::task::spawn_local(join(near.into(), far.into(), told.traffic(), held()));
    Connection { client, server, near: addresses, ended }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// The client closes when it has read some of the answer; the server closes when it sees that.
    ClosedByClient,
    /// The client resets while it waits.
    ResetByClient,
    /// The client says that it asks no more, and waits; the server closes without an answer.
    LeftUnanswered,
    /// The server closes in the middle of its answer.
    ClosedByServer,
    /// The server resets in the middle of its answer.
    ResetByServer,
    /// The agent ends the connection, as policies have it.
    Destroyed,
}

async fn lead(fate: Fate, connection: Connection) {
    let Connection { mut client, mut server, near, ended } = connection;
    client.write_all(GET).await.unwrap();
    server.read_exact(&mut [0; GET.len()]).await.unwrap();
    if matches!(fate, Fate::ClosedByClient | Fate::ClosedByServer | Fate::ResetByServer) {
        server.write_all(BEGUN).await.unwrap();
        client.read_exact(&mut [0; BEGUN.len()]).await.unwrap();
    }
    match fate {
        Fate::ClosedByClient => {
            drop(client);
            assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
            drop(server);
        }
        Fate::ResetByClient => {
            reset_on_close(&client);
            drop(client);
            server.read(&mut [0]).await.unwrap_err();
        }
        Fate::LeftUnanswered => {
            client.shutdown().await.unwrap();
            assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
            drop(server);
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        }
        Fate::ClosedByServer => {
            drop(server);
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            drop(client);
        }
        Fate::ResetByServer => {
            reset_on_close(&server);
            drop(server);
            client.read(&mut [0]).await.unwrap_err();
        }
        Fate::Destroyed => {
            assert!(destroy(near.0, near.1).unwrap(), "no such connection");
            client.read(&mut [0]).await.unwrap_err();
            server.read(&mut [0]).await.unwrap_err();
        }
    }
    ended.await.unwrap();
}

/// What is led there on both ways is told as this, by everybody.
async fn told_as<L: Future<Output = ()>>(
    expected: &str,
    tunnelled: &Tunnelled,
    lead: impl Fn(Connection) -> L,
) {
    let within = Told::default();
    lead(tunnelled.connect().await).await;
    lead(joined(&within).await).await;
    let [source, destination] = &tunnelled.told;
    for (told, whose) in [(source, "source"), (destination, "destination"), (&within, "joined")] {
        // The other agent may hear of the end later.
        until(|| !told.0.borrow().is_empty()).await;
        assert_eq!(told.0.take(), [expected], "{whose}");
    }
}

#[test]
fn what_clients_give_up_is_no_failure_and_what_servers_leave_unanswered_is() {
    on_worker(async {
        let tunnelled = Tunnelled::new().await;
        for (fate, expected) in [
            (Fate::ClosedByClient, "client_closed abandoned"),
            (Fate::ResetByClient, "client_closed abandoned"),
            (Fate::LeftUnanswered, "closed failure"),
            (Fate::ClosedByServer, "closed failure"),
            (Fate::ResetByServer, "closed failure"),
            (Fate::Destroyed, "closed failure"),
        ] {
            told_as(expected, &tunnelled, |connection| lead(fate, connection)).await;
        }
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_request_gives_up_also_before_it_is_delivered() {
    on_worker(async {
        let leave = async |connection: Connection| {
            let Connection { mut client, mut server, ended, .. } = connection;
            client.write_all(&GET[..20]).await.unwrap();
            drop(client);
            server.read_to_end(&mut Vec::new()).await.unwrap();
            drop(server);
            ended.await.unwrap();
        };
        told_as("client_closed abandoned", &Tunnelled::new().await, leave).await;
    });
}
