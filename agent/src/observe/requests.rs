//! Requests by edge, and their metrics. Bounded: beyond [`EDGES_MAX`] different edges, new ones are folded into
//! one `other` for each direction, so that hostile traffic cannot grow it (as in CVE-2025-43915).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lark_core::observe::{Distribution, Requests, Totals};
use lark_core::view::RequestsView;
use prometheus::proto::{Bucket, Counter, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::connection::{Direction, Opening};
use super::metrics::Described;

/// Most different edges. Each has up to 45 counters and two histograms of 16 buckets.
pub(super) const EDGES_MAX: usize = 1024;

/// Who asks whom: owners, not pods, or names of single pods would make an edge each.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct RequestEdge {
    pub(super) direction: Direction,
    pub(super) source_namespace: Arc<str>,
    pub(super) source: Arc<str>,
    pub(super) destination_namespace: Arc<str>,
    pub(super) destination: Arc<str>,
}

impl RequestEdge {
    fn of(opening: &Opening) -> Self {
        Self {
            direction: opening.direction,
            source_namespace: opening.source.namespace.clone(),
            source: opening.source.owner.clone(),
            destination_namespace: opening.destination.namespace.clone(),
            destination: opening.destination.owner.clone(),
        }
    }

    fn other(direction: Direction) -> Self {
        let other = || "other".into();
        Self {
            direction,
            source_namespace: Arc::default(),
            source: other(),
            destination_namespace: Arc::default(),
            destination: other(),
        }
    }

    fn labels(&self) -> Vec<LabelPair> {
        let values = [
            self.direction.label(),
            &self.source_namespace,
            &self.source,
            &self.destination_namespace,
            &self.destination,
        ];
        LABELS.iter().zip(values).map(|(name, value)| pair(name, value)).collect()
    }
}

/// How often it is remembered what requests add up to, ...
pub(super) const STEP: Duration = Duration::from_secs(10);
/// ... and how many times: a minute, and at the edges of it.
const MEMORIES: usize = 7;

/// Where each edge's requests are counted, and what they added up to lately.
#[derive(Debug)]
pub(super) struct RequestTable {
    now: HashMap<RequestEdge, Arc<Requests>>,
    /// Oldest first.
    before: VecDeque<(Instant, HashMap<RequestEdge, Totals>)>,
}

impl Default for RequestTable {
    fn default() -> Self {
        Self { now: HashMap::new(), before: [(Instant::now(), HashMap::new())].into() }
    }
}

impl RequestTable {
    /// The place for a connection's.
    pub(super) fn of(&mut self, opening: &Opening) -> Arc<Requests> {
        let mut edge = RequestEdge::of(opening);
        if self.now.len() >= EDGES_MAX && !self.now.contains_key(&edge) {
            edge = RequestEdge::other(edge.direction);
        }
        self.now.entry(edge).or_default().clone()
    }

    /// What they add up to by now, in an order that does not change.
    pub(super) fn totals(&self) -> Vec<(RequestEdge, Totals)> {
        let mut all: Vec<_> =
            self.now.iter().map(|(edge, requests)| (edge.clone(), requests.totals())).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Remembers what they add up to, for [`RequestTable::last`].
    pub(super) fn remember(&mut self) {
        let totals = self.now.iter().map(|(edge, requests)| (edge.clone(), requests.totals())).collect();
        if self.before.len() == MEMORIES {
            self.before.pop_front();
        }
        self.before.push_back((Instant::now(), totals));
    }

    /// What came in about so much time, and in how much exactly: since the youngest memory that is old enough,
    /// or the oldest.
    pub(super) fn last(&self, time: Duration) -> (Duration, Vec<(RequestEdge, Totals)>) {
        let old_enough = self.before.iter().rev().find(|(at, _)| at.elapsed() >= time);
        let Some((at, before)) = old_enough.or(self.before.front()) else {
            return (Duration::ZERO, Vec::new());
        };
        let mut all = self.totals();
        for (edge, totals) in &mut all {
            if let Some(earlier) = before.get(edge) {
                *totals = totals.since(earlier);
            }
        }
        all.retain(|(_, totals)| totals.count() > 0);
        (at.elapsed(), all)
    }
}

/// Rows for people and programs, busiest first.
pub(super) fn views(
    edges: Vec<(RequestEdge, Totals)>,
    by_edge: bool,
    looked_at: Duration,
) -> Vec<RequestsView> {
    let mut rows: BTreeMap<RequestEdge, Totals> = BTreeMap::new();
    for (mut edge, totals) in edges {
        if !by_edge {
            edge.source = Arc::default();
            edge.source_namespace = Arc::default();
        }
        rows.entry(edge).or_default().add(&totals);
    }
    let view = |(edge, totals): (RequestEdge, Totals)| RequestsView {
        direction: edge.direction.label().to_owned(),
        source_namespace: edge.source_namespace.to_string(),
        source: edge.source.to_string(),
        destination_namespace: edge.destination_namespace.to_string(),
        destination: edge.destination.to_string(),
        ..RequestsView::of(&totals, looked_at.as_secs_f64())
    };
    let mut views: Vec<_> = rows.into_iter().map(view).collect();
    views.sort_by_key(|view| std::cmp::Reverse(view.requests));
    views
}

const LABELS: [&str; 5] =
    ["direction", "source_namespace", "source_workload", "destination_namespace", "destination_workload"];
const OUTCOME: [&str; 3] = ["protocol", "status", "result"];

const TOTAL: (&str, &str) = (
    "lark_proxy_requests_total",
    "Requests that ended, by edge, protocol, status and result: class of the response, status of the gRPC call, or what cut it off",
);
const FIRST_BYTE: (&str, &str) = (
    "lark_proxy_request_first_byte_seconds",
    "Time from the first byte of requests to the first of their responses, by edge",
);
const LAST_BYTE: (&str, &str) = (
    "lark_proxy_request_duration_seconds",
    "Time from the first byte of requests to the last of their responses, by edge",
);

/// As documents tell them.
pub(super) fn described() -> impl Iterator<Item = Described> {
    let outcome = OUTCOME.as_slice();
    let all = [(TOTAL, "counter", outcome), (FIRST_BYTE, "histogram", &[]), (LAST_BYTE, "histogram", &[])];
    all.into_iter().map(|((name, help), kind, more)| Described {
        name: name.to_owned(),
        kind,
        labels: LABELS.iter().chain(more).map(|label| (*label).to_owned()).collect(),
        help: help.to_owned(),
    })
}

/// As a scrape shows them.
pub(super) fn families(requests: &[(RequestEdge, Totals)]) -> [MetricFamily; 3] {
    let counters = requests.iter().flat_map(|(edge, totals)| {
        totals.outcomes().map(|(outcome, count)| {
            let values = [outcome.protocol().label(), outcome.status(), outcome.judgement().label()];
            let mut labels = edge.labels();
            labels.extend(OUTCOME.iter().zip(values).map(|(name, value)| pair(name, value)));
            let mut counter = Counter::default();
            counter.set_value(float(count));
            let mut metric = Metric::from_label(labels);
            metric.set_counter(counter);
            metric
        })
    });
    let times = |of: fn(&Totals) -> &Distribution| {
        let timed = requests.iter().filter(move |(_, totals)| of(totals).count() > 0);
        timed.map(move |(edge, totals)| {
            let mut metric = Metric::from_label(edge.labels());
            metric.set_histogram(histogram(of(totals)));
            metric
        })
    };
    [
        family(TOTAL, MetricType::COUNTER, counters.collect()),
        family(FIRST_BYTE, MetricType::HISTOGRAM, times(|totals| &totals.first_byte).collect()),
        family(LAST_BYTE, MetricType::HISTOGRAM, times(|totals| &totals.last_byte).collect()),
    ]
}

fn family((name, help): (&str, &str), kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn histogram(distribution: &Distribution) -> Histogram {
    let bucket = |(bound, count): (Duration, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound.as_secs_f64());
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(distribution.cumulative().map(bucket).collect());
    histogram.set_sample_count(distribution.count());
    histogram.set_sample_sum(distribution.sum.as_secs_f64());
    histogram
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floats by format")]
fn float(count: u64) -> f64 {
    count as f64
}
