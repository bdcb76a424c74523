//! One stream: a pod's socket at the end of a tunnel.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use lark_core::observe::ByteCounters;
use lark_sys::socket::reset_on_close;
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::ended::Ended;
use crate::ready::StreamWaker;
use crate::settings::Side;

/// Bytes that may be sent before the answer to a CONNECT has come.
pub(crate) const EARLY: usize = 16 * 1024;

/// Is told how the stream ended.
pub(crate) type OnEnd = Box<dyn FnOnce(Ended)>;
/// Is told that the stream is open from end to end.
pub(crate) type OnOpen = Box<dyn FnOnce()>;

/// What a read from the pod gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FromPod {
    /// Nothing now; the waker is registered.
    Nothing,
    /// The pod sends no more.
    End,
    /// Bytes, and whether more may be there.
    Bytes {
        /// How many.
        count: usize,
        /// Whether to read again.
        more: bool,
    },
}

/// One stream of a tunnel, seen from this end.
pub(crate) struct Stream {
    side: Side,
    pub(crate) waker: Arc<StreamWaker>,
    task_waker: Waker,
    /// The pod's socket; at the accepting end there is none until the dial is done.
    pub(crate) pod: Option<TcpStream>,
    counters: Option<Arc<ByteCounters>>,
    /// What arrived and the pod did not take yet; bounded by the stream's window.
    backlog: Vec<u8>,
    /// How much of the backlog the pod has taken.
    taken: usize,
    pub(crate) answered: bool,
    /// Bytes sent before the answer.
    pub(crate) early: usize,
    /// The pod said that it sends no more.
    pub(crate) pod_ended: bool,
    /// The peer said that it sends no more.
    pub(crate) peer_ended: bool,
    shut: bool,
    pub(crate) on_open: Option<OnOpen>,
    pub(crate) on_end: Option<OnEnd>,
}

impl Stream {
    pub(crate) fn new(side: Side, waker: Arc<StreamWaker>) -> Self {
        let task_waker = Waker::from(waker.clone());
        Self {
            side,
            waker,
            task_waker,
            pod: None,
            counters: None,
            backlog: Vec::new(),
            taken: 0,
            answered: false,
            early: 0,
            pod_ended: false,
            peer_ended: false,
            shut: false,
            on_open: None,
            on_end: None,
        }
    }

    pub(crate) fn attach(&mut self, pod: TcpStream, counters: Arc<ByteCounters>) {
        lark_sys::socket::set_nodelay(&pod);
        self.pod = Some(pod);
        self.counters = Some(counters);
        self.waker.push();
    }

    /// Takes DATA of the peer: what the pod takes at once, and the rest into the backlog. Returns how
    /// many bytes the pod took.
    pub(crate) fn arrived(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = if self.backlog.is_empty() { self.write(bytes)? } else { 0 };
        let rest = bytes.get(written..).unwrap_or_default();
        if !rest.is_empty() {
            self.backlog.extend_from_slice(rest);
        }
        Ok(written)
    }

    /// Gives the pod what waits, and its end after that. Returns how many bytes it took.
    pub(crate) fn drain(&mut self) -> io::Result<usize> {
        let mut total = 0;
        while self.taken < self.backlog.len() {
            let backlog = std::mem::take(&mut self.backlog);
            let written = self.write(backlog.get(self.taken..).unwrap_or_default());
            self.backlog = backlog;
            let written = written?;
            if written == 0 {
                break;
            }
            self.taken += written;
            total += written;
        }
        if self.taken == self.backlog.len() {
            // Gives large buffers back: an idle stream holds none.
            self.backlog = Vec::new();
            self.taken = 0;
            if self.peer_ended
                && !self.shut
                && let Some(pod) = &self.pod
            {
                self.shut = true;
                SockRef::from(pod).shutdown(Shutdown::Write)?;
            }
        } else if self.taken > self.backlog.len() / 2 {
            self.backlog.drain(..self.taken);
            self.taken = 0;
        }
        Ok(total)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(pod) = &self.pod else { return Ok(0) };
        let mut cx = Context::from_waker(&self.task_waker);
        let mut written = 0;
        while written < bytes.len() {
            match pod.try_write(bytes.get(written..).unwrap_or_default()) {
                Ok(count) => written += count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // Registers; if it became writable meanwhile, goes on.
                    if pod.poll_write_ready(&mut cx)?.is_pending() {
                        break;
                    }
                }
                Err(e) => return Err(e),
            }
        }
        if let Some(counters) = &self.counters {
            let count = u64::try_from(written).unwrap_or(0);
            match self.side {
                Side::Client => counters.add_received(count),
                Side::Server => counters.add_sent(count),
            }
        }
        Ok(written)
    }

    /// Reads from the pod once.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<FromPod> {
        let Some(pod) = &mut self.pod else { return Ok(FromPod::Nothing) };
        let mut cx = Context::from_waker(&self.task_waker);
        let mut read = ReadBuf::new(buffer);
        if Pin::new(&mut *pod).poll_read(&mut cx, &mut read)?.is_pending() {
            return Ok(FromPod::Nothing);
        }
        let count = read.filled().len();
        if count == 0 {
            return Ok(FromPod::End);
        }
        if let Some(counters) = &self.counters {
            let count = u64::try_from(count).unwrap_or(0);
            match self.side {
                Side::Client => counters.add_sent(count),
                Side::Server => counters.add_received(count),
            }
        }
        // After a short read this registers without a system call.
        let more = pod.poll_read_ready(&mut cx)?.is_ready();
        Ok(FromPod::Bytes { count, more })
    }

    /// An error that waits on the socket although nobody reads it, such as a reset.
    pub(crate) fn pending_error(&self) -> Option<io::Error> {
        self.pod.as_ref().and_then(|pod| pod.take_error().ok().flatten())
    }

    /// Whether both directions have ended and everything is delivered.
    pub(crate) fn is_done(&self) -> bool {
        self.pod_ended && self.shut
    }

    /// Closes the pod's socket with a reset: it must not take this for an end.
    pub(crate) fn reset_pod(&mut self) {
        if let Some(pod) = self.pod.take() {
            reset_on_close(&pod);
        }
    }
}
