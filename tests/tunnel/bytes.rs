//! Bytes, ends and resets.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use lark_core::observe::ByteCounters;
use lark_testbed::hostile::{END, END_HEADERS, Hostile, connect_to, frame, kind};
use lark_tunnel::{End, TunnelSettings};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::ends::{Client, World, accept, echo, echoes, on_worker, quick, raw, until};

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * 31 + seed) % 251).unwrap()).collect()
}

async fn pair(settings: TunnelSettings, application: std::net::SocketAddr) -> Client {
    let world = World::new();
    let node = accept(world.store(&["db"]), application, settings.clone()).await;
    Client::new(world.store(&["web"]), node, settings).await
}

#[test]
fn megabytes_come_back_as_they_went() {
    on_worker(async {
        let client = pair(quick(), echo().await).await;
        let (socket, counters, ended) = client.connect().await;
        let sent = pattern(20 * 1024 * 1024, 7);
        let (mut read, mut write) = socket.into_split();
        let expected = sent.clone();
        let writer = tokio::task::spawn_local(async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        assert!(got == expected, "{} of {} bytes, or others", got.len(), expected.len());
        writer.await.unwrap();
        let ended = ended.await.unwrap();
        assert_eq!((ended.established, ended.how, ended.refusal), (true, End::Clean, None));
        let length = u64::try_from(expected.len()).unwrap();
        assert_eq!((counters.sent(), counters.received()), (length, length));
    });
}

#[test]
fn urgent_data_arrives_in_line_with_what_is_behind_it() {
    on_worker(async {
        let client = pair(quick(), echo().await).await;
        let (mut socket, ..) = client.connect().await;
        let mut first = [0; 5];
        socket.write_all(b"first").await.unwrap();
        socket.read_exact(&mut first).await.unwrap();
        // All of it is there before the agent, which runs on this thread, gets to read. It reads up to the mark; of what
        // is behind, what comes next tells (docs/limits.md).
        for (before, after) in [("", "behind"), ("before", ""), ("before", "behind")] {
            let sending = SockRef::from(&socket);
            sending.send(before.as_bytes()).unwrap();
            sending.send_out_of_band(b"!").unwrap();
            sending.send(after.as_bytes()).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            sending.send(b"next").unwrap();
            let expected = [before, "!", after, "next"].concat();
            let mut got = vec![0; expected.len()];
            let read = timeout(Duration::from_secs(5), socket.read_exact(&mut got)).await;
            assert!(read.is_ok(), "of {expected:?} came {:?}", String::from_utf8_lossy(&got));
            assert_eq!(String::from_utf8_lossy(&got), expected);
        }
    });
}

#[test]
fn urgent_data_amid_much_is_in_its_place_behind_a_tunnel() {
    on_worker(async {
        let client = pair(quick(), echo().await).await;
        let (socket, counters, _) = client.connect().await;
        let (mut read, mut write) = socket.into_split();
        let much = pattern(3_000_000, 3);
        let expected = [&much[..], &[&b"!"[..], &much].concat().repeat(3)].concat();
        let writer = tokio::task::spawn_local(async move {
            write.write_all(&much).await.unwrap();
            for _ in 0..3 {
                write.writable().await.unwrap();
                while SockRef::from(write.as_ref()).send_out_of_band(b"!").is_err() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                write.write_all(&much).await.unwrap();
            }
            write.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        assert!(got == expected, "{} of {}", got.len(), expected.len());
        assert_eq!(counters.sent(), u64::try_from(expected.len()).unwrap());
    });
}

#[test]
fn a_thousand_streams_share_one_tunnel() {
    on_worker(async {
        let client = pair(quick(), echo().await).await;
        let mut open = Vec::new();
        for seed in 0..1000 {
            let (mut socket, _, ended) = client.connect().await;
            socket.write_all(&pattern(10_000, seed)).await.unwrap();
            open.push((socket, ended, seed));
        }
        for (mut socket, ended, seed) in open {
            socket.shutdown().await.unwrap();
            let mut got = Vec::new();
            socket.read_to_end(&mut got).await.unwrap();
            assert!(got == pattern(10_000, seed), "stream {seed} got other bytes");
            assert_eq!(ended.await.unwrap().how, End::Clean);
        }
        assert_eq!(client.seen.handshakes(), 1);
    });
}

#[test]
fn a_server_may_speak_first_and_a_half_closed_client_still_hears() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = pair(quick(), listener.local_addr().unwrap()).await;
        let (mut socket, _, ended) = client.connect().await;
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"hello").await.unwrap();
        let mut greeting = [0; 5];
        socket.read_exact(&mut greeting).await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0, "the end did not arrive");
        server.write_all(&pattern(100_000, 1)).await.unwrap();
        drop(server);
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert!(rest == pattern(100_000, 1));
        assert_eq!(ended.await.unwrap().how, End::Clean);
    });
}

fn reset(socket: &TcpStream) {
    lark_sys::socket::reset_on_close(socket);
}

#[test]
fn a_reset_by_either_end_is_a_reset_at_the_other() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = pair(quick(), listener.local_addr().unwrap()).await;
        for by_client in [true, false] {
            let (mut socket, _, ended) = client.connect().await;
            let (mut server, _) = listener.accept().await.unwrap();
            socket.write_all(b"x").await.unwrap();
            server.read_exact(&mut [0; 1]).await.unwrap();
            let (mut seen, how) = if by_client {
                reset(&socket);
                drop(socket);
                (server, End::ResetBySource)
            } else {
                reset(&server);
                drop(server);
                (socket, End::ResetByDestination)
            };
            let error = seen.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "by client: {by_client}");
            assert_eq!(ended.await.unwrap().how, how);
        }
    });
}

#[test]
fn a_slow_reader_holds_up_nobody_else() {
    on_worker(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = pair(quick(), listener.local_addr().unwrap()).await;
        let (slow, counters, _ended) = client.connect().await;
        let (_unread, _) = listener.accept().await.unwrap();
        let (_, mut write) = slow.into_split();
        let flood = tokio::task::spawn_local(async move {
            let _ = write.write_all(&vec![0; 256 * 1024 * 1024]).await;
        });
        // Until nothing moves any more.
        let mut before = u64::MAX;
        while before != counters.sent() {
            before = counters.sent();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(before < 64 * 1024 * 1024, "{before} bytes were taken for a reader that reads nothing");
        let (mut quick, _, ended) = client.connect().await;
        let (mut server, _) = listener.accept().await.unwrap();
        for _ in 0..100 {
            quick.write_all(b"ping").await.unwrap();
            server.read_exact(&mut [0; 4]).await.unwrap();
            server.write_all(b"pong").await.unwrap();
            quick.read_exact(&mut [0; 4]).await.unwrap();
        }
        drop((quick, server));
        assert_eq!(ended.await.unwrap().how, End::Clean);
        flood.abort();
    });
}

#[test]
fn no_stream_starves_beside_others_that_are_never_empty() {
    on_worker(async {
        let client = pair(quick(), echo().await).await;
        let mut bulk = Vec::new();
        for _ in 0..4 {
            let (socket, counters, _) = client.connect().await;
            let (mut read, mut write) = socket.into_split();
            let writer = tokio::task::spawn_local(async move {
                let much = vec![0; 1 << 20];
                while write.write_all(&much).await.is_ok() {}
            });
            let reader = tokio::task::spawn_local(async move {
                let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
            });
            bulk.push((counters, [writer, reader]));
        }
        let moved = |(counters, _): &(std::sync::Arc<ByteCounters>, _)| counters.sent();
        until(|| bulk.iter().all(|one| moved(one) > 1 << 20)).await;
        let before: Vec<u64> = bulk.iter().map(moved).collect();
        let mut small = Vec::new();
        for _ in 0..64 {
            let (mut socket, ..) = client.connect().await;
            small.push(tokio::task::spawn_local(async move {
                for _ in 0..20 {
                    echoes(&mut socket).await;
                }
            }));
        }
        for one in small {
            one.await.unwrap();
        }
        assert_eq!(client.seen.handshakes(), 1, "they did not share a tunnel");
        for (one, before) in bulk.iter().zip(before) {
            assert!(moved(one) > before + (1 << 20), "{} bytes since", moved(one) - before);
        }
        bulk.iter().flat_map(|(_, tasks)| tasks).for_each(tokio::task::JoinHandle::abort);
    });
}

#[test]
fn a_peer_that_vanishes_is_found_and_its_streams_are_reset() {
    on_worker(async {
        let settings = TunnelSettings { keepalive: Duration::from_millis(400), ..quick() };
        let world = World::new();
        let node = accept(world.store(&["db"]), echo().await, settings.clone()).await;
        // A relay that stops relaying without closing anything.
        let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = relay.local_addr().unwrap();
        let relaying = tokio::task::spawn_local(async move {
            let (mut near, _) = relay.accept().await.unwrap();
            let mut far = TcpStream::connect(node).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
            (near, far)
        });
        let client = Client::new(world.store(&["web"]), address, settings).await;
        let (mut socket, _, ended) = client.connect().await;
        socket.write_all(b"x").await.unwrap();
        socket.read_exact(&mut [0; 1]).await.unwrap();
        let _held = relaying.await.unwrap();
        assert_eq!(socket.read(&mut [0; 1]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let ended = ended.await.unwrap();
        assert_eq!(ended.how, End::Lost);
        assert!(ended.refusal.unwrap().detail.contains("said nothing"));
    });
}

#[test]
fn whoever_speaks_first_is_answered_before_the_first_byte_and_though_there_is_none() {
    on_worker(async {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (application, speaks) in [(echo().await, true), (silent.local_addr().unwrap(), false)] {
            let world = World::new();
            let node = accept(world.store(&["db"]), application, quick()).await;
            let mut peer = raw(&world.store(&["web"]), Ipv4Addr::LOCALHOST.into(), node).await;
            peer.hello(&[]).await.unwrap();
            let request = connect_to("10.0.0.2:80", "for=\"10.0.0.1:4242\"");
            let opens = frame(kind::HEADERS, END_HEADERS, 1, &request);
            peer.send(&[opens, frame(kind::DATA, 0, 1, b"hello")].concat()).await.unwrap();
            let mut next = async || loop {
                let frame = peer.next().await.unwrap();
                if frame.stream == 1 && frame.kind != kind::WINDOW_UPDATE {
                    break frame;
                }
            };
            assert_eq!(next().await.kind, kind::HEADERS);
            if speaks {
                let said = next().await;
                assert_eq!((said.kind, said.payload.as_slice()), (kind::DATA, b"hello".as_slice()));
            }
        }
    });
}

#[test]
fn the_second_end_of_a_stream_comes_though_nothing_follows_it() {
    on_worker(async {
        // One, and more than are put off at once; while the tunnel stays, and when it closes with the last of them.
        for (count, closes) in [(1, false), (150, false), (1, true), (150, true)] {
            let world = World::new();
            // No ping has anything to do with it.
            let settings = TunnelSettings { keepalive: Duration::from_secs(3600), ..quick() };
            let node = accept(world.store(&["db"]), echo().await, settings).await;
            let mut peer = raw(&world.store(&["web"]), Ipv4Addr::LOCALHOST.into(), node).await;
            peer.hello(&[]).await.unwrap();
            let request = connect_to("10.0.0.2:80", "for=\"10.0.0.1:4242\"");
            let streams: Vec<u32> = (0..count).map(|n| 2 * n + 1).collect();
            let send = |stream: &u32, bytes: &[u8], flags| frame(kind::DATA, flags, *stream, bytes);
            let opens = |stream: &u32| {
                [frame(kind::HEADERS, END_HEADERS, *stream, &request), send(stream, b"last", 0)].concat()
            };
            peer.send(&streams.iter().flat_map(opens).collect::<Vec<u8>>()).await.unwrap();
            let next = async |peer: &mut Hostile| {
                let waited = timeout(Duration::from_secs(20), peer.next_of(kind::DATA));
                waited.await.expect("nothing is said").unwrap()
            };
            let mut silent: HashSet<u32> = streams.iter().copied().collect();
            while !silent.is_empty() {
                let said = next(&mut peer).await;
                assert_eq!((said.payload.as_slice(), said.flags), (b"last".as_slice(), 0));
                assert!(silent.remove(&said.stream));
            }
            let mut ends: Vec<u8> = streams.iter().flat_map(|stream| send(stream, b"", END)).collect();
            if closes {
                ends.extend(frame(kind::GOAWAY, 0, 0, &[0; 8]));
            }
            peer.send(&ends).await.unwrap();
            let mut open: HashSet<u32> = streams.into_iter().collect();
            while !open.is_empty() {
                let said = next(&mut peer).await;
                assert_eq!((said.payload.as_slice(), said.flags), (b"".as_slice(), END));
                assert!(open.remove(&said.stream), "{} ended twice", said.stream);
            }
            if closes {
                peer.closed().await;
            }
        }
    });
}

#[test]
fn a_peer_that_says_nothing_is_asked_seldom_however_many_streams_end_meanwhile() {
    on_worker(async {
        // Each closes later than the one before it, long after the peer has ended all of them.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            for n in 0..100 {
                let (mut socket, _) = listener.accept().await.unwrap();
                tokio::task::spawn_local(async move {
                    while socket.read(&mut [0; 8]).await.unwrap() > 0 {}
                    tokio::time::sleep(Duration::from_millis(1100 + 6 * n)).await;
                });
            }
        });
        let world = World::new();
        let settings = TunnelSettings { keepalive: Duration::from_secs(3), ..quick() };
        let node = accept(world.store(&["db"]), application, settings).await;
        let mut peer = raw(&world.store(&["web"]), Ipv4Addr::LOCALHOST.into(), node).await;
        peer.hello(&[]).await.unwrap();
        let request = connect_to("10.0.0.2:80", "for=\"10.0.0.1:4242\"");
        let opens = |n: u32| {
            let begins = frame(kind::HEADERS, END_HEADERS, 2 * n + 1, &request);
            [begins, frame(kind::DATA, END, 2 * n + 1, b"last")].concat()
        };
        peer.send(&(0..100).flat_map(opens).collect::<Vec<u8>>()).await.unwrap();
        let (mut pings, mut ends) = (0, 0);
        while let Ok(said) = peer.next().await {
            pings += usize::from(said.kind == kind::PING);
            ends += usize::from(said.kind == kind::DATA && said.flags & END != 0);
        }
        assert_eq!(ends, 100);
        assert!((1..=3).contains(&pings), "asked {pings} times");
    });
}
