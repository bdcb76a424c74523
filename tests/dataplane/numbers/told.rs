//! What an agent tells of connections, by its log, its metrics and its edges: each in the same form, so that they can
//! be compared as they are.

use std::collections::BTreeMap;

use lark_testbed::{Agent, Node};
use serde::Deserialize;

use super::programs::Sum;
use crate::requests::scrape;

/// A connection's line in the access log, as far as it counts here.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    target: String,
    pub(super) direction: String,
    #[serde(rename = "src.workload")]
    source: String,
    #[serde(rename = "dst.workload")]
    destination: String,
    #[serde(rename = "dst.addr")]
    address: String,
    secured: String,
    how: String,
    reason: String,
    bytes_sent: u64,
    bytes_recv: u64,
}

/// Which connections: source and destination, the port that was dialled, what secured it, how it ended and why it was
/// refused or left alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) between: (String, String),
    pub(super) port: u16,
    pub(super) secured: String,
    pub(super) how: String,
    pub(super) reason: String,
}

/// Connections of an agent's access log in one direction.
pub(super) type Log = BTreeMap<Kind, Sum>;

/// All connections that an agent has logged, by direction.
pub(super) fn logged(agent: &Agent) -> BTreeMap<String, Log> {
    let mut all: BTreeMap<String, Log> = BTreeMap::new();
    for text in agent.process.log().lines().filter(|line| line.contains("\"target\":\"access\"")) {
        let line: Line = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(line.target, "access");
        let kind = Kind {
            between: (line.source, line.destination),
            port: line.address.rsplit(':').next().unwrap().parse().unwrap(),
            // Without its sign.
            secured: line.secured.split_once(' ').unwrap().1.replace("mTLS", "mtls").replace(' ', "_"),
            how: line.how,
            reason: line.reason,
        };
        let one = Sum { connections: 1, sent: line.bytes_sent, received: line.bytes_recv };
        all.entry(line.direction).or_default().entry(kind).or_default().add(one);
    }
    all
}

/// Direction, source, destination and what secured it.
pub(super) type Edges = BTreeMap<(String, String, String, String), Sum>;

/// The same as edges.
pub(super) fn edges_of_log(log: &BTreeMap<String, Log>) -> Edges {
    let mut edges = Edges::new();
    for (direction, kinds) in log {
        for (kind, sum) in kinds {
            let (source, destination) = kind.between.clone();
            let key = (direction.clone(), source, destination, kind.secured.clone());
            edges.entry(key).or_default().add(*sum);
        }
    }
    edges
}

/// The name without its kind: pods of this house have their owners' names.
fn bare(owner: &str) -> String {
    owner.rsplit('/').next().unwrap().to_owned()
}

/// What `lark edges` tells.
pub(super) fn edges(agent: &Agent) -> Edges {
    let mut edges = Edges::new();
    for edge in agent.json("edges").unwrap().as_array().unwrap() {
        let text = |at: &str| edge.pointer(at).unwrap().as_str().unwrap().to_owned();
        let number = |name: &str| edge[name].as_u64().unwrap();
        assert_eq!(number("open"), 0, "{edge:#}");
        let key = (
            text("/direction"),
            bare(&text("/source/name")),
            bare(&text("/destination/name")),
            text("/secured"),
        );
        let sum = Sum {
            connections: number("connections"),
            sent: number("sent_bytes"),
            received: number("received_bytes"),
        };
        edges.entry(key).or_default().add(sum);
    }
    edges
}

/// Metrics of a scrape.
pub(super) struct Metrics(String);

impl Metrics {
    pub(super) fn of(node: &Node) -> Self {
        Self(scrape(node))
    }

    /// A metric's values by these labels, those that are zero left out.
    pub(super) fn by(&self, name: &str, labels: &[&str]) -> BTreeMap<Vec<String>, u64> {
        let mut all: BTreeMap<Vec<String>, u64> = BTreeMap::new();
        for line in self.0.lines().filter(|line| line.starts_with(&format!("{name}{{"))) {
            let label = |name: &&str| {
                line.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
            };
            let value: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            if value > 0 {
                *all.entry(labels.iter().map(label).collect()).or_default() += value;
            }
        }
        all
    }

    /// Of one label, or none, all together.
    pub(super) fn total(&self, name: &str) -> u64 {
        self.by(name, &[]).into_values().sum()
    }

    /// What the metrics by edge tell.
    pub(super) fn edges(&self) -> Edges {
        const EDGE: [&str; 4] = ["direction", "source_workload", "destination_workload", "secured"];
        let mut edges = Edges::new();
        let mut take = |name: &str, into: fn(&mut Sum) -> &mut u64| {
            for (labels, value) in self.by(name, &EDGE) {
                let [direction, source, destination, secured] = <[String; 4]>::try_from(labels).unwrap();
                let key = (direction, bare(&source), bare(&destination), secured);
                *into(edges.entry(key).or_default()) += value;
            }
        };
        take("lark_proxy_connections_opened_total", |sum| &mut sum.connections);
        take("lark_proxy_sent_bytes_total", |sum| &mut sum.sent);
        take("lark_proxy_received_bytes_total", |sum| &mut sum.received);
        edges
    }
}
