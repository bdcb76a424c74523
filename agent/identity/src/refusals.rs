//! What the controller refused, counted by reason, and said without letting a flood fill the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lark_core::explain::CaRefusal;
use lark_core::rate::Lines;

/// The counts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Refusals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    counts: Mutex<BTreeMap<CaRefusal, u64>>,
    lines: Mutex<Lines>,
}

impl Default for Refusals {
    fn default() -> Self {
        let lines = Mutex::new(Lines::new(Duration::ZERO));
        Self(Arc::new(Inner { began: Instant::now(), counts: Mutex::default(), lines }))
    }
}

impl Refusals {
    /// Counts one. Says whether it may be logged, and how many lines were left out before.
    pub fn count(&self, reason: CaRefusal) -> Option<u64> {
        *self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).one_more(self.0.began.elapsed())
    }

    /// All counts so far.
    pub fn counts(&self) -> BTreeMap<CaRefusal, u64> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
