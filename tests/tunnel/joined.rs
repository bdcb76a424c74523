//! Two local sockets joined: the same faith as through a tunnel.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lark_core::observe::ByteCounters;
use lark_core::recognise::Event;
use lark_sys::socket::reset_on_close;
use lark_tunnel::{End, Ended, Holding, Traffic, join};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::ends::{EARLY, answers_early, held, on_worker, sockets, told_amid_a_flood, until};

struct Joined {
    source: TcpStream,
    destination: TcpStream,
    counters: Arc<ByteCounters>,
    ended: JoinHandle<Ended>,
}

async fn joined() -> Joined {
    let ((source, near), (far, destination)) = (sockets().await, sockets().await);
    let counters: Arc<ByteCounters> = Arc::default();
    let ended = tokio::task::spawn_local(join(near.into(), far.into(), counters.clone(), held()));
    Joined { source, destination, counters, ended }
}

#[test]
fn bytes_pass_both_ways_and_are_counted_also_for_a_slow_reader() {
    on_worker(async {
        let Joined { source, mut destination, counters, ended } = joined().await;
        let sent: Vec<u8> = (0..30_000_000_u32).map(|i| u8::try_from(i % 249).unwrap()).collect();
        let (mut read, mut write) = source.into_split();
        let to_send = sent.clone();
        tokio::task::spawn_local(async move {
            write.write_all(&to_send).await.unwrap();
            write.shutdown().await.unwrap();
        });
        // Nobody reads yet: only what the sockets hold moves.
        let mut before = u64::MAX;
        while before != counters.sent() {
            before = counters.sent();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(before > 0 && before < 30_000_000, "{before} bytes went to a reader that reads nothing");
        let mut got = Vec::new();
        destination.read_to_end(&mut got).await.unwrap();
        assert!(got == sent, "{} of {}", got.len(), sent.len());
        // Half-closed, and still heard.
        destination.write_all(b"thanks").await.unwrap();
        drop(destination);
        let mut answer = Vec::new();
        read.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"thanks");
        assert_eq!(ended.await.unwrap(), Ended { established: true, how: End::Clean, refusal: None });
        assert_eq!((counters.sent(), counters.received()), (30_000_000, 6));
    });
}

#[test]
fn an_answer_to_what_was_not_read_to_its_end_is_heard_before_the_reset() {
    on_worker(async {
        for _ in 0..20 {
            let Joined { source, destination, ended, .. } = joined().await;
            let (told, ()) = tokio::join!(told_amid_a_flood(source), answers_early(destination));
            assert_eq!(told, EARLY);
            assert_eq!(ended.await.unwrap().how, End::ResetByDestination);
        }
    });
}

#[test]
fn a_pod_whose_share_is_full_is_slow_and_loses_no_byte_nor_harms_others() {
    on_worker(async {
        // A pod has a quarter of it, which anything that waits fills.
        let holding = Holding::new(0, 4096, 0);
        let start = async |pod| {
            let ((source, near), (far, destination)) = (sockets().await, sockets().await);
            let counters: Arc<ByteCounters> = Arc::default();
            let ended =
                tokio::task::spawn_local(join(near.into(), far.into(), counters, holding.of_pod(pod)));
            (source, destination, ended)
        };
        let (much, mut all): (Rc<[u8]>, _) = (vec![7; 16 * 1024 * 1024].into(), Vec::new());
        for _ in 0..16 {
            let (mut source, destination, ended) = start(1).await;
            let much = much.clone();
            let flood = tokio::task::spawn_local(async move { source.write_all(&much).await });
            all.push((flood, destination, ended));
        }
        until(|| holding.total() > 1024).await;
        // What can be said by then has been.
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Another pod's are unharmed, and none of this one's is reset: who reads gets every byte.
        let (mut source, mut destination, _other) = start(2).await;
        source.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        destination.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        for (flood, mut destination, ended) in all {
            let mut sink = tokio::io::sink();
            let (count, sent) = tokio::join!(tokio::io::copy(&mut destination, &mut sink), flood);
            sent.unwrap().unwrap();
            assert_eq!(count.unwrap(), u64::try_from(much.len()).unwrap());
            drop(destination);
            assert_eq!(ended.await.unwrap().how, End::Clean);
        }
        until(|| holding.total() == 0).await;
    });
}

#[test]
fn urgent_data_amid_much_is_in_its_place() {
    on_worker(async {
        let Joined { mut source, mut destination, counters, .. } = joined().await;
        let much: Vec<u8> = (0..3_000_000_u32).map(|i| u8::try_from(i % 239).unwrap()).collect();
        let reader = tokio::task::spawn_local(async move {
            let mut got = Vec::new();
            destination.read_to_end(&mut got).await.unwrap();
            got
        });
        source.write_all(&much).await.unwrap();
        for _ in 0..3 {
            SockRef::from(&source).send_out_of_band(b"!").unwrap();
            // More than is read at once, so that what is behind the mark is found by whatever comes next.
            source.write_all(&much).await.unwrap();
        }
        source.shutdown().await.unwrap();
        let got = tokio::time::timeout(Duration::from_secs(30), reader).await.unwrap().unwrap();
        let expected = [&much[..], &[&b"!"[..], &much].concat().repeat(3)].concat();
        assert!(got == expected, "{} of {}", got.len(), expected.len());
        assert_eq!(counters.sent(), u64::try_from(expected.len()).unwrap());
    });
}

#[test]
fn what_is_looked_at_first_and_then_is_much_arrives() {
    on_worker(async {
        let ((mut source, near), (far, mut destination)) = (sockets().await, sockets().await);
        let (counters, told): (Arc<ByteCounters>, Rc<RefCell<Vec<Event>>>) = Default::default();
        let hears = told.clone();
        let traffic = Traffic::recognised(counters.clone(), move |event| hears.borrow_mut().push(event));
        let ended = tokio::task::spawn_local(join(near.into(), far.into(), traffic, held()));
        // An exchange that is followed, behind which nothing is that could be.
        source.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut request = [0; 27];
        destination.read_exact(&mut request).await.unwrap();
        destination.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let mut answer = [0; 38];
        source.read_exact(&mut answer).await.unwrap();
        let much: Vec<u8> = (0..9_000_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let sent = much.clone();
        tokio::task::spawn_local(async move { source.write_all(&sent).await.unwrap() });
        let mut got = Vec::new();
        destination.read_to_end(&mut got).await.unwrap();
        assert!(got == much, "{} of {}", got.len(), much.len());
        drop(destination);
        assert_eq!(ended.await.unwrap().how, End::Clean);
        let told = told.borrow();
        let responses = told.iter().filter(|event| matches!(event, Event::Response(_))).count();
        assert!(responses == 1 && matches!(told.last(), Some(Event::Opaque(_))), "{told:?}");
        assert_eq!(counters.sent(), u64::try_from(request.len() + much.len()).unwrap());
    });
}

#[test]
fn slow_readers_of_more_streams_than_there_are_pipes_get_every_byte() {
    on_worker(async {
        let mut all = Vec::new();
        for number in 0..20_u32 {
            let Joined { source, destination, counters, .. } = joined().await;
            // So that what is under way is more than sockets hold.
            SockRef::from(&destination).set_recv_buffer_size(1 << 16).unwrap();
            let sent: Vec<u8> =
                (0..6_000_000_u32).map(|i| u8::try_from((i + number) % 241).unwrap()).collect();
            let (to_send, (_, mut write)) = (sent.clone(), source.into_split());
            tokio::task::spawn_local(async move { write.write_all(&to_send).await.unwrap() });
            all.push((sent, destination, counters));
        }
        // Each is full, those with a pipe and those without, before anybody reads.
        let moved = |all: &[(_, _, Arc<ByteCounters>)]| all.iter().map(|(.., c)| c.sent()).sum::<u64>();
        let mut before = u64::MAX;
        while before != moved(&all) {
            before = moved(&all);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for (sent, mut destination, _) in all {
            let mut got = Vec::new();
            destination.read_to_end(&mut got).await.unwrap();
            assert!(got == sent, "{} of {}", got.len(), sent.len());
        }
    });
}

#[test]
fn a_reset_by_either_side_is_a_reset_at_the_other() {
    on_worker(async {
        for by_source in [true, false] {
            let Joined { source, destination, ended, .. } = joined().await;
            let (gone, mut stays, how) = if by_source {
                (source, destination, End::ResetBySource)
            } else {
                (destination, source, End::ResetByDestination)
            };
            reset_on_close(&gone);
            drop(gone);
            let error = stays.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "by source: {by_source}");
            assert_eq!(ended.await.unwrap().how, how);
        }
    });
}

#[test]
fn a_reset_of_a_side_that_sent_much_is_no_end() {
    on_worker(async {
        for by_source in [true, false] {
            let Joined { source, destination, counters, ended } = joined().await;
            let (mut gone, mut stays, how) = if by_source {
                (source, destination, End::ResetBySource)
            } else {
                (destination, source, End::ResetByDestination)
            };
            // The reader keeps up, so that the reset is met by whoever waits for more.
            let reader = tokio::task::spawn_local(async move {
                let (mut buffer, mut got) = (vec![0; 1 << 20], 0);
                loop {
                    match stays.read(&mut buffer).await {
                        Ok(0) => return Ok(got),
                        Ok(count) => got += count,
                        Err(error) => return Err((error.kind(), got)),
                    }
                }
            });
            gone.write_all(&vec![7; 8 << 20]).await.unwrap();
            until(|| counters.sent().max(counters.received()) == 8 << 20).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            reset_on_close(&gone);
            drop(gone);
            assert_eq!(
                reader.await.unwrap(),
                Err((ErrorKind::ConnectionReset, 8 << 20)),
                "by source: {by_source}"
            );
            assert_eq!(ended.await.unwrap().how, how);
        }
    });
}

#[test]
fn a_reset_is_noticed_while_the_other_side_takes_nothing() {
    on_worker(async {
        let Joined { mut source, mut destination, counters, ended } = joined().await;
        let flood = async {
            let _ = source.write_all(&vec![0; 64 * 1024 * 1024]).await;
        };
        tokio::select! {
            () = flood => panic!("the flood was taken"),
            () = async {
                let mut before = u64::MAX;
                while before != counters.sent() {
                    before = counters.sent();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            } => {}
        }
        reset_on_close(&source);
        drop(source);
        until(|| ended.is_finished()).await;
        assert_eq!(ended.await.unwrap().how, End::ResetBySource);
        let error = tokio::io::copy(&mut destination, &mut tokio::io::sink()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}
