//! Bytes that wait for applications which do not read. Each stream's window bounds its own; here all of an
//! agent's are bounded, each peer's share of them too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lark_core::quota::{Full, Origin, Quota};

/// How much an agent holds: one account for all workers and both ends of tunnels, and one for the connections that it
/// joins itself, so that neither can take the other's. They are locked only for bytes that have to wait, never for
/// those that pass.
#[derive(Debug, Clone)]
pub struct Holding {
    tunnels: Arc<Account>,
    joins: Arc<Account>,
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
    /// At most that many bytes of tunnels, and of joined connections. Of the former a quarter is for each node, of the
    /// latter for each pod.
    pub fn new(tunnels: usize, joins: usize) -> Self {
        Self { tunnels: Account::new(tunnels), joins: Account::new(joins) }
    }

    /// At most that many bytes of all: three quarters for tunnels, one for joined connections.
    pub fn of_all(most: usize) -> Self {
        Self::new(most / 4 * 3, most / 4)
    }

    /// Bytes that are held now.
    pub fn total(&self) -> usize {
        self.tunnels.quota().total() + self.joins.quota().total()
    }

    /// The share of a pod of this node, by its number.
    pub fn of_pod(&self, pod: u32) -> PodShare {
        PodShare { joins: self.joins.clone(), pod }
    }

    /// What is held for one tunnel; it is given back with it.
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
        // Nobody has more than there is.
        self.joins.total.load(Ordering::Relaxed).saturating_add(bytes) <= self.joins.share
            || self.joins.quota().room(Origin::Pod(self.pod), bytes).is_ok()
    }
}

/// What one tunnel, or one joined connection, holds for those that do not read, of what its agent may hold.
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
        self.release(self.bytes);
    }
}
