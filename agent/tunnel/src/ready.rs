//! Which streams have something to do. Each stream has a waker of its own that puts its number into a
//! list, so that a thousand idle streams cost a turn nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// The list, shared by a tunnel and its streams' wakers. Bounded by the number of streams: each is in
/// it once at most.
#[derive(Debug, Default)]
pub(crate) struct ReadyList {
    queue: Mutex<VecDeque<u32>>,
    task: AtomicWaker,
}

/// A stream's waker.
#[derive(Debug)]
pub(crate) struct StreamWaker {
    stream: u32,
    queued: AtomicBool,
    list: Arc<ReadyList>,
}

impl ReadyList {
    /// Who is to be woken when the list is no longer empty.
    pub(crate) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Wakes the tunnel for another cause than a stream.
    pub(crate) fn wake(&self) {
        self.task.wake();
    }

    /// A waker for a stream.
    pub(crate) fn waker(self: &Arc<Self>, stream: u32) -> Arc<StreamWaker> {
        Arc::new(StreamWaker { stream, queued: AtomicBool::new(false), list: self.clone() })
    }

    /// Whether no stream has anything to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// All numbers that are in the list now.
    pub(crate) fn take(&self, into: &mut VecDeque<u32>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut queue);
    }
}

impl StreamWaker {
    /// The stream is being looked at: what happens from now on is news.
    pub(crate) fn taken(&self) {
        self.queued.store(false, Ordering::Release);
    }

    /// Puts the stream into the list.
    pub(crate) fn push(&self) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.list.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.stream);
        }
    }
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.push();
        self.list.task.wake();
    }
}
