//! Bytes that wait for who does not read them, applications and other agents. A stream's window and a tunnel's records
//! bound what waits for one; here all of an agent's are bounded, each peer's share of them too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lark_core::quota::{Full, Origin, Quota};

/// How much an agent holds, in accounts of which none can take another's: what has come out of tunnels for applications,
/// what connections that it joins itself hold, and what waits for other agents. Each is one for all workers and both
/// ends of tunnels. They are locked only for bytes that have to wait, never for those that pass.
#[derive(Debug, Clone)]
pub struct Holding {
    tunnels: Arc<Account>,
    joins: Arc<Account>,
    leaving: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    quota: Mutex<Quota>,
    /// How much is held, for those who ask often, and what one origin may have in any case.
    total: AtomicUsize,
    share: usize,
}

impl Account {
    fn new(most: usize) -> Arc<Self> {
        let quota = Quota::new(most);
        let share = quota.share();
        Arc::new(Self { quota: Mutex::new(quota), total: AtomicUsize::new(0), share })
    }

    fn quota(&self) -> MutexGuard<'_, Quota> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, origin: Origin, bytes: usize) -> Result<(), Full> {
        self.change(|quota| quota.take(origin, bytes))
    }

    fn has_room(&self, origin: Origin, bytes: usize) -> bool {
        // Nobody has more than there is.
        self.total.load(Ordering::Relaxed).saturating_add(bytes) <= self.share
            || self.quota().room(origin, bytes).is_ok()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Quota) -> T) -> T {
        let mut quota = self.quota();
        let changed = change(&mut quota);
        self.total.store(quota.total(), Ordering::Relaxed);
        changed
    }

    fn give(&self, origin: Origin, bytes: usize) {
        self.change(|quota| quota.give(origin, bytes));
    }
}

impl Holding {
    /// At most that many bytes out of tunnels, of joined connections, and for other agents. A quarter of each is for one
    /// node, or for one pod.
    pub fn new(tunnels: usize, joins: usize, leaving: usize) -> Self {
        Self { tunnels: Account::new(tunnels), joins: Account::new(joins), leaving: Account::new(leaving) }
    }

    /// At most that many bytes of all: half for what comes out of tunnels, a quarter each for the others.
    pub fn of_all(most: usize) -> Self {
        Self::new(most / 2, most / 4, most / 4)
    }

    /// Bytes that are held now.
    pub fn total(&self) -> usize {
        [&self.tunnels, &self.joins, &self.leaving].map(|account| account.quota().total()).iter().sum()
    }

    /// What waits for the other end of one tunnel; it is given back with it.
    pub(crate) fn leaving(&self, origin: Origin) -> Held {
        Held { account: self.leaving.clone(), origin, bytes: 0 }
    }

    /// The share of a pod of this node, by its number.
    pub fn of_pod(&self, pod: u32) -> PodShare {
        PodShare { joins: self.joins.clone(), pod }
    }

    /// What is held for applications of one tunnel; it is given back with it.
    pub(crate) fn of(&self, origin: Origin) -> Held {
        Held { account: self.tunnels.clone(), origin, bytes: 0 }
    }
}

/// What connections that this agent joins itself may hold for one pod. Small, since each has one.
#[derive(Debug, Clone)]
pub struct PodShare {
    joins: Arc<Account>,
    pod: u32,
}

impl PodShare {
    /// So many bytes are held, until what is returned is dropped.
    pub(crate) fn holding(&self, bytes: usize) -> Held {
        let mut held = Held { account: self.joins.clone(), origin: Origin::Pod(self.pod), bytes: 0 };
        held.overdraw(bytes);
        held
    }

    /// Whether there is room for so many bytes more.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.joins.has_room(Origin::Pod(self.pod), bytes)
    }
}

/// What one tunnel, or one joined connection, holds for one that does not read, of what its agent may hold.
#[derive(Debug)]
pub(crate) struct Held {
    account: Arc<Account>,
    origin: Origin,
    bytes: usize,
}

impl Held {
    /// That many more are to be held.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), Full> {
        self.account.take(self.origin, bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// That many more are held already.
    pub(crate) fn overdraw(&mut self, bytes: usize) {
        self.account.change(|quota| quota.overdraw(self.origin, bytes));
        self.bytes += bytes;
    }

    /// That many are held in all, unless they were more before: [released](Self::release_all) is all at once.
    pub(crate) fn reach(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.overdraw(bytes - self.bytes);
        }
    }

    /// Whether there is room for so many in all.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        bytes <= self.bytes || self.account.has_room(self.origin, bytes - self.bytes)
    }

    /// Whether its origin has twice its share.
    pub(crate) fn is_far_over(&self) -> bool {
        self.account.quota().is_far_over(self.origin)
    }

    /// All are gone.
    pub(crate) fn release_all(&mut self) {
        self.release(self.bytes);
    }

    /// That many are gone.
    pub(crate) fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if bytes > 0 {
            self.account.give(self.origin, bytes);
            self.bytes -= bytes;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release_all();
    }
}
