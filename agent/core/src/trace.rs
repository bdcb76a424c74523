//! `lark trace`: what would happen to a connect, told step by step. Opens nothing.

use std::net::SocketAddr;

use crate::capture::PodState;
use crate::policy::{At, Passage};
use crate::route::{Decision, Route, Step, decide, is_mesh_destination};
use crate::snapshot::{Snapshot, Workload};
use crate::view::TraceView;

/// Follows a connect of the workload `from` (`NAMESPACE/NAME`), which must run on `node`, to `to`
/// (`IP:PORT`); `state` tells how far a workload's capture is.
///
/// # Errors
/// When the question makes no sense here; in a sentence.
pub fn explain(
    snapshot: &Snapshot,
    node: &str,
    from: &str,
    to: &str,
    state: impl FnOnce(&Workload) -> PodState,
) -> Result<TraceView, String> {
    let (namespace, name) =
        from.split_once('/').ok_or_else(|| format!("--from {from} must be NAMESPACE/NAME"))?;
    let source = snapshot
        .workload_named(namespace, name)
        .ok_or_else(|| format!("no workload {from} is known; see `lark workloads`"))?;
    let asked: SocketAddr = to.parse().map_err(|_| format!("--to {to} must be IP:PORT"))?;
    if *source.node != *node {
        return Err(format!("{from} runs on node {}; ask the agent there", source.node));
    }
    let told =
        |way: &str, steps| TraceView { from: from.to_owned(), to: to.to_owned(), way: way.to_owned(), steps };
    if let Some(why) = untouched(snapshot, source, asked, &state(source)) {
        return Ok(told("untouched", vec![Step { stage: "capture".to_owned(), found: why }]));
    }
    let decision = decide(snapshot, node, asked, |_| 0, 0);
    let (mut steps, mut way) = (decision.steps(asked), decision.way());
    for (allowed, found) in policy(snapshot, source, asked, &decision) {
        if !allowed {
            way = "deny";
        }
        steps.push(Step { stage: "policy".to_owned(), found });
    }
    Ok(told(way, steps))
}

/// What policies say, those that the destination's agent asks included.
fn policy(
    snapshot: &Snapshot,
    source: &Workload,
    asked: SocketAddr,
    decision: &Decision,
) -> Vec<(bool, String)> {
    let family = |a: &&std::net::IpAddr| a.to_canonical().is_ipv4() == asked.ip().to_canonical().is_ipv4();
    let from = source.addresses.iter().find(family).map_or(asked.ip(), |a| a.to_canonical());
    let Some(passage) = Passage::of(snapshot, source, from, &decision.route) else { return Vec::new() };
    let at = if matches!(decision.route, Route::Passthrough { .. }) { At::Source } else { At::Both };
    let decisions = Passage { at, ..passage }.decisions(snapshot);
    decisions.iter().map(|d| (d.allowed, d.to_string())).collect()
}

/// Why the kernel would leave this connect alone, if it would.
fn untouched(snapshot: &Snapshot, source: &Workload, asked: SocketAddr, state: &PodState) -> Option<String> {
    if *state != PodState::Captured {
        return Some(format!("{} is {}: {}", source.full_name(), state.label(), state.why()));
    }
    let ip = asked.ip().to_canonical();
    if source.addresses.iter().any(|a| a.to_canonical() == ip) {
        return Some("the destination is the pod itself; it never leaves its namespace".to_owned());
    }
    (!is_mesh_destination(snapshot, asked))
        .then(|| format!("{asked} is no mesh destination; the kernel leaves the connect alone"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fixture;

    #[test]
    fn each_way_is_told() {
        let snapshot = fixture::snapshot();
        let way = |from: &str, to: &str, state: PodState| {
            explain(&snapshot, "one", from, to, |_| state).map(|told| told.way)
        };
        for (to, expected) in [
            ("10.0.2.1:80", "tunnel"),
            ("10.0.1.2:80", "local"),
            ("10.0.1.1:80", "untouched"),
            ("9.9.9.9:80", "untouched"),
            ("10.96.0.1:5432", "tunnel"),
            ("10.96.0.1:80", "untouched"),
        ] {
            assert_eq!(way("shop/web", to, PodState::Captured).as_deref(), Ok(expected), "{to}");
        }
        let pending = PodState::Pending { why: "no certificate yet".to_owned() };
        assert_eq!(way("shop/web", "10.0.2.1:80", pending).as_deref(), Ok("untouched"));
    }

    #[test]
    fn a_question_that_makes_no_sense_is_refused() {
        let snapshot = fixture::snapshot();
        for (from, to, sentence) in [
            ("web", "10.0.2.1:80", "--from web must be NAMESPACE/NAME"),
            ("shop/nobody", "10.0.2.1:80", "no workload shop/nobody is known"),
            ("shop/web", "db:80", "--to db:80 must be IP:PORT"),
            ("shop/db", "10.0.1.1:80", "shop/db runs on node two"),
        ] {
            let error = explain(&snapshot, "one", from, to, |_| PodState::Captured).unwrap_err();
            assert!(error.starts_with(sentence), "{error}");
        }
    }
}
