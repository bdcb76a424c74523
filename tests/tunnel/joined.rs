//! Two local sockets joined: the same faith as through a tunnel.

use std::io::ErrorKind;
use std::sync::Arc;

use lark_core::observe::ByteCounters;
use lark_sys::socket::reset_on_close;
use lark_tunnel::{End, Ended, join};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::ends::{on_worker, sockets, until};

struct Joined {
    source: TcpStream,
    destination: TcpStream,
    counters: Arc<ByteCounters>,
    ended: JoinHandle<Ended>,
}

async fn joined() -> Joined {
    let ((source, near), (far, destination)) = (sockets().await, sockets().await);
    let counters: Arc<ByteCounters> = Arc::default();
    let ended = tokio::task::spawn_local(join(near.into(), far.into(), counters.clone()));
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
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
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
fn slow_readers_of_more_streams_than_there_are_pipes_get_every_byte() {
    on_worker(async {
        let mut all = Vec::new();
        for number in 0..40_u32 {
            let Joined { source, destination, counters, .. } = joined().await;
            let sent: Vec<u8> =
                (0..12_000_000_u32).map(|i| u8::try_from((i + number) % 241).unwrap()).collect();
            let (to_send, (_, mut write)) = (sent.clone(), source.into_split());
            tokio::task::spawn_local(async move { write.write_all(&to_send).await.unwrap() });
            all.push((sent, destination, counters));
        }
        // Each is full, those with a pipe and those without, before anybody reads.
        let moved = |all: &[(_, _, Arc<ByteCounters>)]| all.iter().map(|(.., c)| c.sent()).sum::<u64>();
        let mut before = u64::MAX;
        while before != moved(&all) {
            before = moved(&all);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
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
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
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
