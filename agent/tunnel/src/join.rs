//! Two local sockets joined: same node, or passthrough. Half-close stays half-close, reset stays reset,
//! and neither side is read while the other does not take.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::task::Poll;

use lark_core::observe::ByteCounters;
use lark_sys::socket::{reset_on_close, set_nodelay};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::ended::{End, Ended};

const CHUNK: usize = 256 * 1024;

thread_local! {
    static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Moves bytes between `source` and `destination` until both directions have ended.
///
/// Dropping the future closes both sockets in whatever state they are.
pub async fn join(source: TcpStream, destination: TcpStream, counters: Arc<ByteCounters>) -> Ended {
    set_nodelay(&source);
    set_nodelay(&destination);
    let there = one_way(&source, &destination, |n| counters.add_sent(n));
    let back = one_way(&destination, &source, |n| counters.add_received(n));
    let result = tokio::try_join!(
        async { there.await.map_err(|e| e.into_end(End::ResetBySource, End::ResetByDestination)) },
        async { back.await.map_err(|e| e.into_end(End::ResetByDestination, End::ResetBySource)) },
    );
    let how = match result {
        Ok(_) => End::Clean,
        Err(how) => {
            reset_on_close(&source);
            reset_on_close(&destination);
            how
        }
    };
    Ended { established: true, how, refusal: None }
}

enum Failed {
    Read,
    Write,
}

impl Failed {
    const fn into_end(self, read: End, write: End) -> End {
        match self {
            Self::Read => read,
            Self::Write => write,
        }
    }
}

async fn one_way(from: &TcpStream, to: &TcpStream, count: impl Fn(u64)) -> Result<(), Failed> {
    // What the taker did not take at once; the shared buffer serves the others meanwhile.
    let mut rest: Vec<u8> = Vec::new();
    loop {
        from.readable().await.map_err(|_| Failed::Read)?;
        let step = SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(CHUNK, 0);
            match from.try_read(scratch) {
                Ok(0) => Poll::Ready(Ok(true)),
                Ok(read) => {
                    let bytes = scratch.get(..read).unwrap_or_default();
                    match to.try_write(bytes) {
                        Ok(written) => {
                            count(u64::try_from(written).unwrap_or(0));
                            rest.extend_from_slice(bytes.get(written..).unwrap_or_default());
                            Poll::Ready(Ok(false))
                        }
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                            rest.extend_from_slice(bytes);
                            Poll::Ready(Ok(false))
                        }
                        Err(_) => Poll::Ready(Err(Failed::Write)),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                Err(_) => Poll::Ready(Err(Failed::Read)),
            }
        });
        let Poll::Ready(step) = step else { continue };
        let ended = step?;
        let mut at = 0;
        while at < rest.len() {
            to.writable().await.map_err(|_| Failed::Write)?;
            match to.try_write(rest.get(at..).unwrap_or_default()) {
                Ok(written) => {
                    count(u64::try_from(written).unwrap_or(0));
                    at += written;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Failed::Write),
            }
        }
        rest = Vec::new();
        if ended {
            return SockRef::from(to).shutdown(Shutdown::Write).map_err(|_| Failed::Write);
        }
    }
}
