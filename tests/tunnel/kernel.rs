//! What must hold whoever carries the records, the agent or the kernel: `cargo xtask vm` runs these, and all others here,
//! with the kernel. Where the kernel cannot do the same it must fail in words.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use lark_testbed::hostile::{END_HEADERS, connect_to, frame, kind, setting};
use lark_tunnel::cipher::{Cipher, provider};
use lark_tunnel::{RecordError, ServeError, TunnelError};
use rustls::{AlertDescription, ClientConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ends::{Client, Node, World, accept, echo, id, on_worker, quick, renews, to, until};
use crate::handover::{Slow, heard};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i / 7 + i) % 251).unwrap()).collect()
}

/// Speaks as web with one cipher only.
fn speaks(world: &World, cipher: Cipher) -> ClientConfig {
    let store = world.store(&["web"]);
    let svid = store.current(&id("web")).unwrap();
    lark_tunnel::tls::client(&provider(&[cipher]), &svid, &store, &id("db")).unwrap()
}

/// A tunnel with a stream to an echo on it.
async fn opened(world: &World, node: SocketAddr, cipher: Cipher) -> Slow {
    let mut peer = Slow::with(speaks(world, cipher), node).await;
    peer.shakes_hands().await;
    peer.says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // A window for all that comes back.
    const WINDOW: u8 = 4;
    peer.says(&frame(kind::SETTINGS, 0, 0, &setting(WINDOW, 1 << 20)));
    peer.says(&frame(kind::WINDOW_UPDATE, 0, 0, &(1_u32 << 20).to_be_bytes()));
    peer.says(&frame(kind::HEADERS, END_HEADERS, 1, &connect_to("10.0.0.2:80", "for=\"10.0.0.1:4242\"")));
    peer.send().await;
    peer
}

/// Bytes of DATA until so many have come.
async fn data(peer: &mut Slow, count: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < count {
        let header = peer.hears(9).await;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let payload = peer.hears(usize::try_from(length).unwrap()).await;
        if header[3] == kind::DATA {
            got.extend(payload);
        }
    }
    got
}

#[test]
fn each_cipher_carries_what_is_sent_in_any_pieces() {
    on_worker(async {
        let world = World::new();
        for cipher in Cipher::ALL {
            let node =
                Node::new(crate::ends::acceptor(world.store(&["db"]), quick()), to(echo().await)).await;
            let mut peer = opened(&world, node.address, cipher).await;
            let sent = pattern(250_000);
            let mut left = sent.as_slice();
            for length in [1, 100_000, 16_375, 16_384, 5, 60_000, 73_619, 99, 50].iter().cycle() {
                let (now, later) = left.split_at(left.len().min(*length));
                peer.says(&frame(kind::DATA, 0, 1, now));
                left = later;
                if left.is_empty() {
                    break;
                }
            }
            let (out, socket) = (peer.waiting(), &mut peer.socket);
            for piece in out.chunks(70_001) {
                socket.write_all(piece).await.unwrap();
            }
            assert!(data(&mut peer, sent.len()).await == sent, "{cipher:?}");
        }
    });
}

#[test]
fn a_large_stream_stays_what_it_was_behind_a_pod_that_takes_little_at_a_time() {
    on_worker(async {
        let world = World::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = accept(world.store(&["db"]), listener.local_addr().unwrap(), quick()).await;
        let client = Client::new(world.store(&["web"]), node, quick()).await;
        let (mut socket, _, ended) = client.connect().await;
        let sent = pattern(6_000_000);
        let to_send = sent.clone();
        tokio::task::spawn_local(async move {
            socket.write_all(&to_send).await.unwrap();
            socket.shutdown().await.unwrap();
            let _ = socket.read(&mut [0; 1]).await;
        });
        let (mut pod, _) = listener.accept().await.unwrap();
        let (mut got, mut buffer) = (Vec::new(), vec![0; 40_000]);
        loop {
            let count = pod.read(&mut buffer).await.unwrap();
            if count == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..count]);
            if got.len() % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(got == sent, "{} of {}", got.len(), sent.len());
        drop(pod);
        assert_eq!(ended.await.unwrap().how, lark_tunnel::End::Clean);
    });
}

/// A node, and a tunnel to it on which something was said.
async fn tunnel(world: &World) -> (Node, Slow) {
    let node = Node::new(crate::ends::acceptor(world.store(&["db"]), quick()), to(echo().await)).await;
    let mut peer = opened(world, node.address, Cipher::Aes128Gcm).await;
    peer.says(&frame(kind::DATA, 0, 1, b"before"));
    peer.send().await;
    assert_eq!(data(&mut peer, 6).await, b"before");
    (node, peer)
}

/// All that comes until the other end has closed. What the kernel has not opened it leaves unread, which resets the
/// connection behind the last words.
async fn last_words(peer: &mut Slow) -> Vec<u8> {
    let mut bytes = Vec::new();
    match peer.socket.read_to_end(&mut bytes).await {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => bytes,
    }
}

fn lost(error: &ServeError) -> &RecordError {
    match error {
        ServeError::Lost { why: TunnelError::Record(why), .. } => why,
        other => panic!("{other}"),
    }
}

#[test]
fn a_record_that_is_none_ends_the_tunnel_and_the_peer_is_told() {
    on_worker(async {
        let world = World::new();
        for (rubbish, alert) in [
            ([&[23, 3, 3, 0, 40][..], &[7; 40]].concat(), AlertDescription::BadRecordMac),
            (vec![23, 3, 3, 0xff, 0xff], AlertDescription::RecordOverflow),
        ] {
            let (mut node, mut peer) = tunnel(&world).await;
            peer.socket.write_all(&rubbish).await.unwrap();
            let error = node.error().await;
            assert!(matches!(lost(&error), RecordError::Tls(_)), "{error}");
            let bytes = last_words(&mut peer).await;
            let mut bytes = bytes.as_slice();
            let mut told = Ok(());
            while told.is_ok() && !bytes.is_empty() {
                peer.tls.read_tls(&mut bytes).unwrap();
                told = peer.tls.process_new_packets().map(|_| ());
            }
            assert_eq!(told, Err(rustls::Error::AlertReceived(alert)));
        }
    });
}

#[test]
fn an_alert_of_the_peers_ends_the_tunnel_by_its_name() {
    on_worker(async {
        let world = World::new();
        let (mut node, mut peer) = tunnel(&world).await;
        // It takes this for a record, and says what it thinks of it.
        let rubbish = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
        peer.tls.read_tls(&mut rubbish.as_slice()).unwrap();
        assert!(peer.tls.process_new_packets().is_err());
        peer.send().await;
        let error = node.error().await;
        assert!(matches!(lost(&error), RecordError::Tls(rustls::Error::AlertReceived(_))), "{error}");
    });
}

#[test]
fn a_goodbye_behind_frames_closes_a_tunnel_that_has_a_stream() {
    on_worker(async {
        let world = World::new();
        let (node, seen) = crate::handover::node(&world).await;
        let mut peer = opened(&world, node.address, Cipher::Aes128Gcm).await;
        peer.says(&frame(kind::PING, 0, 0, b"at first"));
        peer.send().await;
        heard(&mut peer, b"at first").await;
        peer.says(&frame(kind::PING, 0, 0, b"the last"));
        peer.tls.send_close_notify();
        peer.send().await;
        until(|| seen.closed() == 1).await;
    });
}

#[test]
fn a_peer_that_renews_its_keys_is_followed_or_told_that_it_is_not() {
    on_worker(async {
        let world = World::new();
        let (mut node, mut peer) = tunnel(&world).await;
        peer.says(&frame(kind::DATA, 0, 1, b"old"));
        peer.tls.refresh_traffic_keys().unwrap();
        peer.says(&frame(kind::DATA, 0, 1, b"new"));
        peer.send().await;
        if renews() {
            assert_eq!(data(&mut peer, 6).await, b"oldnew");
            return;
        }
        // Not a byte of what came with the new keys, and an end in order.
        let error = node.error().await;
        assert!(matches!(lost(&error), RecordError::PeerKeys(_)), "{error}");
        let ServeError::Lost { why, .. } = &error else { panic!("{error}") };
        assert_eq!(why.cause().label(), "kernel_keys");
        let bytes = last_words(&mut peer).await;
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            peer.tls.read_tls(&mut bytes).unwrap();
            peer.tls.process_new_packets().unwrap();
        }
        let mut said = Vec::new();
        // An error would be an end without a goodbye.
        peer.tls.reader().read_to_end(&mut said).unwrap();
        let goaway = frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
        assert!(said.windows(goaway.len()).any(|window| window == goaway), "{said:?}");
        assert!(!said.windows(3).any(|window| window == b"new"), "{said:?}");
    });
}

/// How much the test below sends. In a machine that counts the system calls of its threads, by their names.
fn amount() -> usize {
    std::env::var("LARK_TEST_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(4) * 1024 * 1024
}

fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).unwrap()
}

#[test]
fn a_bulk_transfer_between_threads_of_their_own_arrives_whole() {
    let amount = amount();
    let sink = TcpListener::bind("127.0.0.1:0").unwrap();
    let application = sink.local_addr().unwrap();
    let (told, address) = std::sync::mpsc::channel();
    let (finished, over) = tokio::sync::oneshot::channel::<()>();
    let world = Arc::new(World::new());
    let accepting = world.clone();
    let accepts = thread("accepts", move || {
        on_worker(async move {
            let node = accept(accepting.store(&["db"]), application, quick()).await;
            told.send(node).unwrap();
            let _ = over.await;
        });
    });
    let node = address.recv().unwrap();
    let (told, address) = std::sync::mpsc::channel::<TcpStream>();
    let dials = thread("dials", move || {
        on_worker(async move {
            let client = Client::new(world.store(&["web"]), node, quick()).await;
            let (socket, _, ended) = client.connect().await;
            let socket = socket.into_std().unwrap();
            socket.set_nonblocking(false).unwrap();
            told.send(socket).unwrap();
            assert_eq!(ended.await.unwrap().how, lark_tunnel::End::Clean);
        });
    });
    let mut source = address.recv().unwrap();
    let reads = thread("reads", move || {
        let (mut pod, _) = sink.accept().unwrap();
        let (mut at, mut buffer, whole) = (0, vec![0; 1 << 18], pattern(251 * 7 * 251));
        loop {
            let count = pod.read(&mut buffer).unwrap();
            if count == 0 {
                return at;
            }
            let mut got = &buffer[..count];
            while !got.is_empty() {
                let wanted = &whole[at % whole.len()..];
                let both = wanted.len().min(got.len());
                assert!(got[..both] == wanted[..both], "other bytes at {at}");
                at += both;
                got = &got[both..];
            }
        }
    });
    let whole = pattern(251 * 7 * 251);
    let mut left = amount;
    while left > 0 {
        let piece = &whole[..left.min(whole.len())];
        source.write_all(piece).unwrap();
        left -= piece.len();
    }
    source.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(source.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(reads.join().unwrap(), amount);
    dials.join().unwrap();
    let _ = finished.send(());
    accepts.join().unwrap();
}
