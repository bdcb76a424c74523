//! Two local sockets joined: same node, or passthrough. Half-close stays half-close, reset stays reset,
//! and neither side is read while the other does not take.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;

use lark_core::observe::ByteCounters;
use lark_sys::socket::{end_on_close, reset_on_close, set_congestion, set_nodelay};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::ended::{End, Ended};

const CHUNK: usize = 256 * 1024;

thread_local! {
    /// Shared by all joined sockets of the worker, since each uses it only within one call.
    static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Moves bytes between `source` and `destination` until both directions have ended, or one socket has
/// failed: then both are reset.
///
/// Dropping the future resets both sockets, and so does the kernel when the agent is killed.
pub async fn join(source: TcpStream, destination: TcpStream, counters: Arc<ByteCounters>) -> Ended {
    for socket in [&source, &destination] {
        set_nodelay(socket);
        reset_on_close(socket);
        // A passthrough's other end may be far away; what is on loopback is not, and must not pace.
        if socket.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback()) {
            set_congestion(socket, "reno");
        }
    }
    let bytes = async {
        let there = one_way(&source, &destination, |n| counters.add_sent(n));
        let back = one_way(&destination, &source, |n| counters.add_received(n));
        tokio::try_join!(
            async { there.await.map_err(|failed| failed.whose(End::ResetBySource, End::ResetByDestination)) },
            async { back.await.map_err(|failed| failed.whose(End::ResetByDestination, End::ResetBySource)) },
        )
    };
    let result = tokio::select! {
        biased;
        result = bytes => result.map(|_| ()),
        // Also while they are not read, because the other side does not take.
        () = failed(&source) => Err(End::ResetBySource),
        () = failed(&destination) => Err(End::ResetByDestination),
    };
    if result.is_ok() {
        end_on_close(&source);
        end_on_close(&destination);
    }
    Ended::by_pod(true, result.err().unwrap_or(End::Clean))
}

async fn failed(socket: &TcpStream) {
    // An error of the reactor itself ends this as well: nothing works then.
    let _ = socket.ready(Interest::ERROR).await;
}

enum Failed {
    Read,
    Write,
}

impl Failed {
    const fn whose(self, read: End, write: End) -> End {
        match self {
            Self::Read => read,
            Self::Write => write,
        }
    }
}

/// What came of one read and the write of it.
enum Step {
    /// Nothing was there.
    Nothing,
    /// It was taken, or what was not is in the rest.
    Moved,
    /// Nothing more comes.
    End,
}

async fn one_way(from: &TcpStream, to: &TcpStream, count: impl Fn(u64)) -> Result<(), Failed> {
    // What the taker did not take at once; the shared buffer serves the others meanwhile.
    let mut rest = Vec::new();
    loop {
        from.readable().await.map_err(|_| Failed::Read)?;
        match step(from, to, &mut rest, &count)? {
            Step::Nothing => {}
            Step::Moved => finish(to, std::mem::take(&mut rest), &count).await?,
            Step::End => return SockRef::from(to).shutdown(Shutdown::Write).map_err(|_| Failed::Write),
        }
    }
}

/// Reads once and writes at once what is taken.
fn step(from: &TcpStream, to: &TcpStream, rest: &mut Vec<u8>, count: &impl Fn(u64)) -> Result<Step, Failed> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(CHUNK, 0);
        let read = match from.try_read(scratch) {
            Ok(0) => return Ok(Step::End),
            Ok(read) => scratch.get(..read).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Nothing),
            Err(_) => return Err(Failed::Read),
        };
        let written = match to.try_write(read) {
            Ok(written) => written,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(Failed::Write),
        };
        count(u64::try_from(written).unwrap_or(0));
        rest.extend_from_slice(read.get(written..).unwrap_or_default());
        Ok(Step::Moved)
    })
}

/// Writes all of it, when the taker takes it.
async fn finish(to: &TcpStream, bytes: Vec<u8>, count: &impl Fn(u64)) -> Result<(), Failed> {
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.writable().await.map_err(|_| Failed::Write)?;
        match to.try_write(rest) {
            Ok(written) => {
                count(u64::try_from(written).unwrap_or(0));
                rest = rest.get(written..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Failed::Write),
        }
    }
    Ok(())
}
