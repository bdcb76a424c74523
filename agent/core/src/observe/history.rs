//! The last hour in samples, so that a page can draw it where no Prometheus is. Bounded: [`SAMPLES`] for each of
//! [`SERIES_MAX`] series, 40 bytes a sample and 256 more a series: 2.5 MiB when all are in use.
//!
//! Readings are totals since the beginning; a sample is what came between two of them. Who beyond the bound comes first
//! takes the place of a series that was quiet for the whole hour; while there is none he is not kept.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Totals;
use crate::recognise::Judgement;

/// Time between two samples.
pub const STEP: Duration = Duration::from_secs(15);
/// Samples that are kept: an hour of them.
pub const SAMPLES: usize = 240;
/// Most series.
pub const SERIES_MAX: usize = 256;

/// What a series adds up to since the beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Requests that ended.
    pub requests: Totals,
    /// Connections, those that are open among them.
    pub connections: u64,
    /// Those of them in plaintext.
    pub plaintext: u64,
    /// Those of them that were denied.
    pub denied: u64,
    /// Bytes in both directions.
    pub bytes: u64,
}

impl Reading {
    /// Counts up whenever something happens.
    fn activity(&self) -> u64 {
        self.requests.count().saturating_add(self.connections).saturating_add(self.bytes)
    }
}

/// What came between two readings. Numbers beyond 32 bits are told as the greatest that fits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Requests that ended.
    pub requests: u32,
    /// Those of them that the server failed.
    pub failures: u32,
    /// Microseconds to the last byte that half of the requests did not exceed; 0 if none was timed.
    pub p50_us: u32,
    /// The same of 95 in 100.
    pub p95_us: u32,
    /// The same of 99 in 100.
    pub p99_us: u32,
    /// Connections that began.
    pub connections: u32,
    /// Those of them in plaintext.
    pub plaintext: u32,
    /// Those of them that were denied.
    pub denied: u32,
    /// Bytes in both directions.
    pub bytes: u64,
}

impl Sample {
    fn between(before: &Reading, after: &Reading) -> Self {
        let requests = after.requests.since(&before.requests);
        let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let quantile = |q| {
            let took = requests.last_byte.quantile(q);
            took.map_or(0, |took| u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1))
        };
        Self {
            requests: narrow(requests.count()),
            failures: narrow(requests.judged(Judgement::Failure)),
            p50_us: quantile(0.5),
            p95_us: quantile(0.95),
            p99_us: quantile(0.99),
            connections: narrow(after.connections.saturating_sub(before.connections)),
            plaintext: narrow(after.plaintext.saturating_sub(before.plaintext)),
            denied: narrow(after.denied.saturating_sub(before.denied)),
            bytes: after.bytes.saturating_sub(before.bytes),
        }
    }
}

#[derive(Debug, Default)]
struct Series {
    last: Reading,
    samples: VecDeque<Sample>,
    /// Number of the last step in which something happened.
    active: u64,
}

/// The last hour of each series, by its key.
#[derive(Debug)]
pub struct History<K> {
    at: VecDeque<u64>,
    series: BTreeMap<K, Series>,
    /// Activity of those that gave up their place, so that coming back they are not taken for new. Not more of them
    /// than whoever reads has keys.
    retired: BTreeMap<K, u64>,
    steps: u64,
}

impl<K> Default for History<K> {
    fn default() -> Self {
        Self { at: VecDeque::new(), series: BTreeMap::new(), retired: BTreeMap::new(), steps: 0 }
    }
}

fn push<T>(ring: &mut VecDeque<T>, value: T) {
    if ring.len() >= SAMPLES {
        ring.pop_front();
    }
    ring.push_back(value);
}

impl<K: Ord + Clone> History<K> {
    /// Takes a sample of each, `at` seconds since the epoch. The first reading of all is where counting begins; who
    /// appears later began at nothing.
    pub fn take(&mut self, at: u64, readings: BTreeMap<K, Reading>) {
        let is_first = self.steps == 0;
        self.steps += 1;
        push(&mut self.at, at);
        for (key, reading) in readings {
            let begins_here = match self.retired.get(&key) {
                Some(activity) if *activity == reading.activity() => continue,
                Some(_) => true,
                None => is_first,
            };
            if !self.series.contains_key(&key) && !self.make_room() {
                continue;
            }
            self.retired.remove(&key);
            let series = self.series.entry(key).or_insert_with(|| Series {
                last: if begins_here { reading.clone() } else { Reading::default() },
                active: self.steps,
                ..Series::default()
            });
            if series.last.activity() != reading.activity() {
                series.active = self.steps;
            }
            push(&mut series.samples, Sample::between(&series.last, &reading));
            series.last = reading;
        }
    }

    fn make_room(&mut self) -> bool {
        if self.series.len() < SERIES_MAX {
            return true;
        }
        let hour = u64::try_from(SAMPLES).unwrap_or(u64::MAX);
        let quiet = self.series.iter().find(|(_, s)| self.steps.saturating_sub(s.active) >= hour);
        let Some(key) = quiet.map(|(key, _)| key.clone()) else { return false };
        if let Some(series) = self.series.remove(&key) {
            self.retired.insert(key, series.last.activity());
        }
        true
    }

    /// When samples were taken, the oldest first, in seconds since the epoch.
    pub fn at(&self) -> impl Iterator<Item = u64> {
        self.at.iter().copied()
    }

    /// Each series with its samples, the oldest first. The last of each was taken at the last time.
    pub fn series(&self) -> impl Iterator<Item = (&K, impl Iterator<Item = Sample>)> {
        self.series.iter().map(|(key, series)| (key, series.samples.iter().copied()))
    }
}

#[cfg(test)]
mod tests;
