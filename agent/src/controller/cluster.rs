//! Questions to all nodes of the cluster, asked of their agents on the streams that they keep.
//!
//! Invariants: every node of discovery is in the answer, with what its agent said or why there is nothing;
//! what all say together is bounded.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use hyper::StatusCode;
use lark_core::question::Question;
use lark_core::snapshot::Snapshot;
use lark_core::view::NodeAnswer;
use lark_identity::nodes::Nodes;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, watch};

use crate::admin::{Answer, json, text};

/// Nodes asked at the same time.
const AT_ONCE: usize = 64;
/// Bytes of all answers to one question, at most. Nodes whose answers do not fit are named.
const ALL_MAX: usize = 64 * 1024 * 1024;

/// Asks all nodes, one question at a time.
pub(super) struct Cluster {
    nodes: Nodes,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    turn: Semaphore,
}

impl Cluster {
    pub(super) fn new(nodes: Nodes, snapshot: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { nodes, snapshot, turn: Semaphore::new(1) }
    }

    /// Asks every node for `target`, a path of the agents' admin API with its query.
    pub(super) async fn ask(&self, target: &str) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // Metrics are Prometheus's to gather, and no JSON.
        if !matches!(Question::parse("GET", path, query), Ok(question) if question != Question::Metrics) {
            return text(StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned());
        }
        let Ok(_turn) = self.turn.acquire().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "stopping\n".to_owned());
        };
        let mut names: Vec<Arc<str>> = self.snapshot.borrow().nodes().map(|node| node.name.clone()).collect();
        names.sort_unstable();
        let asked = stream::iter(names).map(|name| async move {
            let answer = self.nodes.ask(&name, target).await;
            (name, answer)
        });
        let mut asked = asked.buffered(AT_ONCE);
        let (mut told, mut size) = (Vec::new(), 0);
        while let Some((name, answer)) = asked.next().await {
            let said = answer.map_err(|error| error.to_string()).and_then(|body| {
                size += body.len();
                if size > ALL_MAX {
                    return Err(format!(
                        "the answers before it have {ALL_MAX} bytes already; ask it on its node"
                    ));
                }
                let said = String::from_utf8(body).ok().and_then(|body| RawValue::from_string(body).ok());
                said.ok_or_else(|| "its agent's answer is no JSON; is it of another version?".to_owned())
            });
            told.push(NodeAnswer::new(&name, said));
        }
        json(&told)
    }
}
