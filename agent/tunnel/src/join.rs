//! Two local sockets joined: same node, or passthrough. Half-close stays half-close, reset stays reset,
//! and neither side is read while the other does not take.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::time::Duration;

use lark_sys::socket::{end_on_close, read_now, write_now};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use crate::ended::{End, Ended};
use crate::held::PodShare;
use crate::pipes::{self, HOLDS};
use crate::pod::PodSocket;
use crate::traffic::Traffic;

const CHUNK: usize = 256 * 1024;
/// The same while as much waits as may.
const LITTLE: usize = 16 * 1024;
/// Moves of a direction before others of the worker get their turn.
const TURNS: u32 = 16;
/// For how long a pipe waits for whoever does not take what is in it.
const PATIENCE: Duration = Duration::from_millis(100);
/// What came at once when the next is worth a pipe: two calls that move pages, not two that copy.
const BULK: usize = 32 * 1024;
/// Reads of what a socket that takes no more has said before.
const LAST_WORDS: u32 = 16;

thread_local! {
    /// Shared by all joined sockets of the worker, since each uses it only within one call.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Moves bytes between `source` and `destination` until both directions have ended, or one socket has
/// failed: then both are reset. What waits for either is counted in `share`; while there is no room for more, little
/// is read at a time.
///
/// Dropping the future resets both sockets, and so does the kernel when the agent is killed.
pub fn join(
    source: PodSocket,
    destination: PodSocket,
    traffic: impl Into<Traffic>,
    share: PodShare,
) -> impl Future<Output = Ended> {
    let (source, destination) = (source.into_inner(), destination.into_inner());
    let shared = Shared { traffic: RefCell::new(traffic.into()), share, waits: Cell::default() };
    // Made here, so that the future has each of them once.
    async move { pass(&source, &destination, &shared).await }
}

async fn pass(source: &TcpStream, destination: &TcpStream, shared: &Shared) -> Ended {
    let (there, back) = (Way { shared, back: false }, Way { shared, back: true });
    let bytes = async {
        tokio::try_join!(
            async {
                let ended = one_way(source, destination, there).await;
                ended.map_err(|failed| (failed, false))
            },
            async {
                let ended = one_way(destination, source, back).await;
                ended.map_err(|failed| (failed, true))
            },
        )
    };
    let result = tokio::select! {
        biased;
        result = bytes => result.map(|_| ()),
        // Also while they are not read, because the other side does not take.
        () = failed(source) => Err((why(source), false)),
        () = failed(destination) => Err((why(destination), true)),
    };
    let how = match result {
        Ok(()) => {
            end_on_close(source);
            end_on_close(destination);
            End::Clean
        }
        // Of the way there the source is read, of the way back the destination.
        Err((Failed::Read | Failed::ReadDestroyed, false)) => End::ResetBySource,
        Err((Failed::Read | Failed::ReadDestroyed, true)) => End::ResetByDestination,
        Err((Failed::Write | Failed::WriteDestroyed, false)) => {
            last_words(destination, source, back);
            End::ResetByDestination
        }
        Err((Failed::Write | Failed::WriteDestroyed, true)) => {
            last_words(source, destination, there);
            End::ResetBySource
        }
    };
    // Neither end gave up where a socket was destroyed.
    let destroyed = matches!(result, Err((Failed::ReadDestroyed | Failed::WriteDestroyed, _)));
    shared.traffic.borrow_mut().ended(if destroyed { End::Lost } else { how });
    Ended::by_pod(true, how)
}

/// Hands on what a socket has said before it took no more, as far as the other end takes it at once: an answer to a
/// request that its application did not read to the end, mostly.
fn last_words(from: &TcpStream, to: &TcpStream, way: Way<'_>) {
    let mut rest = Vec::new();
    // Not past what was said before and still waits.
    for _ in 0..if way.waits() { 0 } else { LAST_WORDS } {
        match step(from, to, &mut rest, way, true) {
            Ok(Step::Moved(_)) if rest.is_empty() => {}
            _ => return,
        }
    }
}

async fn failed(socket: &TcpStream) {
    // An error of the reactor itself ends this as well: nothing works then.
    let _ = socket.ready(Interest::ERROR).await;
}

fn why(socket: &TcpStream) -> Failed {
    socket.take_error().ok().flatten().map_or(Failed::Read, Failed::read)
}

#[derive(Clone, Copy)]
enum Failed {
    Read,
    Write,
    /// The same, since the agent itself destroyed the socket, as it does for policies (`Engine::pod_failed`).
    ReadDestroyed,
    WriteDestroyed,
}

impl Failed {
    fn read(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::ConnectionAborted { Self::ReadDestroyed } else { Self::Read }
    }

    fn write(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::ConnectionAborted { Self::WriteDestroyed } else { Self::Write }
    }
}

/// What both directions have of one connection.
struct Shared {
    traffic: RefCell<Traffic>,
    share: PodShare,
    /// Whether something waits for the taker, of both directions.
    waits: Cell<[bool; 2]>,
}

/// What came of one read and the write of it.
enum Step {
    /// Nothing was there.
    Nothing,
    /// So many bytes were; they were taken, or what was not is in the rest.
    Moved(usize),
    /// Nothing more comes.
    End,
}

/// One direction of what passes.
#[derive(Clone, Copy)]
struct Way<'a> {
    shared: &'a Shared,
    back: bool,
}

impl Way<'_> {
    /// Whether the bytes need not be looked at, but for their count.
    fn is_unseen(self) -> bool {
        self.shared.traffic.borrow().is_unseen()
    }

    fn waits(self) -> bool {
        let [there, back] = self.shared.waits.get();
        if self.back { back } else { there }
    }

    fn set_waits(self, waits: bool) {
        let [there, back] = self.shared.waits.get();
        self.shared.waits.set(if self.back { [there, waits] } else { [waits, back] });
    }

    fn seen(self, bytes: &[u8]) {
        let mut traffic = self.shared.traffic.borrow_mut();
        match self.back {
            false => traffic.said_by_source(bytes),
            true => traffic.said_by_destination(bytes),
        }
    }

    fn ended(self) {
        let mut traffic = self.shared.traffic.borrow_mut();
        match self.back {
            false => traffic.source_ended(),
            true => traffic.destination_ended(),
        }
    }

    fn count(self, bytes: usize) {
        let traffic = self.shared.traffic.borrow();
        match self.back {
            false => traffic.add_sent(bytes),
            true => traffic.add_received(bytes),
        }
    }
}

/// What is awaited only while somebody does not take is in boxes, or every joined connection had room for it.
async fn one_way(from: &TcpStream, to: &TcpStream, way: Way<'_>) -> Result<(), Failed> {
    // What the taker did not take at once; the shared buffer serves the others meanwhile.
    let mut rest = Vec::new();
    // The reactor tells what a new socket can do only in its next turn; mostly its first bytes are there.
    let mut is_new = true;
    let mut bulk = false;
    let mut moves = 0_u32;
    loop {
        if !is_new {
            from.readable().await.map_err(Failed::read)?;
        }
        moves = moves.wrapping_add(1);
        if moves.is_multiple_of(TURNS) {
            tokio::task::yield_now().await;
        }
        if bulk && way.shared.share.has_room(HOLDS) {
            let count = splice(from, to, &mut rest, way).await?;
            if count > 0 {
                if !rest.is_empty() {
                    Box::pin(finish(to, std::mem::take(&mut rest), way)).await?;
                }
                bulk = count >= BULK;
                continue;
            }
        }
        match step(from, to, &mut rest, way, std::mem::take(&mut is_new))? {
            Step::Nothing => {}
            Step::Moved(count) => {
                if !rest.is_empty() {
                    Box::pin(finish(to, std::mem::take(&mut rest), way)).await?;
                }
                bulk = count >= BULK && way.is_unseen();
            }
            Step::End => {
                way.ended();
                return SockRef::from(to).shutdown(Shutdown::Write).map_err(Failed::write);
            }
        }
    }
}

/// Moves what waits, once, through a pipe. Returns how many bytes; where there are none, a read tells why. That may be
/// since urgent data is next, at which splices stop (`tcp_read_sock`, net/ipv4/tcp.c); so what the socket can do is left
/// to the read to say.
async fn splice(from: &TcpStream, to: &TcpStream, rest: &mut Vec<u8>, way: Way<'_>) -> Result<usize, Failed> {
    let Some(mut lent) = pipes::lend_for_long() else { return Ok(0) };
    let pipe = &mut lent.pipe;
    let count = pipe.fill_some(from, HOLDS).map_err(Failed::read)?;
    if count > 0 {
        crate::spin::moved(1);
    }
    let mut until = None;
    way.set_waits(true);
    while pipe.holds() > 0 {
        match to.try_io(Interest::WRITABLE, || pipe.drain(to, false)) {
            Ok(written @ 1..) => way.count(written),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
                match Box::pin(taken(to, pipe.holds(), until, way)).await {
                    Ok(writable) => writable.map_err(Failed::write)?,
                    // Others may have the pipe.
                    Err(_) => *rest = pipe.take().map_err(Failed::read)?,
                }
            }
            Ok(0) => return Err(Failed::Write),
            Err(e) => return Err(Failed::write(e)),
        }
    }
    way.set_waits(!rest.is_empty());
    lent.give_back();
    Ok(count)
}

/// Waits until a socket takes more while so much waits for it.
async fn taken(
    to: &TcpStream,
    waits: usize,
    until: Instant,
    way: Way<'_>,
) -> Result<io::Result<()>, Elapsed> {
    let _held = way.shared.share.holding(waits);
    tokio::time::timeout_at(until, to.writable()).await
}

/// Reads once and writes at once what is taken.
fn step(
    from: &TcpStream,
    to: &TcpStream,
    rest: &mut Vec<u8>,
    way: Way<'_>,
    is_new: bool,
) -> Result<Step, Failed> {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(CHUNK, 0);
        let most = if way.shared.share.has_room(CHUNK) { CHUNK } else { LITTLE };
        let scratch = scratch.get_mut(..most).unwrap_or_default();
        let result = if is_new { read_now(from, scratch) } else { from.try_read(scratch) };
        let read = match result {
            Ok(0) => return Ok(Step::End),
            Ok(read) => scratch.get(..read).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Nothing),
            Err(e) => return Err(Failed::read(e)),
        };
        way.seen(read);
        let result = if is_new { write_now(to, &[IoSlice::new(read)]) } else { to.try_write(read) };
        let written = match result {
            Ok(written) => written,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(Failed::write(e)),
        };
        crate::spin::moved(1);
        way.count(written);
        rest.extend_from_slice(read.get(written..).unwrap_or_default());
        Ok(Step::Moved(read.len()))
    })
}

/// Writes all of it, when the taker takes it.
async fn finish(to: &TcpStream, bytes: Vec<u8>, way: Way<'_>) -> Result<(), Failed> {
    // What is in hand stays in hand; if it is too much, of what follows little is read.
    let _held = way.shared.share.holding(bytes.len());
    way.set_waits(true);
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.writable().await.map_err(Failed::write)?;
        match to.try_write(rest) {
            Ok(written) => {
                way.count(written);
                rest = rest.get(written..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(Failed::write(e)),
        }
    }
    way.set_waits(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::held::Holding;

    fn size<F>(_join: impl Fn(PodSocket, PodSocket, Traffic, PodShare) -> F) -> usize {
        size_of::<F>()
    }

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn while_a_pods_share_is_full_little_is_read_of_its_connections() {
        let holding = Holding::new(0, 16 * CHUNK, 0);
        let ((mut source, from), (to, _destination)) = (sockets().await, sockets().await);
        source.write_all(&[7; CHUNK / 4]).await.unwrap();
        from.readable().await.unwrap();
        let read = |pod: u32| {
            let traffic = RefCell::new(Traffic::default());
            let shared = Shared { traffic, share: holding.of_pod(pod), waits: Cell::default() };
            match step(&from, &to, &mut Vec::new(), Way { shared: &shared, back: false }, true) {
                Ok(Step::Moved(count)) => count,
                _ => 0,
            }
        };
        let full = holding.of_pod(1).holding(4 * CHUNK);
        assert_eq!(read(1), LITTLE);
        drop(full);
        assert_eq!((read(1), holding.total()), (CHUNK / 4 - LITTLE, 0));
        // What others hold is theirs.
        let _full = holding.of_pod(1).holding(4 * CHUNK);
        source.write_all(&[7; CHUNK / 4]).await.unwrap();
        from.readable().await.unwrap();
        assert!(read(2) > LITTLE);
    }

    #[test]
    fn an_idle_pair_holds_what_it_waits_with_and_no_more() {
        let size = size(join);
        assert!(size <= 1248, "{size}");
    }
}
