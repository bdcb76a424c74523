//! Bytes that wait for applications which do not read. Each stream's window bounds its own; here all of an
//! agent's are bounded, each peer's share of them too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lark_core::quota::{Full, Origin, Quota};

/// How much an agent holds: one account for all workers and both ends of tunnels. It is locked only for
/// bytes that have to wait, never for those that pass.
#[derive(Debug, Clone)]
pub struct Holding(Arc<Mutex<Quota>>);

impl Holding {
    /// At most that many bytes; a quarter of them for each node.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Quota::new(most))))
    }

    /// The share of a pod of this node, by its number.
    pub fn of_pod(&self, pod: u32) -> PodShare {
        PodShare { holding: self.clone(), pod }
    }

    /// An account of what is held for one tunnel or connection; what it holds is given back with it.
    pub(crate) fn of(&self, origin: Origin) -> Held {
        Held { holding: self.clone(), origin, bytes: 0 }
    }

    fn quota(&self) -> MutexGuard<'_, Quota> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What connections that this agent joins itself may hold for one pod. Small, since each has one.
#[derive(Debug, Clone)]
pub struct PodShare {
    holding: Holding,
    pod: u32,
}

impl PodShare {
    pub(crate) fn account(&self) -> Held {
        self.holding.of(Origin::Pod(self.pod))
    }
}

/// What one tunnel, or one joined connection, holds for those that do not read, of what its agent may hold.
#[derive(Debug)]
pub(crate) struct Held {
    holding: Holding,
    origin: Origin,
    bytes: usize,
}

impl Held {
    /// That many more are to be held.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), Full> {
        self.holding.quota().take(self.origin, bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// That many are gone.
    pub(crate) fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if bytes > 0 {
            self.holding.quota().give(self.origin, bytes);
            self.bytes -= bytes;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}
