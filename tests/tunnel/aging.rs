//! What becomes of tunnels by time alone: they end by GOAWAY, and their streams finish on them.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lark_core::reason::Reason;
use lark_testbed::hostile::kind::{DATA, GOAWAY, HEADERS, RST_STREAM};
use lark_testbed::hostile::{END, END_HEADERS, Hostile, connect_to, frame};
use lark_tunnel::{End, TunnelSettings};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::ends::{Client, World, accept, echo, echoes, node, on_worker, quick, raw, until};
use crate::lifetimes::store;

async fn echoed(peer: &mut Hostile, bytes: &[u8]) {
    peer.send(&frame(DATA, 0, 1, bytes)).await.unwrap();
    let answer = peer.next_of(DATA).await.unwrap();
    assert_eq!((answer.stream, answer.payload), (1, bytes.to_vec()));
}

/// A tunnel to an accepting end, with a stream on it; `two_hours` pass by its certificates' clock.
async fn ends_by_goaway(settings: TunnelSettings, two_hours: bool) {
    let world = World::new();
    let (theirs, ahead) = store(&world, "db");
    let node = node(theirs, echo().await, settings).await;
    let mut peer = raw(&world.store(&["web"]), Ipv4Addr::LOCALHOST.into(), node.address).await;
    peer.hello(&[]).await.unwrap();
    let request = connect_to("10.0.0.2:80", "for=\"10.0.0.1:4242\"");
    peer.ask(1, &request).await.unwrap();
    echoed(&mut peer, b"before").await;
    if two_hours {
        ahead.store(7200, Ordering::Relaxed);
    }
    let goaway = peer.next_of(GOAWAY).await.unwrap();
    assert_eq!(goaway.payload, [0, 0, 0, 1, 0, 0, 0, 0], "the last stream is 1, the code NO_ERROR");
    echoed(&mut peer, b"after").await;
    peer.send(&frame(HEADERS, END_HEADERS, 3, &request)).await.unwrap();
    let refused = peer.next_of(RST_STREAM).await.unwrap();
    assert_eq!((refused.stream, refused.payload), (3, vec![0, 0, 0, 7]), "not REFUSED_STREAM");
    echoed(&mut peer, b"and later").await;
    peer.send(&frame(DATA, END, 1, b"")).await.unwrap();
    peer.closed().await;
    let acceptor = node.acceptor.borrow().clone();
    until(|| acceptor.tunnels() == 0).await;
}

#[test]
fn a_tunnel_of_age_says_goaway_and_its_streams_finish_on_it() {
    on_worker(ends_by_goaway(TunnelSettings { max_age: Duration::from_millis(500), ..quick() }, false));
}

#[test]
fn a_tunnel_whose_certificate_expires_says_goaway_and_its_streams_finish_on_it() {
    on_worker(ends_by_goaway(TunnelSettings { keepalive: Duration::from_secs(1), ..quick() }, true));
}

#[test]
fn a_dialled_tunnel_of_age_goes_with_its_last_stream_though_no_other_asks() {
    on_worker(async {
        let world = World::new();
        let node = node(world.store(&["db"]), echo().await, quick()).await;
        let settings = TunnelSettings { max_age: Duration::from_millis(500), ..quick() };
        let client = Client::new(world.store(&["web"]), node.address, settings).await;
        let (mut socket, _, ended) = client.connect().await;
        echoes(&mut socket).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        echoes(&mut socket).await;
        assert_eq!(client.seen.closed(), 0);
        drop(socket);
        assert_eq!(ended.await.unwrap().how, End::Clean);
        until(|| client.seen.closed() == 1 && client.dialer.tunnels() == 0).await;
        let acceptor = node.acceptor.borrow().clone();
        until(|| acceptor.tunnels() == 0).await;
    });
}

#[test]
fn a_tunnel_that_is_about_to_age_gets_its_successor_before_anybody_needs_it() {
    on_worker(async {
        let world = World::new();
        let node = node(world.store(&["db"]), echo().await, quick()).await;
        // Half a minute before its end is when the next one is due.
        let settings = TunnelSettings { max_age: Duration::from_millis(30_500), ..quick() };
        let client = Client::new(world.store(&["web"]), node.address, settings).await;
        let (mut socket, _, _ended) = client.connect().await;
        echoes(&mut socket).await;
        let dialer = client.dialer.clone();
        let warm = tokio::task::spawn_local(async move { dialer.keep_warm().await });
        until(|| client.seen.handshakes() == 2).await;
        assert_eq!((client.dialer.tunnels(), client.seen.closed()), (2, 0));
        echoes(&mut socket).await;
        warm.abort();
    });
}

/// The bound is ten seconds unless somebody sets another; here they pass in no time.
#[test]
fn a_node_that_vanishes_is_found_within_the_bound() {
    on_worker(async {
        let world = World::new();
        let node = accept(world.store(&["db"]), echo().await, quick()).await;
        // What comes from the node is lost from some moment on, and what goes to it.
        let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = relay.local_addr().unwrap();
        let (cut, is_cut) = tokio::sync::oneshot::channel();
        let relaying = tokio::task::spawn_local(async move {
            let (mut near, _) = relay.accept().await.unwrap();
            let mut far = TcpStream::connect(node).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = is_cut => {}
            }
            (near, far)
        });
        let client = Client::new(world.store(&["web"]), address, quick()).await;
        let (mut socket, _, ended) = client.connect().await;
        echoes(&mut socket).await;
        cut.send(()).unwrap();
        let _held = relaying.await.unwrap();
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        let ended = ended.await.unwrap();
        let took = began.elapsed();
        // And a moment for the timer, which rounds up.
        assert!(took <= Duration::from_millis(10_010), "{took:?}");
        assert_eq!(ended.how, End::Lost);
        let refusal = ended.refusal.unwrap();
        assert_eq!(refusal.reason, Reason::TunnelLost);
        assert!(refusal.detail.contains("said nothing"), "{refusal}");
        tokio::time::resume();
        assert!(socket.read(&mut [0; 1]).await.is_err(), "not reset");
    });
}
