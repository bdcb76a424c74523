//! After a restart everything is wanted at once.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use lark_core::framing::ConnectRequest;
use lark_core::reason::Reason;
use lark_tunnel::{
    Acceptor, Carried, Deliver, Delivery, Dialer, Inbound, PoolKey, Refusal, Traffic, TunnelSettings,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ends::{Local, Node, Seen, World, accept, domain, echo, id, on_worker, quick, sockets, until};

const ACCOUNTS: usize = 32;

/// Delivers whatever comes.
struct Anything(SocketAddr);

impl Deliver for Anything {
    fn deliver(&self, _: Inbound) -> std::pin::Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>> {
        let application = self.0;
        Box::pin(async move {
            let pod = TcpStream::connect(application).await.unwrap();
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
fn a_thousand_handshakes_at_once_are_paced_and_none_is_lost() {
    lark_sys::socket::raise_descriptor_limit();
    on_worker(async {
        let world = World::new();
        let accounts = |kind: &str| (0..ACCOUNTS).map(|n| format!("{kind}-{n}")).collect::<Vec<_>>();
        let (sources, destinations) = (accounts("client"), accounts("server"));
        let store =
            |accounts: &[String]| world.store(&accounts.iter().map(String::as_str).collect::<Vec<_>>());
        let paced = TunnelSettings { dials_max: 16, ..quick() };
        // A node's share of these is what the other end does at a time: whoever did more would be refused.
        let strict = TunnelSettings { handshakes_max: 4 * paced.dials_max, ..quick() };
        let ids = destinations.iter().map(|account| id(account)).collect();
        let acceptor = Acceptor::new(
            store(&destinations),
            domain(),
            Rc::new(Local(ids)),
            strict,
            Rc::new(Seen::default()),
        );
        let node = Node::new(acceptor, Rc::new(Anything(echo().await))).await;
        let seen = Rc::new(Seen::default());
        let dialer = Dialer::new(store(&sources), paced, seen.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pairs = sources.iter().flat_map(|source| destinations.iter().map(move |to| (source, to)));
        let mut applications = Vec::new();
        for (source, destination) in pairs {
            let application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (pod, _) = listener.accept().await.unwrap();
            let key = PoolKey { source: id(source), destination: id(destination), node: node.address };
            let request = ConnectRequest {
                authority: ([10, 0, 0, 2], 80).into(),
                source: ([10, 0, 0, 1], 4242).into(),
                host: None,
            };
            let dialer = dialer.clone();
            let carried = Box::new(Carried::new(key, request, pod, Traffic::default()));
            tokio::task::spawn_local(async move { dialer.carry(carried, |_| {}).await });
            applications.push(application);
        }
        for (n, application) in applications.iter_mut().enumerate() {
            application.write_all(&n.to_be_bytes()).await.unwrap();
        }
        for (n, application) in applications.iter_mut().enumerate() {
            let mut answer = [0; size_of::<usize>()];
            application.read_exact(&mut answer).await.unwrap();
            assert_eq!(usize::from_be_bytes(answer), n);
        }
        assert_eq!((seen.handshakes(), seen.failures()), (ACCOUNTS * ACCOUNTS, 0));
    });
}

/// Accepts, and never says a word; tells how many wait for one at once.
async fn silent(at_once: Rc<Cell<usize>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = Rc::new(Cell::new(0));
    tokio::task::spawn_local(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (open, at_once) = (open.clone(), at_once.clone());
            open.set(open.get() + 1);
            at_once.set(at_once.get().max(open.get()));
            tokio::task::spawn_local(async move {
                let _end = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
                open.set(open.get() - 1);
            });
        }
    });
    address
}

#[test]
fn nodes_that_do_not_answer_take_no_turns_from_others() {
    on_worker(async {
        let world = World::new();
        let sources: Vec<String> =
            ["web".to_owned()].into_iter().chain((1..12).map(|n| format!("client-{n}"))).collect();
        let store = world.store(&sources.iter().map(String::as_str).collect::<Vec<_>>());
        let settings =
            TunnelSettings { dials_max: 8, handshake_timeout: Duration::from_millis(300), ..quick() };
        let seen = Rc::new(Seen::default());
        let dialer = Dialer::new(store, settings, seen.clone());
        let at_once = Rc::new(Cell::new(0));
        let gone = silent(at_once.clone()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let healthy = accept(world.store(&["db"]), listener.local_addr().unwrap(), quick()).await;
        let carry = async |source: &str, node: SocketAddr| {
            let (application, pod) = sockets().await;
            let key = PoolKey { source: id(source), destination: id("db"), node };
            let request = ConnectRequest {
                authority: ([10, 0, 0, 2], 80).into(),
                source: ([10, 0, 0, 1], 4242).into(),
                host: None,
            };
            let carried = Box::new(Carried::new(key, request, pod, Traffic::default()));
            let dialer = dialer.clone();
            (application, tokio::task::spawn_local(async move { dialer.carry(carried, |_| {}).await }))
        };
        // Each source tries again and again, as applications do.
        for source in &sources {
            let (source, carry) = (source.clone(), &carry);
            let (_application, ended) = carry(&source, gone).await;
            drop(ended);
        }
        // Already now a healthy one waits for no more than those that are being asked.
        let (_application, _ended) = carry("web", healthy).await;
        let _first = listener.accept().await.unwrap();
        assert!(seen.failures() <= 8, "{}", seen.failures());
        until(|| seen.failures() >= 8).await;
        assert_eq!(at_once.get(), 8);
        at_once.set(0);
        for _ in 0..3 {
            let mut tried = Vec::new();
            for source in &sources {
                tried.push(carry(source, gone).await);
            }
            // Meanwhile too.
            let (mut application, _ended) = carry("web", healthy).await;
            application.write_all(b"hello").await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            server.read_exact(&mut [0; 5]).await.unwrap();
            for (_application, ended) in tried {
                assert_eq!(ended.await.unwrap().refusal.unwrap().reason, Reason::TunnelUnreachable);
            }
        }
        assert_eq!(at_once.get(), 1);
    });
}
