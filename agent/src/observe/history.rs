//! Whose last hour is remembered: the node's as a whole, and that of each workload that is asked.

use std::collections::BTreeMap;

use lark_core::observe::{History, Reading, Secured, Totals};
use lark_core::view::{EdgeView, HistoryView, SeriesView};

use super::connection::Direction;
use super::requests::RequestEdge;

/// Who saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SeenBy {
    /// This agent, all of it.
    Node,
    /// This agent, at the end of who is asked.
    Server,
    /// This agent, at the end of who asks.
    Client,
}

impl SeenBy {
    const fn label(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Server => "server",
            Self::Client => "client",
        }
    }

    fn of(direction: &str) -> Self {
        if direction == Direction::Outbound.label() { Self::Client } else { Self::Server }
    }
}

/// Of whom a series is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Whose {
    seen_by: SeenBy,
    namespace: String,
    workload: String,
}

impl Whose {
    fn node() -> Self {
        Self { seen_by: SeenBy::Node, namespace: String::new(), workload: String::new() }
    }

    fn asked(direction: &str, namespace: &str, workload: &str) -> Self {
        let (namespace, workload) = (namespace.to_owned(), workload.to_owned());
        Self { seen_by: SeenBy::of(direction), namespace, workload }
    }
}

/// What each adds up to by now.
pub(super) fn readings(edges: &[EdgeView], requests: Vec<(RequestEdge, Totals)>) -> BTreeMap<Whose, Reading> {
    let mut all: BTreeMap<Whose, Reading> = [(Whose::node(), Reading::default())].into();
    let mut add = |asked: Whose, to: &dyn Fn(&mut Reading)| {
        to(all.entry(Whose::node()).or_default());
        to(all.entry(asked).or_default());
    };
    for edge in edges {
        let asked = Whose::asked(&edge.direction, &edge.destination.namespace, &edge.destination.owner);
        add(asked, &|reading| {
            reading.connections += edge.connections;
            reading.bytes += edge.sent_bytes + edge.received_bytes;
            match edge.secured {
                Secured::Plaintext => reading.plaintext += edge.connections,
                Secured::Denied => reading.denied += edge.connections,
                Secured::Mtls | Secured::SameNode | Secured::Direct => {}
            }
        });
    }
    for (edge, totals) in requests {
        let asked = Whose::asked(edge.direction.label(), &edge.destination_namespace, &edge.destination);
        add(asked, &|reading| reading.requests.add(&totals));
    }
    all
}

/// As it is told.
pub(super) fn view(history: &History<Whose>) -> HistoryView {
    let series = history.series().map(|(whose, samples)| {
        let mut series = SeriesView {
            seen_by: whose.seen_by.label().to_owned(),
            namespace: whose.namespace.clone(),
            workload: whose.workload.clone(),
            ..SeriesView::default()
        };
        samples.for_each(|sample| series.push(sample));
        series
    });
    HistoryView { at: history.at().collect(), series: series.collect() }
}
