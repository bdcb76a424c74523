//! A worker's spin: before it sleeps it looks for more a while, if that has paid lately.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use lark_core::spin::{BUSY, Looks};

thread_local! {
    /// Sockets of this worker that had something to move, over time.
    static MOVED: Cell<u64> = const { Cell::new(0) };
    /// The spin, while it waits for that.
    static WAITING: RefCell<Option<Waker>> = const { RefCell::new(None) };
}

/// That many sockets had something to move; whoever got it may answer soon.
pub fn moved(sockets: usize) {
    MOVED.set(MOVED.get().wrapping_add(u64::try_from(sockets).unwrap_or(1)));
    if let Some(waker) = WAITING.take() {
        waker.wake();
    }
}

/// There is more to move after the reactor has looked: whoever spins may stop.
pub(crate) fn busy() {
    moved(usize::try_from(BUSY).map_or(usize::MAX, |busy| busy + 1));
}

/// Spins for at most `limit` after bytes were moved, for ever. A task of the worker's own runtime: each of
/// its turns lets the reactor look for events without sleeping, and other processes have the CPU first.
pub async fn spin(limit: Duration) {
    let mut looks = Looks::default();
    loop {
        let mut seen = MOVED.get();
        poll_fn(|cx| {
            if MOVED.get() != seen {
                return Poll::Ready(());
            }
            WAITING.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
        if !looks.is_worth_it() {
            continue;
        }
        seen = MOVED.get();
        let mut since = Instant::now();
        loop {
            std::thread::yield_now();
            tokio::task::yield_now().await;
            let found = MOVED.get().wrapping_sub(seen);
            seen = seen.wrapping_add(found);
            if found > BUSY {
                break;
            }
            if found > 0 {
                looks.ended(true);
                since = Instant::now();
            } else if since.elapsed() >= limit {
                looks.ended(false);
                break;
            }
        }
    }
}
