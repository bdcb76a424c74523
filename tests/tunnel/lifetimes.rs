//! Tunnels that age, drain, idle, expire or lose their root: no stream is lost by it, none goes where
//! it must not.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use lark_core::reason::Reason;
use lark_identity::store::issue_directly;
use lark_identity::{SvidStore, TrustBundle};
use lark_testbed::Record;
use lark_tunnel::{Deliver, Delivery, End, Ended, Inbound, Refusal, Traffic, TunnelSettings};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ends::{
    Client, DAY, Node, World, acceptor, echo, echoes, id, node, on_worker, quick, sockets, until,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A store whose clock can be moved, with certificates of an hour.
pub(crate) fn store(world: &World, account: &str) -> (SvidStore, Arc<AtomicU64>) {
    let ahead = Arc::new(AtomicU64::new(0));
    let clock = ahead.clone();
    let now = move || SystemTime::now() + Duration::from_secs(clock.load(Ordering::Relaxed));
    let store = SvidStore::new(world.bundle(), Arc::new(now));
    issue(world, &store, account, HOUR);
    (store, ahead)
}

fn issue(world: &World, store: &SvidStore, account: &str, life: Duration) {
    let svid = issue_directly(&world.ca, &id(account), life, &world.bundle(), SystemTime::now()).unwrap();
    store.put(svid);
}

async fn refused(client: &Client) -> Box<Refusal> {
    client.connect().await.2.await.unwrap().refusal.expect("nothing was refused")
}

#[test]
fn a_stream_that_meets_a_draining_tunnel_goes_to_another_with_its_first_bytes() {
    on_worker(async {
        let mut record = Record::of("a tunnel told to drain (GOAWAY) meets a new stream").unwrap();
        let world = World::new();
        let node = node(world.store(&["db"]), echo().await, quick()).await;
        let client = Client::new(world.store(&["web"]), node.address, quick()).await;
        let (mut stays, _, stays_ended) = client.connect().await;
        echoes(&mut stays).await;
        let old = node.acceptor.replace(acceptor(world.store(&["db"]), quick()));
        old.drain();
        // The dialling end cannot know yet, so this one is on its way on the old tunnel.
        let (mut moves, counters, moves_ended) = client.connect().await;
        moves.write_all(b"early ").await.unwrap();
        moves.shutdown().await.unwrap();
        let mut answer = Vec::new();
        moves.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"early ");
        let ended = moves_ended.await.unwrap();
        assert_eq!(ended, Ended { established: true, how: End::Clean, refusal: None });
        assert_eq!((counters.sent(), counters.received()), (6, 6));
        assert_eq!(client.seen.handshakes(), 2);
        // Whoever is open on the old one finishes there.
        echoes(&mut stays).await;
        assert_eq!(old.tunnels(), 1);
        drop(stays);
        assert_eq!(stays_ended.await.unwrap().how, End::Clean);
        until(|| old.tunnels() == 0).await;
        record.injected(1);
        record.compared("early ping ping".len());
        record.write("the new stream on a second tunnel, the open one finished on the first").unwrap();
    });
}

#[test]
fn an_aged_tunnel_takes_no_more_and_ends_with_its_last_stream() {
    on_worker(async {
        let mut record = Record::of("a tunnel reaches its greatest age").unwrap();
        let world = World::new();
        let node = node(world.store(&["db"]), echo().await, quick()).await;
        let young = TunnelSettings { max_age: Duration::from_millis(500), ..quick() };
        let client = Client::new(world.store(&["web"]), node.address, young).await;
        let (mut first, _, ended) = client.connect().await;
        echoes(&mut first).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let (mut second, _, _) = client.connect().await;
        echoes(&mut second).await;
        assert_eq!(client.seen.handshakes(), 2);
        echoes(&mut first).await;
        drop(first);
        assert_eq!(ended.await.unwrap().how, End::Clean);
        until(|| client.seen.closed() == 1).await;
        record.injected(1);
        record.compared("ping ping ping".len());
        record.write("the next stream on a second tunnel, the first closed by its last stream").unwrap();
    });
}

#[test]
fn an_idle_tunnel_is_closed_and_the_next_stream_opens_another() {
    on_worker(async {
        let world = World::new();
        let node = node(world.store(&["db"]), echo().await, quick()).await;
        let settings =
            TunnelSettings { idle: Duration::from_millis(50), keepalive: Duration::from_secs(1), ..quick() };
        let client = Client::new(world.store(&["web"]), node.address, settings).await;
        let (mut socket, _, ended) = client.connect().await;
        echoes(&mut socket).await;
        drop(socket);
        ended.await.unwrap();
        until(|| client.dialer.tunnels() == 0 && client.seen.closed() == 1).await;
        let acceptor = node.acceptor.borrow().clone();
        until(|| acceptor.tunnels() == 0).await;
        echoes(&mut client.connect().await.0).await;
        assert_eq!(client.seen.handshakes(), 2);
    });
}

#[test]
fn an_expired_certificate_is_refused_by_whoever_knows() {
    on_worker(async {
        let mut record = Record::of("SVID expired, at either end").unwrap();
        let world = World::new();
        // The client's clock is ahead: to it, db's certificate has expired.
        let (theirs, _) = store(&world, "db");
        let (ours, ahead) = store(&world, "web");
        issue(&world, &ours, "web", DAY);
        ahead.store(7200, Ordering::Relaxed);
        let first = node(theirs, echo().await, quick()).await;
        let refusal = refused(&Client::new(ours, first.address, quick()).await).await;
        assert_eq!(refusal.reason, Reason::TunnelHandshake);
        assert!(refusal.detail.contains("expired") && refusal.detail.contains("clocks"), "{refusal}");
        // The server's clock is ahead: to it, web's certificate has, and the client is told.
        let (theirs, ahead) = store(&world, "db");
        issue(&world, &theirs, "db", DAY);
        ahead.store(7200, Ordering::Relaxed);
        let mut second = node(theirs, echo().await, quick()).await;
        let (ours, _) = store(&world, "web");
        let refusal = refused(&Client::new(ours, second.address, quick()).await).await;
        assert!(refusal.detail.contains("certificate_expired"), "{refusal}");
        let said = second.error().await.to_string();
        assert!(said.contains("expired") && said.contains("clocks"), "{said}");
        record.injected(2);
        record.write("2 of 2 reset for tunnel_handshake: expired, compare the clocks").unwrap();
    });
}

/// A store whose clock, and whose CA's clock, are an hour ahead of the other's.
fn of_an_hour_later(world: &World, account: &str) -> SvidStore {
    let (store, ahead) = store(world, account);
    ahead.store(3600, Ordering::Relaxed);
    let then = SystemTime::now() + HOUR;
    store.put(issue_directly(&world.ca, &id(account), DAY, &world.bundle(), then).unwrap());
    store
}

#[test]
fn a_peer_that_lives_an_hour_later_is_refused_and_the_clocks_are_named() {
    on_worker(async {
        let world = World::new();
        let mut behind = node(world.store(&["db"]), echo().await, quick()).await;
        let ahead = Client::new(of_an_hour_later(&world, "web"), behind.address, quick()).await;
        let refusal = refused(&ahead).await;
        assert_eq!(refusal.reason, Reason::TunnelHandshake);
        let said = behind.error().await.to_string();
        assert!(said.contains("valid only in") && said.contains("clocks"), "{said}");
        let ahead = node(of_an_hour_later(&world, "db"), echo().await, quick()).await;
        let refusal = refused(&Client::new(world.store(&["web"]), ahead.address, quick()).await).await;
        assert!(refusal.detail.contains("valid only in") && refusal.detail.contains("clocks"), "{refusal}");
    });
}

#[test]
fn no_stream_goes_on_a_tunnel_whose_certificate_expired() {
    on_worker(async {
        let mut record = Record::of("an SVID expires under an open tunnel").unwrap();
        let world = World::new();
        let (theirs, their_clock) = store(&world, "db");
        let (ours, our_clock) = store(&world, "web");
        let node = node(theirs.clone(), echo().await, quick()).await;
        let client = Client::new(ours.clone(), node.address, quick()).await;
        let (mut stays, _, _) = client.connect().await;
        echoes(&mut stays).await;
        // The accepting end finds out first; the stream goes to a new tunnel with renewed certificates.
        their_clock.store(7200, Ordering::Relaxed);
        issue(&world, &theirs, "db", DAY);
        issue(&world, &ours, "web", DAY);
        echoes(&mut client.connect().await.0).await;
        assert_eq!(client.seen.handshakes(), 2);
        // The dialling end finds out, and has nothing new.
        our_clock.store(2 * 24 * 3600, Ordering::Relaxed);
        let refusal = refused(&client).await;
        assert_eq!(refusal.reason, Reason::SourceSvidMissing, "{refusal}");
        // What is open goes on.
        echoes(&mut stays).await;
        record.injected(2);
        record.compared("ping ping ping".len());
        record.write("a new tunnel where there was a new SVID, else reset; the open stream went on").unwrap();
    });
}

#[test]
fn no_stream_goes_on_a_tunnel_whose_root_is_gone() {
    on_worker(async {
        let mut record = Record::of("a root goes away under an open tunnel").unwrap();
        let (world, other) = (World::new(), World::new());
        for by_client in [true, false] {
            let (theirs, ours) = (world.store(&["db"]), world.store(&["web"]));
            let node = node(theirs.clone(), echo().await, quick()).await;
            let client = Client::new(ours.clone(), node.address, quick()).await;
            let (mut stays, _, _) = client.connect().await;
            echoes(&mut stays).await;
            (if by_client { &ours } else { &theirs }).set_bundle(other.bundle());
            let refusal = refused(&client).await;
            assert_eq!(refusal.reason, Reason::TunnelHandshake, "{refusal}");
            let expected = if by_client { "does not chain to an accepted root" } else { "unknown_ca" };
            assert!(refusal.detail.contains(expected), "{refusal}");
            echoes(&mut stays).await;
            record.injected(1);
            record.compared("ping ping".len());
        }
        record.write("2 of 2 new streams reset for tunnel_handshake; open ones went on").unwrap();
    });
}

/// An address from which connections reach `node`. In the first one `meanwhile` happens between the hellos of both ends,
/// and what the dialling end says behind its own gets on its way if `goes_on`. What is connected counts.
async fn through(
    node: SocketAddr,
    goes_on: bool,
    meanwhile: impl FnOnce() + 'static,
) -> (SocketAddr, Rc<Cell<u32>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connected = Rc::<Cell<u32>>::default();
    let counted = connected.clone();
    tokio::task::spawn_local(async move {
        let mut meanwhile = Some(meanwhile);
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            counted.set(counted.get() + 1);
            let meanwhile = meanwhile.take();
            tokio::task::spawn_local(async move {
                let mut far = TcpStream::connect(node).await.unwrap();
                let goes_on = goes_on || meanwhile.is_none();
                if let Some(meanwhile) = meanwhile {
                    let mut hello = [0; 8192];
                    let read = near.read(&mut hello).await.unwrap();
                    far.write_all(&hello[..read]).await.unwrap();
                    far.readable().await.unwrap();
                    meanwhile();
                }
                if goes_on {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                } else {
                    let _ = tokio::io::copy(&mut far, &mut near).await;
                }
            });
        }
    });
    (address, connected)
}

#[test]
fn a_root_that_goes_away_during_a_handshake_costs_no_connection() {
    on_worker(async {
        let (world, old) = (World::new(), World::new());
        let roots = [world.bundle(), old.bundle()].map(|bundle| bundle.certificates().to_vec()).concat();
        let both = TrustBundle::new(roots).unwrap();
        for by_client in [true, false] {
            let (theirs, ours) = (world.store(&["db"]), world.store(&["web"]));
            theirs.set_bundle(both.clone());
            ours.set_bundle(both.clone());
            let node = node(theirs.clone(), echo().await, quick()).await;
            // Both ends have taken note of what they trust. The dialling end hears nothing before it finds out; the
            // accepting end ends what it has just opened.
            let (changed, left) = (if by_client { ours.clone() } else { theirs }, world.bundle());
            let (address, connected) =
                through(node.address, !by_client, move || changed.set_bundle(left)).await;
            let client = Client::new(ours, address, quick()).await;
            let (mut socket, _, _) = client.connect().await;
            echoes(&mut socket).await;
            assert_eq!((connected.get(), client.seen.failures()), (2, 0), "by client: {by_client}");
            let opened = if by_client { 1 } else { 2 };
            assert_eq!((client.seen.opened(), client.seen.closed()), (opened, opened - 1));
        }
    });
}

/// Delivers to one socket whose buffers hold next to nothing, so that what it does not read waits in
/// the tunnel.
struct Narrow(RefCell<Option<TcpStream>>);

impl Deliver for Narrow {
    fn deliver(&self, _: Inbound) -> Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>> {
        let pod = self.0.take().unwrap();
        Box::pin(async {
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
fn a_slow_reader_gets_everything_although_the_tunnel_ended_long_ago() {
    on_worker(async {
        let world = World::new();
        let (pod, mut destination) = sockets().await;
        SockRef::from(&pod).set_send_buffer_size(4096).unwrap();
        SockRef::from(&destination).set_recv_buffer_size(4096).unwrap();
        let narrow = Rc::new(Narrow(RefCell::new(Some(pod))));
        let node = Node::new(acceptor(world.store(&["db"]), quick()), narrow).await;
        let client = Client::new(world.store(&["web"]), node.address, quick()).await;
        let (mut source, counters, ended) = client.connect().await;
        destination.shutdown().await.unwrap();
        // Less than a stream's window, so the dialling end gets rid of it, and more than the sockets hold.
        let sent: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 239).unwrap()).collect();
        source.write_all(&sent).await.unwrap();
        drop(source);
        assert_eq!(ended.await.unwrap().how, End::Clean);
        client.dialer.drain();
        until(|| client.seen.closed() == 1).await;
        let acceptor = node.acceptor.borrow().clone();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(acceptor.tunnels(), 1, "the accepting end forgot what it has to deliver");
        let mut got = Vec::new();
        destination.read_to_end(&mut got).await.unwrap();
        assert!(got == sent, "{} of {}", got.len(), sent.len());
        assert_eq!(counters.sent(), 200_000);
        until(|| acceptor.tunnels() == 0).await;
    });
}

#[test]
fn a_tunnel_that_was_lost_is_opened_again_before_anybody_asks() {
    on_worker(async {
        let world = World::new();
        let node = node(world.store(&["db"]), echo().await, quick()).await;
        let client = Client::new(world.store(&["web"]), node.address, quick()).await;
        let (mut socket, _, ended) = client.connect().await;
        echoes(&mut socket).await;
        drop(socket);
        ended.await.unwrap();
        let dialer = client.dialer.clone();
        let warm = tokio::task::spawn_local(async move { dialer.keep_warm().await });
        let old = node.acceptor.replace(acceptor(world.store(&["db"]), quick()));
        old.drain();
        until(|| client.seen.handshakes() == 2).await;
        until(|| old.tunnels() == 0).await;
        let (mut socket, _, _) = client.connect().await;
        echoes(&mut socket).await;
        assert_eq!(client.seen.handshakes(), 2, "the stream had to open one");
        warm.abort();
    });
}

#[test]
fn a_carrier_hears_whether_its_tunnel_was_there_and_then_that_it_is_open() {
    on_worker(async {
        let world = World::new();
        let node = node(world.store(&["db"]), echo().await, quick()).await;
        let client = Client::new(world.store(&["web"]), node.address, quick()).await;
        let heard =
            |was_there: bool| [format!("Tunnel {{ was_there: {was_there} }}"), "Opened(None)".to_owned()];
        for was_there in [false, true, true] {
            let (mut socket, _, ended) = client.connect().await;
            echoes(&mut socket).await;
            drop(socket);
            ended.await.unwrap();
            assert_eq!(client.news.take(), heard(was_there));
        }
        client.dialer.drain();
        let (mut socket, ..) = client.connect().await;
        echoes(&mut socket).await;
        assert_eq!(client.news.take(), heard(false));
    });
}
