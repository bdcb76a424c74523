//! Resets at awkward moments. The settings here never tick, so nothing is found by looking now and then.

use std::io::ErrorKind;
use std::time::Duration;

use lark_core::reason::Reason;
use lark_sys::socket::reset_on_close;
use lark_tunnel::{End, Ended, Refusal, TunnelSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::ends::{
    Client, EARLY, Node, World, accept, acceptor, answers_early, held, on_worker, quick, sockets,
    told_amid_a_flood, until,
};
use crate::limits::Gate;

fn never_ticks() -> TunnelSettings {
    TunnelSettings { keepalive: Duration::from_secs(3600), ..quick() }
}

async fn pair(listener: &TcpListener) -> Client {
    let world = World::new();
    let node = accept(world.store(&["db"]), listener.local_addr().unwrap(), never_ticks()).await;
    Client::new(world.store(&["web"]), node, never_ticks()).await
}

#[test]
fn a_reset_is_noticed_while_the_stream_waits_for_window() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = pair(&listener).await;
        let (mut source, counters, ended) = client.connect().await;
        let (mut destination, _) = listener.accept().await.unwrap();
        let full = async {
            let mut before = u64::MAX;
            while before != counters.sent() {
                before = counters.sent();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let flood = vec![0; 256 * 1024 * 1024];
        tokio::select! {
            result = source.write_all(&flood) => panic!("the flood was taken: {result:?}"),
            () = full => {}
        }
        reset_on_close(&source);
        drop(source);
        assert_eq!(ended.await.unwrap().how, End::ResetBySource);
        let error = tokio::io::copy(&mut destination, &mut tokio::io::sink()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_answer_to_what_was_not_read_to_its_end_is_heard_before_the_reset() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = pair(&listener).await;
        for _ in 0..20 {
            let (source, _, ended) = client.connect().await;
            let serve = async { answers_early(listener.accept().await.unwrap().0).await };
            let (told, ()) = tokio::join!(told_amid_a_flood(source), serve);
            assert_eq!(told, EARLY);
            assert_eq!(ended.await.unwrap().how, End::ResetByDestination);
        }
    });
}

#[test]
fn a_reset_after_a_half_close_is_still_a_reset() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = pair(&listener).await;
        for by_source in [true, false] {
            let (mut source, _, ended) = client.connect().await;
            let (mut destination, _) = listener.accept().await.unwrap();
            let (gone, stays, how) = if by_source {
                (&mut source, &mut destination, End::ResetBySource)
            } else {
                (&mut destination, &mut source, End::ResetByDestination)
            };
            gone.shutdown().await.unwrap();
            assert_eq!(stays.read(&mut [0; 1]).await.unwrap(), 0, "the end did not arrive");
            reset_on_close(gone);
            let mut stays = if by_source {
                drop(source);
                destination
            } else {
                drop(destination);
                source
            };
            assert_eq!(ended.await.unwrap().how, how);
            // The end was read before; what is left of the reset is that nothing can be written.
            let error = loop {
                if let Err(error) = stays.write_all(b"x").await {
                    break error;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        }
    });
}

#[test]
fn a_client_that_resets_before_the_dial_is_done_reaches_nobody() {
    on_worker(async {
        let world = World::new();
        let gate = Gate::new(|| Ok(()));
        let node = Node::new(acceptor(world.store(&["db"]), never_ticks()), gate.clone()).await;
        let client = Client::new(world.store(&["web"]), node.address, never_ticks()).await;
        let (mut source, _, ended) = client.connect().await;
        // More than may go before the answer, so that the rest is not being read.
        source.write_all(&vec![0; 64 * 1024]).await.unwrap();
        until(|| gate.begun.get() == 1).await;
        reset_on_close(&source);
        drop(source);
        let ended = ended.await.unwrap();
        assert_eq!(ended, Ended { established: false, how: End::ResetBySource, refusal: None });
    });
}

#[test]
fn a_dial_that_fails_late_resets_a_client_that_has_sent_already() {
    on_worker(async {
        let world = World::new();
        let gate = Gate::new(|| Err(Refusal::new(Reason::DialTimeout, "gave up")));
        let node = Node::new(acceptor(world.store(&["db"]), never_ticks()), gate.clone()).await;
        let client = Client::new(world.store(&["web"]), node.address, never_ticks()).await;
        let (mut source, _, ended) = client.connect().await;
        source.write_all(b"early").await.unwrap();
        until(|| gate.begun.get() == 1).await;
        gate.go.notify_one();
        assert_eq!(source.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let refusal = ended.await.unwrap().refusal.unwrap();
        assert_eq!(refusal.reason, Reason::DialTimeout, "{refusal}");
    });
}

#[test]
fn an_agent_that_stops_resets_its_pods() {
    let (near, far) = std::sync::mpsc::channel();
    on_worker(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = pair(&listener).await;
        let (source, _, _) = client.connect().await;
        let (destination, _) = listener.accept().await.unwrap();
        let (joined, one) = sockets().await;
        let (another, other) = sockets().await;
        tokio::task::spawn_local(lark_tunnel::join(
            one.into(),
            another.into(),
            lark_tunnel::Traffic::default(),
            held(),
        ));
        tokio::task::yield_now().await;
        for socket in [source, destination, joined, other] {
            near.send(socket.into_std().unwrap()).unwrap();
        }
        // The worker ends here, with everything that it has.
    });
    for mut socket in far {
        socket.set_nonblocking(false).unwrap();
        let error = std::io::Read::read(&mut socket, &mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}
