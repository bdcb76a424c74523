//! Prometheus metrics: `lark_<stage>_<noun>_<unit>`, closed sets of labels, never an address.

use std::time::Duration;

use lark_core::explain::{Cause, Unwatched};
use lark_core::observe::Totals;
use lark_core::reason::Reason;
use lark_core::recognise::{Opaque, Protocol};
use lark_core::view::EdgeView;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::requests::{self, RequestEdge};

/// A value that somebody else keeps, read when metrics are asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Gauge {
    /// Full name of the metric.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// Whether it only grows.
    pub counter: bool,
    /// Label values and value.
    pub values: Vec<(Vec<String>, f64)>,
}

impl Gauge {
    /// As documents tell it.
    pub fn described(&self) -> Described {
        Described {
            name: self.name.to_owned(),
            kind: if self.counter { "counter" } else { "gauge" },
            labels: self.labels.iter().map(|label| (*label).to_owned()).collect(),
            help: self.help.to_owned(),
        }
    }
}

/// All of them.
pub type Gauges = Vec<Gauge>;

/// A metric as documents tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// What it counts.
    pub help: String,
}

const EDGE_LABELS: [&str; 6] = [
    "direction",
    "source_namespace",
    "source_workload",
    "destination_namespace",
    "destination_workload",
    "secured",
];

pub(super) struct Metrics {
    registry: Registry,
    refused: IntCounterVec,
    closed: IntCounterVec,
    dry_run: IntCounterVec,
    denied_open: IntGauge,
    handshakes: IntCounterVec,
    handshake_seconds: HistogramVec,
    tunnels: IntGaugeVec,
    lost: IntCounterVec,
    recognised: IntCounterVec,
    opaque: IntCounterVec,
    capture_delay: Histogram,
    unwatched: IntCounterVec,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let counter = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            registry: Registry::new(),
            refused: counter(
                "lark_proxy_connections_refused_total",
                "Connections refused, by direction and reason",
                &["direction", "reason"],
            )?,
            closed: counter(
                "lark_proxy_connections_ended_total",
                "Connections ended, by direction and how",
                &["direction", "how"],
            )?,
            dry_run: counter(
                "lark_policy_dry_run_denials_total",
                "Connections that a policy under dry run would deny, by direction",
                &["direction"],
            )?,
            denied_open: IntGauge::new(
                "lark_policy_denied_open",
                "Connections that policies do not allow any more and that could not be ended yet",
            )?,
            handshakes: counter(
                "lark_tunnel_handshakes_total",
                "TLS handshakes with other agents, by side and result",
                &["side", "result"],
            )?,
            handshake_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "lark_tunnel_handshake_seconds",
                    "Time that handshakes took, connect included",
                )
                .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
                &["side"],
            )?,
            tunnels: IntGaugeVec::new(Opts::new("lark_tunnel_open", "Tunnels open now, by side"), &["side"])?,
            lost: counter(
                "lark_tunnel_lost_total",
                "Tunnels that ended otherwise than in order, by side and cause",
                &["side", "cause"],
            )?,
            recognised: counter(
                "lark_proxy_connections_recognised_total",
                "Connections whose protocol was recognised in passing, by direction and protocol",
                &["direction", "protocol"],
            )?,
            opaque: counter(
                "lark_proxy_connections_opaque_total",
                "Connections whose requests are not followed, or not any more, by direction and reason",
                &["direction", "reason"],
            )?,
            capture_delay: Histogram::with_opts(
                HistogramOpts::new(
                    "lark_capture_delay_seconds",
                    "How long pods that began after the agent ran before they were captured",
                )
                .buckets(vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]),
            )?,
            unwatched: counter(
                "lark_capture_unwatched_total",
                "Times that the kernel did not tell what happens to pods' cgroups, so that it was found by looking, by reason",
                &["reason"],
            )?,
        };
        for collector in metrics.own() {
            metrics.registry.register(collector)?;
        }
        // A series that never was cannot be alerted on.
        for direction in ["outbound", "inbound", "local"] {
            metrics.dry_run.with_label_values(&[direction]);
            // What is said of exchanges is never said of a connection.
            for protocol in Protocol::ALL.iter().filter(|protocol| **protocol != Protocol::Grpc) {
                metrics.recognised.with_label_values(&[direction, protocol.label()]);
            }
            for reason in Opaque::ALL {
                metrics.opaque.with_label_values(&[direction, reason.label()]);
            }
        }
        for reason in Unwatched::ALL {
            metrics.unwatched.with_label_values(&[reason.label()]);
        }
        for reason in Reason::ALL {
            for direction in ["outbound", "inbound"] {
                metrics.refused.with_label_values(&[direction, reason.label()]);
            }
        }
        for side in ["client", "server"] {
            metrics.handshake_seconds.with_label_values(&[side]);
            for cause in Cause::all() {
                metrics.handshakes.with_label_values(&[side, cause.label()]);
            }
            for cause in Cause::of_ends() {
                metrics.lost.with_label_values(&[side, cause.label()]);
            }
        }
        Ok(metrics)
    }

    /// What is kept here.
    fn own(&self) -> [Box<dyn Collector>; 12] {
        [
            Box::new(self.refused.clone()),
            Box::new(self.closed.clone()),
            Box::new(self.dry_run.clone()),
            Box::new(self.denied_open.clone()),
            Box::new(self.handshakes.clone()),
            Box::new(self.handshake_seconds.clone()),
            Box::new(self.tunnels.clone()),
            Box::new(self.lost.clone()),
            Box::new(self.recognised.clone()),
            Box::new(self.opaque.clone()),
            Box::new(self.capture_delay.clone()),
            Box::new(self.unwatched.clone()),
        ]
    }

    pub(super) fn recognised(&self, direction: &str, protocol: Protocol) {
        self.recognised.with_label_values(&[direction, protocol.label()]).inc();
    }

    pub(super) fn opaque(&self, direction: &str, reason: Opaque) {
        self.opaque.with_label_values(&[direction, reason.label()]).inc();
    }

    pub(super) fn captured(&self, delay: Duration) {
        self.capture_delay.observe(delay.as_secs_f64());
    }

    pub(super) fn unwatched(&self, reason: Unwatched) {
        self.unwatched.with_label_values(&[reason.label()]).inc();
    }

    /// All that a scrape can show, by name.
    pub(super) fn catalogue(&self, gauges: &Gauges) -> Result<Vec<Described>, prometheus::Error> {
        let mut all: Vec<Described> = self
            .own()
            .iter()
            .chain(&edge_metrics(&[])?)
            .flat_map(|collector| describe(collector.as_ref()))
            .collect();
        all.extend(requests::described());
        all.extend(gauges.iter().map(Gauge::described));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(super) fn refused(&self, direction: &str, reason: Reason) {
        self.refused.with_label_values(&[direction, reason.label()]).inc();
    }

    pub(super) fn closed(&self, direction: &str, how: &str) {
        self.closed.with_label_values(&[direction, how]).inc();
    }

    pub(super) fn dry_run_denial(&self, direction: &str) {
        self.dry_run.with_label_values(&[direction]).inc();
    }

    pub(super) fn denied_open(&self, by: i64) {
        self.denied_open.add(by);
    }

    pub(super) fn handshake(&self, side: &str, result: Result<(), Cause>, took: Duration) {
        let result = result.map_or_else(Cause::label, |()| "ok");
        self.handshakes.with_label_values(&[side, result]).inc();
        self.handshake_seconds.with_label_values(&[side]).observe(took.as_secs_f64());
    }

    pub(super) fn open_tunnels(&self) -> i64 {
        ["client", "server"].iter().map(|side| self.tunnels.with_label_values(&[*side]).get()).sum()
    }

    pub(super) fn tunnel_opened(&self, side: &str) {
        self.tunnels.with_label_values(&[side]).inc();
    }

    pub(super) fn tunnel_closed(&self, side: &str, cause: Option<Cause>) {
        self.tunnels.with_label_values(&[side]).dec();
        if let Some(cause) = cause {
            self.lost.with_label_values(&[side, cause.label()]).inc();
        }
    }

    pub(super) fn text(
        &self,
        edges: &[EdgeView],
        requests: &[(RequestEdge, Totals)],
        gauges: &Gauges,
    ) -> Result<String, prometheus::Error> {
        let scrape = Registry::new();
        for collector in edge_metrics(edges)? {
            scrape.register(collector)?;
        }
        let mut families = self.registry.gather();
        families.extend(scrape.gather());
        families.extend(requests::families(requests));
        encode(families, gauges)
    }
}

/// Values that others keep, in Prometheus' text format.
///
/// # Errors
/// When one cannot be shown, which a test would have seen.
pub fn exposed(gauges: &Gauges) -> Result<String, prometheus::Error> {
    encode(Vec::new(), gauges)
}

fn encode(mut families: Vec<MetricFamily>, gauges: &Gauges) -> Result<String, prometheus::Error> {
    // Values that others keep go through a registry of this one scrape.
    let scrape = Registry::new();
    for gauge in gauges {
        let vec = GaugeVec::new(Opts::new(gauge.name, gauge.help), gauge.labels)?;
        for (labels, value) in &gauge.values {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            vec.get_metric_with_label_values(&labels)?.set(*value);
        }
        scrape.register(Box::new(vec))?;
    }
    families.extend(scrape.gather());
    families.retain(|family| !family.get_metric().is_empty());
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    let mut text = String::from_utf8(text).unwrap_or_default();
    for gauge in gauges.iter().filter(|g| g.counter) {
        text =
            text.replace(&format!("# TYPE {} gauge", gauge.name), &format!("# TYPE {} counter", gauge.name));
    }
    Ok(text)
}

fn describe(collector: &dyn Collector) -> Vec<Described> {
    let families = collector.collect();
    let kind = match families.first().map(MetricFamily::get_field_type) {
        Some(prometheus::proto::MetricType::COUNTER) => "counter",
        Some(prometheus::proto::MetricType::HISTOGRAM) => "histogram",
        _ => "gauge",
    };
    let described = |desc: &prometheus::core::Desc| Described {
        name: desc.fq_name.clone(),
        kind,
        labels: desc.variable_labels.clone(),
        help: desc.help.clone(),
    };
    collector.desc().into_iter().map(described).collect()
}

fn edge_metrics(edges: &[EdgeView]) -> Result<[Box<dyn Collector>; 6], prometheus::Error> {
    let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &EDGE_LABELS);
    let opened = counter("lark_proxy_connections_opened_total", "Connections opened, by edge")?;
    let sent = counter("lark_proxy_sent_bytes_total", "Bytes from source to destination, by edge")?;
    let received = counter("lark_proxy_received_bytes_total", "Bytes from destination to source, by edge")?;
    let open = IntGaugeVec::new(
        Opts::new("lark_proxy_connections_open", "Connections open now, by edge"),
        &EDGE_LABELS,
    )?;
    let round_trip = GaugeVec::new(
        Opts::new(
            "lark_proxy_round_trip_seconds",
            "Smoothed round-trip time that the kernel has measured last of connections that no agent carries, by edge",
        ),
        &EDGE_LABELS,
    )?;
    let retransmits = counter(
        "lark_proxy_retransmits_total",
        "Segments that the kernel sent again on connections that no agent carries, by edge",
    )?;
    for edge in edges {
        let labels = [
            edge.direction.as_str(),
            &edge.source.namespace,
            &edge.source.owner,
            &edge.destination.namespace,
            &edge.destination.owner,
            edge.secured.label(),
        ];
        opened.with_label_values(&labels).inc_by(edge.connections);
        sent.with_label_values(&labels).inc_by(edge.sent_bytes);
        received.with_label_values(&labels).inc_by(edge.received_bytes);
        open.with_label_values(&labels).add(i64::try_from(edge.open).unwrap_or(i64::MAX));
        if let (Some(seconds), Some(again)) = (edge.round_trip_seconds, edge.retransmits) {
            round_trip.with_label_values(&labels).set(seconds);
            retransmits.with_label_values(&labels).inc_by(again);
        }
    }
    Ok([
        Box::new(opened),
        Box::new(sent),
        Box::new(received),
        Box::new(open),
        Box::new(round_trip),
        Box::new(retransmits),
    ])
}
