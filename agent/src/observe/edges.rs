//! Edges: what closed connections add up to. Bounded: beyond [`EDGES_MAX`] different ones, new ones are
//! folded into one `other`, so that hostile traffic cannot grow it (as in CVE-2025-43915).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lark_core::observe::Secured;
use lark_core::reason::Reason;
use lark_core::view::{EdgeView, Party};

use super::connection::{Direction, Live};

/// Most different edges.
pub(super) const EDGES_MAX: usize = 4096;

/// What is one edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    direction: Direction,
    source: Party,
    destination: Party,
    secured: Secured,
}

#[derive(Debug, Clone, Default)]
struct Totals {
    connections: u64,
    open: u64,
    sent: u64,
    received: u64,
    /// What the kernel has measured: the last round-trip time, and segments that were sent again.
    measured: Option<(Duration, u64)>,
    /// Why the last connection was denied, and what was said of it.
    refusal: Option<(Reason, Arc<str>)>,
}

impl Totals {
    fn add(&mut self, live: &Live) {
        self.connections += 1;
        self.sent += live.counters.sent();
        self.received += live.counters.received();
        if let Some((round_trip, retransmits)) = live.counters.measured() {
            let before = self.measured.map_or(0, |(_, before)| before);
            self.measured = Some((round_trip, before + u64::from(retransmits)));
        }
    }
}

/// Characters that are kept of what was said.
const DETAIL_MAX: usize = 512;

/// The edges of closed connections.
#[derive(Debug, Default)]
pub(super) struct Edges(BTreeMap<Key, Totals>);

/// Who talks to whom, not which pod of it: names of single pods would make an edge each.
fn party(party: &Party) -> Party {
    Party { name: party.owner.clone(), ..party.clone() }
}

impl Key {
    /// The edge of a connection; one that nothing secures yet, or ever has, is none.
    pub(super) fn of(live: &Live) -> Option<Self> {
        let opening = &live.opening;
        Some(Self {
            direction: opening.direction,
            source: party(&opening.source),
            destination: party(&opening.destination),
            secured: live.secured.get().copied()?,
        })
    }
}

impl Edges {
    /// Adds a connection that has ended to its edge; it may be among the open ones still.
    pub(super) fn fold(&mut self, key: Key, live: &Live, refusal: Option<(Reason, &str)>) {
        let totals = entry(&mut self.0, key);
        totals.add(live);
        live.is_folded.store(true, Ordering::Relaxed);
        if let Some((reason, detail)) = refusal {
            let kept: String = detail.chars().take(DETAIL_MAX).collect();
            totals.refusal = Some((reason, kept.into()));
        }
    }

    /// All edges, with the connections that are open on top.
    pub(super) fn with_open(&self, open: &[(u64, Arc<Live>)]) -> Vec<EdgeView> {
        let mut all = self.0.clone();
        // What has ended since they were looked up is counted already: a sum that goes down is a restart to Prometheus.
        for (_, live) in open.iter().filter(|(_, live)| !live.is_folded.load(Ordering::Relaxed)) {
            let Some(key) = Key::of(live) else { continue };
            let totals = entry(&mut all, key);
            totals.add(live);
            totals.open += 1;
        }
        all.into_iter().map(|(key, totals)| view(key, totals)).collect()
    }
}

fn entry(all: &mut BTreeMap<Key, Totals>, key: Key) -> &mut Totals {
    let key = if all.len() < EDGES_MAX || all.contains_key(&key) {
        key
    } else {
        let other = Party { name: "other".into(), owner: "other".into(), ..Party::default() };
        Key { source: other.clone(), destination: other, ..key }
    };
    all.entry(key).or_default()
}

fn view(key: Key, totals: Totals) -> EdgeView {
    let (round_trip, retransmits) = totals.measured.unzip();
    EdgeView {
        direction: key.direction.label().to_owned(),
        source: key.source,
        destination: key.destination,
        secured: key.secured,
        connections: totals.connections,
        open: totals.open,
        sent_bytes: totals.sent,
        received_bytes: totals.received,
        reason: totals.refusal.as_ref().map(|(reason, _)| reason.label().to_owned()),
        detail: totals.refusal.map(|(_, detail)| detail.to_string()),
        round_trip_seconds: round_trip.map(|time| time.as_secs_f64()),
        retransmits,
    }
}
