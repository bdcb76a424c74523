//! Questions to all nodes of the cluster, asked of their agents on the streams that they keep.
//!
//! Invariants: every node of discovery is in the answer, with what its agent said or why there is nothing;
//! what all say together is bounded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hyper::StatusCode;
use lark_core::question::Question;
use lark_core::sight::{Namespaces, SeenFrom, Sight, is_for_some};
use lark_core::snapshot::Snapshot;
use lark_core::view::{
    CertView, CheckView, ConnectionView, CourseView, EdgeView, HistoryView, NodeAnswer, PolicyView,
    RequestsView, ServiceView, Status, WorkloadView,
};
use lark_identity::nodes::Nodes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::admin::{Answer, json, text};

/// Nodes asked at the same time.
const AT_ONCE: usize = 64;
/// Bytes of all answers to one question, at most. Nodes whose answers do not fit are named.
const ALL_MAX: usize = 64 * 1024 * 1024;

/// Time for one question to all; whoever asks waits ten seconds.
const LIMIT: Duration = Duration::from_secs(8);

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

    /// Asks every node for `target`, a path of the agents' admin API with its query, for somebody who may see so much.
    pub(super) async fn ask(&self, target: &str, sight: &Sight) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let question = match Question::parse("GET", path, query) {
            Ok(question) if question.is_for_all() => question,
            _ => return text(StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned()),
        };
        if *sight != Sight::All && !is_for_some(&question) {
            let why = format!("{path} is answered to those only who may get pods in all namespaces\n");
            return text(StatusCode::FORBIDDEN, "text/plain", why);
        }
        let Ok(_turn) = self.turn.acquire().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "stopping\n".to_owned());
        };
        let mut names: Vec<Arc<str>> = self.snapshot.borrow().nodes().map(|node| node.name.clone()).collect();
        names.sort_unstable();
        let told = gather(names, |name| {
            let (nodes, target) = (self.nodes.clone(), target.to_owned());
            async move { nodes.ask(&name, &target).await.map_err(|error| error.to_string()) }
        });
        let mut told = told.await;
        if let Sight::Only(namespaces) = sight {
            for node in &mut told {
                let Some(answer) = node.answer.take() else { continue };
                *node = NodeAnswer::new(&node.node, seen(&question, &answer, namespaces));
                // Answers may be large, and others are served by this thread too.
                tokio::task::yield_now().await;
            }
        }
        json(&told)
    }
}

/// What of a node's answer may be told to somebody who may see some namespaces. What this version does not know in it is
/// left out.
fn seen(
    question: &Question<'_>,
    answer: &RawValue,
    namespaces: &Namespaces,
) -> Result<Box<RawValue>, String> {
    fn of<T: DeserializeOwned + Serialize + SeenFrom>(
        answer: &RawValue,
        namespaces: &Namespaces,
    ) -> Result<Box<RawValue>, String> {
        let all: Option<T> = serde_json::from_str(answer.get()).ok();
        let seen = all.and_then(|all| serde_json::value::to_raw_value(&all.seen_from(namespaces)?).ok());
        seen.ok_or_else(|| "its agent's answer is not understood; is it of another version?".to_owned())
    }
    match question {
        Question::Status => of::<Status>(answer, namespaces),
        Question::Workloads => of::<Vec<WorkloadView>>(answer, namespaces),
        Question::Services => of::<Vec<ServiceView>>(answer, namespaces),
        Question::Connections => of::<Vec<ConnectionView>>(answer, namespaces),
        Question::Edges => of::<Vec<EdgeView>>(answer, namespaces),
        Question::Certs => of::<Vec<CertView>>(answer, namespaces),
        Question::Check => of::<Vec<CheckView>>(answer, namespaces),
        Question::Policies | Question::PoliciesOf { .. } => of::<Vec<PolicyView>>(answer, namespaces),
        Question::History => of::<HistoryView>(answer, namespaces),
        Question::Requests { .. } => of::<Vec<RequestsView>>(answer, namespaces),
        Question::Last { .. } => of::<Vec<CourseView>>(answer, namespaces),
        Question::Bpf
        | Question::Trace { .. }
        | Question::Policy { .. }
        | Question::Tap { .. }
        | Question::Log
        | Question::SetLog { .. }
        | Question::Recent
        | Question::Metrics => Err("it is not answered to those who may not see all".to_owned()),
    }
}

/// What all say to a question, in the order of their names. Nodes that do not fit, or for which no time is left since
/// others do not answer, are in it with that reason.
async fn gather<F>(names: Vec<Arc<str>>, ask: impl Fn(Arc<str>) -> F) -> Vec<NodeAnswer<Box<RawValue>>>
where
    F: Future<Output = Result<Vec<u8>, String>>,
{
    let asked = names.iter().cloned().map(|name| {
        let answer = ask(name.clone());
        async move { (name, answer.await) }
    });
    let mut asked = stream::iter(asked.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    let deadline = Instant::now() + LIMIT;
    let (mut told, mut size) = (BTreeMap::new(), 0);
    while let Ok(Some((name, answer))) = tokio::time::timeout_at(deadline, asked.next()).await {
        let said = answer.and_then(|body| {
            if size + body.len() > ALL_MAX {
                return Err(format!(
                    "there is no room for its answer: all may have {ALL_MAX} bytes; ask it on its node"
                ));
            }
            size += body.len();
            let said = String::from_utf8(body).ok().and_then(|body| RawValue::from_string(body).ok());
            said.ok_or_else(|| "its agent's answer is no JSON; is it of another version?".to_owned())
        });
        told.insert(name, said);
    }
    let late = || Err(format!("it was not asked or had not answered when {LIMIT:?} were over"));
    names.iter().map(|name| NodeAnswer::new(name, told.remove(name).unwrap_or_else(late))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|n| format!("n{n:04}").into()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_hang_are_named_and_what_others_said_is_told() {
        let told = gather(names(3 * AT_ONCE), async |name| {
            if &*name > "n0001" && &*name < "n0100" {
                std::future::pending::<()>().await;
            }
            Ok(b"[1]".to_vec())
        })
        .await;
        let asked: Vec<Arc<str>> = told.iter().map(|t| t.node.as_str().into()).collect();
        assert_eq!(asked, names(3 * AT_ONCE));
        assert_eq!(told[0].answer.as_ref().unwrap().get(), "[1]");
        assert!(told[2].missing.as_ref().unwrap().contains("when 8s were over"));
    }

    #[tokio::test]
    async fn what_does_not_fit_or_is_no_json_is_named() {
        let large = format!("\"{}\"", "x".repeat(ALL_MAX / 2)).into_bytes();
        let told = gather(names(4), async |name| match &*name {
            "n0000" | "n0001" => Ok(large.clone()),
            "n0002" => Ok(b"[1] and more".to_vec()),
            _ => Ok(b"{}".to_vec()),
        })
        .await;
        let why = |n: usize| told[n].missing.clone().unwrap_or_default();
        assert_ne!(why(0).contains("no room"), why(1).contains("no room"), "{} {}", why(0), why(1));
        assert!(why(2).contains("no JSON") && told[3].answer.is_some());
    }
}
