//! The connections that are open. In parts by their numbers, which are counted up: two workers that open and close
//! connections at one moment meet in one part by chance only.

use std::sync::{Arc, Mutex, MutexGuard};

use hashbrown::HashMap;

use super::connection::Live;
use super::locked;

/// Four times the workers that there may be.
const PARTS: usize = 32;

type Part = HashMap<u64, Arc<Live>>;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct OpenConnections([Mutex<Part>; PARTS]);

impl OpenConnections {
    fn part(&self, id: u64) -> Option<MutexGuard<'_, Part>> {
        let part = usize::try_from(id % PARTS as u64).ok()?;
        self.0.get(part).map(locked)
    }

    /// One begins.
    pub(super) fn insert(&self, id: u64, live: Arc<Live>) {
        if let Some(mut part) = self.part(id) {
            part.insert(id, live);
        }
    }

    /// One is over.
    pub(super) fn remove(&self, id: u64) {
        // What it holds is let go of outside of the lock.
        let gone = self.part(id).and_then(|mut part| part.remove(&id));
        drop(gone);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|part| locked(part).len()).sum()
    }

    /// All with their numbers, in no order; each part as it was at one moment.
    pub(super) fn all(&self) -> Vec<(u64, Arc<Live>)> {
        let of = |part: &Mutex<Part>| -> Vec<(u64, Arc<Live>)> {
            locked(part).iter().map(|(id, live)| (*id, live.clone())).collect()
        };
        self.0.iter().flat_map(of).collect()
    }
}
