//! Requests of one edge: how they ended and how long they took. The data path adds, readers only read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::recognise::{Judgement, Latency, Outcome};

/// Upper bounds of the buckets; one more has no bound. From a quarter of a millisecond, below which only idle
/// echo servers are, to ten seconds.
pub const BOUNDS: [Duration; 15] = {
    let us = Duration::from_micros;
    let ms = Duration::from_millis;
    [
        us(250),
        us(500),
        ms(1),
        us(2500),
        ms(5),
        ms(10),
        ms(25),
        ms(50),
        ms(100),
        ms(250),
        ms(500),
        ms(1000),
        ms(2500),
        ms(5000),
        ms(10_000),
    ]
};

const BUCKETS: usize = BOUNDS.len() + 1;

/// Requests of one edge, as they end.
#[derive(Debug)]
pub struct Requests {
    outcomes: [AtomicU64; Outcome::COUNT],
    first_byte: Histogram,
    last_byte: Histogram,
}

#[derive(Debug)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            outcomes: [const { AtomicU64::new(0) }; Outcome::COUNT],
            first_byte: Histogram::new(),
            last_byte: Histogram::new(),
        }
    }
}

impl Requests {
    /// One more has ended. Its times count if it was answered.
    pub fn add(&self, outcome: Outcome, latency: Option<Latency>) {
        if let Some(count) = self.outcomes.get(outcome.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(latency) = latency {
            self.first_byte.add(latency.first_byte);
            self.last_byte.add(latency.last_byte);
        }
    }

    /// What they add up to by now.
    pub fn totals(&self) -> Totals {
        Totals {
            outcomes: each(&self.outcomes),
            first_byte: self.first_byte.read(),
            last_byte: self.last_byte.read(),
        }
    }
}

fn each<const N: usize>(counts: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|at| counts.get(at).map_or(0, |count| count.load(Ordering::Relaxed)))
}

impl Histogram {
    const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], nanoseconds: AtomicU64::new(0) }
    }

    fn add(&self, took: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < took);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn read(&self) -> Distribution {
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        Distribution { counts: each(&self.buckets), sum }
    }
}

/// What the requests of an edge, or of several, add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    outcomes: [u64; Outcome::COUNT],
    /// From a request's first byte to its response's first.
    pub first_byte: Distribution,
    /// From a request's first byte to its response's last.
    pub last_byte: Distribution,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            outcomes: [0; Outcome::COUNT],
            first_byte: Distribution::default(),
            last_byte: Distribution::default(),
        }
    }
}

impl Totals {
    /// How often each ending happened, of those that did.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        Outcome::all().zip(self.outcomes).filter(|(_, count)| *count > 0)
    }

    /// All requests.
    pub fn count(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Those of which the server did its part, did not, ...
    pub fn judged(&self, judgement: Judgement) -> u64 {
        self.outcomes().filter(|(outcome, _)| outcome.judgement() == judgement).map(|(_, count)| count).sum()
    }

    /// Of those that can be judged, the part that went well, 0 to 1. Nothing if there are none.
    pub fn success_rate(&self) -> Option<f64> {
        let (success, failure) = (self.judged(Judgement::Success), self.judged(Judgement::Failure));
        (success + failure > 0).then(|| float(success) / float(success + failure))
    }

    /// Adds others.
    pub fn add(&mut self, others: &Self) {
        for (count, more) in self.outcomes.iter_mut().zip(others.outcomes) {
            *count += more;
        }
        self.first_byte.add(&others.first_byte);
        self.last_byte.add(&others.last_byte);
    }

    /// What came since an earlier reading of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut rest = self.clone();
        for (count, before) in rest.outcomes.iter_mut().zip(earlier.outcomes) {
            *count = count.saturating_sub(before);
        }
        rest.first_byte = self.first_byte.since(&earlier.first_byte);
        rest.last_byte = self.last_byte.since(&earlier.last_byte);
        rest
    }
}

/// Durations by bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribution {
    counts: [u64; BUCKETS],
    /// All of them together.
    pub sum: Duration,
}

impl Distribution {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Upper bounds, and how many are not above each. What is above the last has no bucket here.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        BOUNDS.into_iter().zip(self.counts).scan(0, |below, (bound, count)| {
            *below += count;
            Some((bound, *below))
        })
    }

    /// The duration that the part `q` of them does not exceed, guessed within its bucket as Prometheus'
    /// `histogram_quantile` does; the last bound for what is above it. Nothing if there are none.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let all = self.count();
        if all == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * float(all);
        let (mut below, mut lower) = (0, Duration::ZERO);
        for (bound, count) in BOUNDS.into_iter().zip(self.counts) {
            if count > 0 && float(below + count) >= rank {
                let part = (rank - float(below)).max(0.0) / float(count);
                return Some(lower + (bound - lower).mul_f64(part.min(1.0)));
            }
            below += count;
            lower = bound;
        }
        Some(lower)
    }

    fn add(&mut self, others: &Self) {
        for (count, more) in self.counts.iter_mut().zip(others.counts) {
            *count += more;
        }
        self.sum += others.sum;
    }

    fn since(&self, earlier: &Self) -> Self {
        let mut counts = self.counts;
        for (count, before) in counts.iter_mut().zip(earlier.counts) {
            *count = count.saturating_sub(before);
        }
        Self { counts, sum: self.sum.saturating_sub(earlier.sum) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 need no precision")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
