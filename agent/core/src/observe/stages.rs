//! When a connection reached each of its stages. The data path notes, readers only read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A stage that connections reach, each at most once, in this order if at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Discovery knows both ends.
    Known,
    /// Policies were asked and allow it.
    Allowed,
    /// There is a tunnel that takes it.
    Tunnel,
    /// The application has accepted it.
    Open,
    /// The first byte from the source was passed on.
    Sent,
    /// The first byte from the destination was passed on.
    Received,
    /// It is over.
    Ended,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 7] =
        [Self::Known, Self::Allowed, Self::Tunnel, Self::Open, Self::Sent, Self::Received, Self::Ended];

    /// The word in tables and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Allowed => "allowed",
            Self::Tunnel => "tunnel",
            Self::Open => "open",
            Self::Sent => "first_byte_sent",
            Self::Received => "first_byte_received",
            Self::Ended => "ended",
        }
    }
}

/// The moments of one connection, counted from when its agent first saw it.
#[derive(Debug, Default)]
pub struct Stages([AtomicU64; Stage::ALL.len()]);

impl Stages {
    /// It has reached this stage. Only the first time counts.
    pub fn reached(&self, stage: Stage, after: Duration) {
        // Zero says that it was not reached.
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        if let Some(moment) = self.0.get(stage as usize) {
            let _ = moment.compare_exchange(0, after, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// After what time it was reached, if it was.
    pub fn after(&self, stage: Stage) -> Option<Duration> {
        let after = self.0.get(stage as usize)?.load(Ordering::Relaxed);
        after.checked_sub(1).map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_time_counts_and_at_once_is_a_time() {
        let stages = Stages::default();
        stages.reached(Stage::Known, Duration::ZERO);
        stages.reached(Stage::Open, Duration::from_micros(7));
        stages.reached(Stage::Open, Duration::from_micros(9));
        let found = Stage::ALL.map(|stage| stages.after(stage));
        let at = |micros| Some(Duration::from_micros(micros));
        assert_eq!(found, [at(0), None, None, at(7), None, None, None]);
    }
}
