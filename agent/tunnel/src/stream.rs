//! One stream: a pod's socket at the end of a tunnel.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use lark_core::framing::{ConnectRequest, StreamId};
use lark_core::policy::Denial;
use lark_core::pool::PoolKey;
use lark_sys::splice::Pipe;

use crate::backlog::Backlog;
use crate::ended::{End, Ended};
use crate::fate::Teller;
use crate::pod::{Pod, PodSocket};
use crate::ready::StreamWaker;
use crate::settings::Side;
use crate::traffic::Traffic;

/// Bytes that may be sent before the answer to a CONNECT has come.
const EARLY: usize = 16 * 1024;

/// A read that brings so much brings more after it, probably.
const BULK: usize = crate::engine::SHARED_QUANTUM;

/// Where a connection is to go.
pub(crate) struct Wanted {
    /// Which tunnels may take it.
    pub(crate) key: PoolKey,
    /// What is asked of the other end.
    pub(crate) request: ConnectRequest,
}

/// A connection of a pod on its way into a tunnel; it may come back and go into another.
pub struct Carried {
    /// In a box of its own: it is let go of when the stream is open, the rest stays to the end.
    pub(crate) wanted: Box<Wanted>,
    pub(crate) pod: Pod,
    pub(crate) traffic: Traffic,
    /// What was read from the pod already.
    pub(crate) early: Vec<u8>,
    /// Whether the pod sends no more.
    pub(crate) pod_ended: bool,
}

impl Carried {
    /// A pod's accepted socket, what is asked of the other end, and which tunnels may take it there. Dropped, it
    /// resets the pod's socket.
    pub fn new(
        key: PoolKey,
        request: ConnectRequest,
        pod: impl Into<PodSocket>,
        traffic: impl Into<Traffic>,
    ) -> Self {
        Self {
            wanted: Box::new(Wanted { key, request }),
            pod: Pod::new(pod.into()),
            traffic: traffic.into(),
            early: Vec::new(),
            pod_ended: false,
        }
    }
}

impl std::fmt::Debug for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Wanted { key, request } = &*self.wanted;
        f.debug_struct("Carried").field("key", key).field("request", request).finish_non_exhaustive()
    }
}

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

/// Who is told what becomes of the stream.
pub(crate) enum Told {
    /// The dialling end's carrier, who gets the connection back if nobody saw it; once it was answered, somebody did.
    Carrier(Teller, Option<Box<Wanted>>),
    /// Whoever delivered; nobody while that is under way.
    Deliverer(Option<Box<dyn FnOnce(Ended)>>),
}

/// One stream of a tunnel, seen from this end.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) waker: Arc<StreamWaker>,
    task_waker: Waker,
    side: Side,
    told: Told,
    /// At the accepting end there is none until the dial is done.
    pod: Option<Pod>,
    traffic: Traffic,
    backlog: Backlog,
    answered: bool,
    /// The pod had much when it was last read.
    bulk: bool,
    /// What was read before the answer came, kept in case that the peer never saw the stream.
    early: Vec<u8>,
    early_sent: usize,
    /// The pod said that it sends no more, ...
    pod_ended: bool,
    /// ... and we said so to the peer.
    end_sent: bool,
    /// The peer said that it sends no more, ...
    peer_ended: bool,
    /// ... and we said so to the pod.
    shut: bool,
    /// The pod has said something since.
    spoke_after: bool,
}

impl Stream {
    /// A stream that this end opened.
    pub(crate) fn dialled(id: StreamId, waker: Arc<StreamWaker>, carried: Carried, teller: Teller) -> Self {
        let Carried { wanted, pod, traffic, early, pod_ended } = carried;
        let told = Told::Carrier(teller, Some(wanted));
        Self { pod: Some(pod), traffic, early, pod_ended, ..Self::new(Side::Client, id, waker, told) }
    }

    /// A stream that the peer opened.
    pub(crate) fn accepted(id: StreamId, waker: Arc<StreamWaker>) -> Self {
        Self::new(Side::Server, id, waker, Told::Deliverer(None))
    }

    fn new(side: Side, id: StreamId, waker: Arc<StreamWaker>, told: Told) -> Self {
        let task_waker = Waker::from(waker.clone());
        Self {
            id,
            waker,
            task_waker,
            side,
            told,
            pod: None,
            traffic: Traffic::default(),
            backlog: Backlog::default(),
            answered: false,
            bulk: false,
            early: Vec::new(),
            early_sent: 0,
            pod_ended: false,
            end_sent: false,
            peer_ended: false,
            shut: false,
            spoke_after: false,
        }
    }

    /// The dial is done (accepting end).
    pub(crate) fn deliver(&mut self, pod: Pod, traffic: Traffic, on_end: Box<dyn FnOnce(Ended)>) {
        self.pod = Some(pod);
        self.traffic = traffic;
        // What came before anybody was there to take it.
        self.traffic.said_by_source(self.backlog.waiting());
        if self.peer_ended {
            self.traffic.source_ended();
        }
        self.told = Told::Deliverer(Some(on_end));
        self.answered = true;
        self.waker.push();
    }

    /// The other end has answered that the stream is open (dialling end).
    pub(crate) fn answered(&mut self, would_deny: Option<Denial>) {
        self.answered = true;
        self.traffic.opened();
        if let Told::Carrier(teller, wanted) = &mut self.told {
            *wanted = None;
            teller.opened(would_deny);
        }
        // What is not sent yet still has to go.
        if self.early_sent == self.early.len() {
            self.early = Vec::new();
            self.early_sent = 0;
        }
        self.waker.push();
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    /// The peer sends no more.
    pub(crate) fn peer_ended(&mut self) {
        self.peer_ended = true;
        match self.side {
            Side::Client => self.traffic.destination_ended(),
            Side::Server => self.traffic.source_ended(),
        }
        if self.pod.is_some() && self.backlog.is_empty() {
            self.waker.push_end();
        } else {
            self.waker.push();
        }
    }

    /// Gives the pod DATA of the peer, as much as it takes at once. Returns how many bytes; the rest is to
    /// be kept.
    pub(crate) fn arrived(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<usize> {
        let mut written = 0;
        if self.pod.is_some() {
            for slice in slices.iter() {
                match self.side {
                    Side::Client => self.traffic.said_by_destination(slice),
                    Side::Server => self.traffic.said_by_source(slice),
                }
            }
        }
        if let Some(pod) = &self.pod
            && self.backlog.is_empty()
        {
            let mut left = [IoSlice::new(&[]); crate::engine::RUN];
            let left = left.get_mut(..slices.len()).unwrap_or_default();
            left.copy_from_slice(slices);
            written = pod.write(&mut Context::from_waker(&self.task_waker), left)?;
            self.count_to_pod(written);
        }
        Ok(written)
    }

    /// Keeps what is left of DATA after its first `taken` bytes.
    pub(crate) fn keep(&mut self, slices: &[IoSlice<'_>], taken: usize) {
        self.backlog.push_after(slices, taken);
    }

    /// The same for bytes that did not come by a read.
    pub(crate) fn keep_bytes(&mut self, bytes: &[u8]) {
        self.backlog.push_after(&[IoSlice::new(bytes)], 0);
    }

    /// Whether DATA of the peer may go to the pod without being looked at.
    pub(crate) fn takes_unseen(&self) -> bool {
        self.pod.is_some() && self.backlog.is_empty() && self.traffic.is_unseen()
    }

    /// Gives the pod what is in the pipe, as much as it takes at once. Returns how many bytes.
    pub(crate) fn splice(&mut self, pipe: &mut Pipe) -> io::Result<usize> {
        let Some(pod) = &self.pod else { return Ok(0) };
        let written = pod.splice(&mut Context::from_waker(&self.task_waker), pipe)?;
        self.count_to_pod(written);
        Ok(written)
    }

    /// Whether what the pod has may go to the peer without being looked at, and is worth it: the last time it had
    /// much, and so much may be sent.
    pub(crate) fn gives_unseen(&self, most: usize) -> bool {
        self.bulk && most >= BULK && self.answered && self.traffic.is_unseen()
    }

    /// Takes what the pod has into a pipe, once. Returns how many bytes; where there are none, a read tells why.
    pub(crate) fn fill(&mut self, pipe: &mut Pipe, most: usize) -> io::Result<usize> {
        let Some(pod) = &mut self.pod else { return Ok(0) };
        let mut cx = Context::from_waker(&self.task_waker);
        let count = match pod.poll_fill(&mut cx, pipe, most)? {
            Poll::Pending | Poll::Ready(0) => return Ok(0),
            Poll::Ready(count) => count,
        };
        self.bulk = count >= BULK;
        self.count_from_pod(count);
        Ok(count)
    }

    fn count_from_pod(&mut self, bytes: usize) {
        self.spoke_after |= self.peer_ended;
        match self.side {
            Side::Client => self.traffic.add_sent(bytes),
            Side::Server => self.traffic.add_received(bytes),
        }
    }

    /// Whether the peer has spoken before it was answered, and may say more without an answer (accepting end).
    pub(crate) fn peer_needs_no_answer(&self) -> bool {
        (1..EARLY).contains(&self.waiting())
    }

    /// Bytes that wait for the pod.
    pub(crate) fn waiting(&self) -> usize {
        self.backlog.waiting().len()
    }

    /// Gives the pod what waits, and its end after that. Returns how many bytes it took, whether or not it
    /// failed after them.
    pub(crate) fn drain(&mut self) -> (usize, io::Result<()>) {
        let mut written = 0;
        let result = self.drain_into(&mut written);
        self.count_to_pod(written);
        (written, result)
    }

    fn drain_into(&mut self, written: &mut usize) -> io::Result<()> {
        let Some(pod) = &self.pod else { return Ok(()) };
        if !self.backlog.is_empty() {
            let mut cx = Context::from_waker(&self.task_waker);
            *written = pod.write(&mut cx, &mut [IoSlice::new(self.backlog.waiting())])?;
            self.backlog.take(*written);
        }
        if self.backlog.is_empty() && self.peer_ended && !self.shut {
            self.shut = true;
            pod.end()?;
        }
        Ok(())
    }

    fn count_to_pod(&self, bytes: usize) {
        match self.side {
            Side::Client => self.traffic.add_received(bytes),
            Side::Server => self.traffic.add_sent(bytes),
        }
    }

    /// Early bytes that this tunnel's peer has not got yet.
    pub(crate) fn early(&self) -> &[u8] {
        self.early.get(self.early_sent..).unwrap_or_default()
    }

    /// The peer was sent that many of them.
    pub(crate) fn early_sent(&mut self, count: usize) {
        self.early_sent += count;
        if self.answered && self.early_sent == self.early.len() {
            self.early = Vec::new();
            self.early_sent = 0;
        }
    }

    /// Most bytes that may be read from the pod now: before the answer, few.
    pub(crate) fn may_read(&self) -> usize {
        if self.answered { usize::MAX } else { EARLY.saturating_sub(self.early.len()) }
    }

    /// The next read asks the socket whatever the reactor knows of it.
    pub(crate) fn look_anyway(&mut self) {
        if let Some(pod) = &mut self.pod {
            pod.look_anyway();
        }
    }

    /// Reads from the pod once.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<FromPod> {
        let Some(pod) = &mut self.pod else { return Ok(FromPod::Nothing) };
        let mut cx = Context::from_waker(&self.task_waker);
        let count = match pod.poll_read(&mut cx, buffer)? {
            Poll::Pending => return Ok(FromPod::Nothing),
            Poll::Ready(0) => {
                self.pod_ended = true;
                match self.side {
                    Side::Client => self.traffic.source_ended(),
                    Side::Server => self.traffic.destination_ended(),
                }
                return Ok(FromPod::End);
            }
            Poll::Ready(count) => count,
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        match self.side {
            Side::Client => self.traffic.said_by_source(bytes),
            Side::Server => self.traffic.said_by_destination(bytes),
        }
        if !self.answered {
            self.early.extend_from_slice(bytes);
            self.early_sent = self.early.len();
        }
        // After a short read this registers without a system call.
        let more = pod.poll_readable(&mut cx)?.is_ready();
        self.bulk = count >= BULK;
        self.count_from_pod(count);
        Ok(FromPod::Bytes { count, more })
    }

    /// Whether the peer has yet to be told that the pod sends no more.
    pub(crate) fn owes_end(&self) -> bool {
        self.pod_ended && !self.end_sent
    }

    /// The peer was told.
    pub(crate) fn end_sent(&mut self) {
        self.end_sent = true;
    }

    /// Whether nothing is to be read any more.
    pub(crate) fn is_read(&self) -> bool {
        self.pod.is_none() || self.end_sent
    }

    /// Notices a failure, such as a reset, of a socket that is not read at present.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        let Some(pod) = &mut self.pod else { return Ok(()) };
        match pod.poll_failed(&mut Context::from_waker(&self.task_waker)) {
            Poll::Ready(error) => Err(error),
            Poll::Pending => Ok(()),
        }
    }

    /// The agent itself ended the pod's connection: neither of its ends gave up.
    pub(crate) fn aborted(&mut self) {
        self.traffic.ended(End::Lost);
    }

    /// Whether the end may wait: the peer has ended too, and its pod was told nothing since, so it has closed, most
    /// likely, and does not read on.
    pub(crate) fn may_end_late(&self) -> bool {
        self.peer_ended && !self.spoke_after
    }

    /// Whether both ends have said everything; the pod may still have to take some of it.
    pub(crate) fn is_settled(&self) -> bool {
        self.end_sent && self.peer_ended
    }

    /// Whether both directions have ended and everything is delivered.
    pub(crate) fn is_done(&self) -> bool {
        self.end_sent && self.shut
    }

    /// Parts the stream: the pod's socket, what is needed to take it elsewhere, and who is told.
    pub(crate) fn into_parts(self) -> (Option<Pod>, Traffic, Vec<u8>, bool, Told) {
        (self.pod, self.traffic, self.early, self.pod_ended, self.told)
    }
}

#[cfg(test)]
mod tests {
    use lark_core::framing::{Connection, Role, Settings};

    use super::*;
    use crate::ready::ReadyList;

    #[test]
    fn a_peer_waits_for_an_answer_before_it_speaks_or_once_it_has_said_all_that_it_may() {
        let request = ConnectRequest {
            authority: "10.0.0.2:80".parse().unwrap(),
            source: "10.0.0.1:4242".parse().unwrap(),
            host: None,
        };
        let id = Connection::new(Role::Client, Settings::default()).connect(&request).unwrap();
        for (said, needs_none) in [(0, false), (1, true), (EARLY - 1, true), (EARLY, false)] {
            let mut stream = Stream::accepted(id, Arc::<ReadyList>::default().waker(id.value()));
            stream.keep_bytes(&vec![7; said]);
            assert_eq!(stream.peer_needs_no_answer(), needs_none, "{said}");
        }
    }

    #[test]
    fn an_idle_stream_is_two_hundred_bytes() {
        // Beside it the pod's socket, which is tokio's, and its place among those that wait.
        assert!(size_of::<Stream>() <= 224, "{}", size_of::<Stream>());
    }
}
