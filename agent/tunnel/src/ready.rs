//! Which streams have something to do. Each stream has a waker of its own that puts its number into a
//! list, so that a thousand idle streams cost a turn nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use futures_util::task::AtomicWaker;

/// The list, shared by a tunnel and its streams' wakers. Bounded by the number of streams: each is in
/// it once at most.
#[derive(Debug, Default)]
pub(crate) struct ReadyList {
    queues: Mutex<Queues>,
    task: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queues {
    /// Have bytes to move, or may have.
    bytes: VecDeque<u32>,
    /// Their peer has ended, or both sides have: closing can wait until the bytes of others are on their way.
    ends: VecDeque<u32>,
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
        let queues = self.queues();
        queues.bytes.is_empty() && queues.ends.is_empty()
    }

    /// All numbers that are in the list now, but for those that are only to be closed.
    pub(crate) fn take(&self, into: &mut VecDeque<u32>) {
        append(into, &mut self.queues().bytes);
    }

    /// Those that are only to be closed.
    pub(crate) fn take_ends(&self, into: &mut VecDeque<u32>) {
        append(into, &mut self.queues().ends);
    }

    /// Gives back the room that nothing is in.
    pub(crate) fn release(&self) {
        let mut queues = self.queues();
        queues.bytes.shrink_to_fit();
        queues.ends.shrink_to_fit();
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As `VecDeque::append`, without a copy where nothing is before it, as here mostly.
fn append(into: &mut VecDeque<u32>, from: &mut VecDeque<u32>) {
    if into.is_empty() {
        std::mem::swap(into, from);
    } else {
        into.append(from);
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
            self.list.queues().bytes.push_back(self.stream);
        }
    }

    /// Puts the stream into the list, behind all that have bytes to move, unless it is there.
    pub(crate) fn push_end(&self) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.list.queues().ends.push_back(self.stream);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_only_to_be_closed_comes_behind_the_others_and_each_once() {
        let list = Arc::<ReadyList>::default();
        let [one, two, three] = [1, 2, 3].map(|stream| list.waker(stream));
        one.push_end();
        two.push();
        // It is there already.
        one.push();
        two.push_end();
        three.push_end();
        assert!(!list.is_empty());
        let (mut bytes, mut ends) = (VecDeque::new(), VecDeque::new());
        list.take(&mut bytes);
        assert!(!list.is_empty());
        list.take_ends(&mut ends);
        assert!(list.is_empty());
        assert_eq!((bytes, ends), (VecDeque::from([2]), VecDeque::from([1, 3])));
        // Whoever was looked at may come again.
        one.taken();
        one.push();
        let mut again = VecDeque::new();
        list.take(&mut again);
        assert_eq!(again, [1]);
    }

    #[test]
    fn released_it_keeps_who_is_in_it_and_no_room_for_who_was() {
        let list = Arc::<ReadyList>::default();
        let wakers: Vec<_> = (0..1_000).map(|stream| list.waker(stream)).collect();
        wakers.iter().for_each(|waker| waker.push());
        let mut queue = VecDeque::from([0]);
        list.take(&mut queue);
        let [first, ..] = &*wakers else { panic!("a thousand") };
        first.taken();
        first.push_end();
        list.release();
        let queues = list.queues();
        assert!(queues.bytes.capacity() + queues.ends.capacity() < 10);
        assert_eq!(queues.ends, [0]);
    }
}
