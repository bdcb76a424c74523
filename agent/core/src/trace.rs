//! `lark trace`: what would happen to a connect, told step by step. Opens nothing.

use std::net::SocketAddr;

use crate::capture::PodState;
use crate::direct::{Subject, verdicts};
use crate::observe::Secured;
use crate::policy::{At, Passage};
use crate::route::{Decision, Route, Step, decide, is_mesh_destination};
use crate::snapshot::{SameNode, Snapshot, Workload};
use crate::view::{EdgeView, Party, TraceView};

/// Follows a connect of the workload `from` (`NAMESPACE/NAME`), which must run on `node`, to `to`
/// (`IP:PORT`); `state` tells how far a workload's capture is, `edges` what
/// became of connections so far.
///
/// # Errors
/// When the question makes no sense here; in a sentence.
pub fn explain(
    snapshot: &Snapshot,
    node: &str,
    from: &str,
    to: &str,
    state: impl FnOnce(&Workload) -> PodState,
    edges: &[EdgeView],
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
    let mode = Step {
        stage: "mtls".to_owned(),
        found: format!("{from} is {}: {}", source.mode.told(), source.mode.by.why()),
    };
    if let Some((way, why)) = not_taken(snapshot, source, asked, &state(source)) {
        return Ok(told(way, vec![mode, Step { stage: "capture".to_owned(), found: why }]));
    }
    let decision = decide(snapshot, node, asked, |_, _| None, |_| 0, 0).kept_by(snapshot, source);
    let (mut steps, mut way) = (vec![mode], decision.way());
    steps.extend(decision.steps(asked));
    for (allowed, found) in policy(snapshot, source, asked, &decision) {
        if !allowed {
            way = "deny";
        }
        steps.push(Step { stage: "policy".to_owned(), found });
    }
    if is_direct(snapshot, source, asked, &decision.route) {
        way = "direct";
        let found = "sameNode is direct and policies allow it: the kernel leaves it to the two pods, in plaintext, unless the socket is bound to something";
        steps.push(Step { stage: "kernel".to_owned(), found: found.to_owned() });
    }
    steps.extend(denied_before(source, &decision, edges));
    Ok(told(way, steps))
}

/// Whether the kernel decides it, once both pods are captured. Behind a Service it is asked about the Service's
/// address, which no verdict is about.
fn is_direct(snapshot: &Snapshot, source: &Workload, asked: SocketAddr, route: &Route) -> bool {
    let Route::Local { destination, .. } = route else { return false };
    if snapshot.mesh.same_node != SameNode::Direct {
        return false;
    }
    let [from, to] = [source, destination].map(|workload| Subject::of(snapshot, workload));
    let found = verdicts(snapshot, &from, &to);
    let of = |port: Option<u16>| {
        let mut about = found.iter().filter(|v| v.address == asked.ip().to_canonical());
        about.find(|v| v.port == port).map(|v| v.is_direct)
    };
    of(Some(asked.port())).or(of(None)).unwrap_or(false)
}

/// What was said of the last connection between these two that was denied, by the other agent perhaps,
/// whose discovery may be another than ours.
fn denied_before(source: &Workload, decision: &Decision, edges: &[EdgeView]) -> Option<Step> {
    let (Route::Tunnel { destination, .. } | Route::Local { destination, .. }) = &decision.route else {
        return None;
    };
    let (source, destination) = (Party::of(source), Party::of(destination));
    let same = |a: &Party, b: &Party| a.namespace == b.namespace && a.owner == b.owner;
    let edge = edges.iter().find(|edge| {
        edge.secured == Secured::Denied
            && same(&edge.source, &source)
            && same(&edge.destination, &destination)
    })?;
    let found = format!(
        "the last connection of {} to {} that was denied: {}, {}",
        source.owner,
        destination.owner,
        edge.reason.as_deref()?,
        edge.detail.as_deref().unwrap_or_default()
    );
    Some(Step { stage: "before".to_owned(), found })
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
    let mut told = Vec::new();
    for decision in &decisions {
        told.push((decision.allowed, decision.to_string()));
        let dry = |would| format!("{}: a dry run would deny it: {would}", decision.stage.label());
        told.extend(decision.dry_run.iter().map(|would| (true, dry(would))));
    }
    told
}

/// Why the kernel would not take this connect to the agent, if it would not, and what it would do.
fn not_taken(
    snapshot: &Snapshot,
    source: &Workload,
    asked: SocketAddr,
    state: &PodState,
) -> Option<(&'static str, String)> {
    let ip = asked.ip().to_canonical();
    if source.addresses.iter().any(|a| a.to_canonical() == ip) {
        let why = "the destination is the pod itself; it never leaves its namespace";
        return Some(("untouched", why.to_owned()));
    }
    let of_cluster = || snapshot.mesh.cluster_ranges.iter().any(|range| range.contains(ip));
    let taken = source.mode.is_strict() && of_cluster() || is_mesh_destination(snapshot, asked);
    let is_held = source.mode.is_strict() && source.capture.is_wanted();
    match state {
        PodState::Captured if taken => None,
        PodState::Captured => Some((
            "untouched",
            format!("{asked} is no mesh destination; the kernel leaves the connect alone"),
        )),
        _ if taken && is_held => Some((
            "deny",
            format!("{} is {}: {}; it is strict, so refused", source.full_name(), state.label(), state.why()),
        )),
        _ => Some(("untouched", format!("{} is {}: {}", source.full_name(), state.label(), state.why()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::fixture;

    #[test]
    fn each_way_is_told() {
        let snapshot = fixture::snapshot();
        let way = |from: &str, to: &str, state: PodState| {
            explain(&snapshot, "one", from, to, |_| state, &[]).map(|told| told.way)
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
    fn what_the_kernel_decides_is_told() {
        let (nodes, workloads, services) = fixture::mesh();
        let mesh = crate::snapshot::MeshSettings { same_node: SameNode::Direct, ..fixture::settings() };
        let snapshot = Snapshot::build(1, mesh, nodes, workloads, services).unwrap();
        for (to, expected) in [("10.0.1.2:80", "direct"), ("10.0.2.1:80", "tunnel")] {
            let told = explain(&snapshot, "one", "shop/web", to, |_| PodState::Captured, &[]).unwrap();
            assert_eq!(told.way, expected, "{to}");
        }
    }

    #[test]
    fn a_strict_source_goes_nowhere_unknown() {
        let (nodes, mut workloads, services) = fixture::mesh();
        for workload in &mut workloads {
            workload.mode.mtls = crate::mode::Mtls::Strict;
        }
        let mut mesh = fixture::settings();
        mesh.cluster_ranges = vec!["10.0.0.0/8".parse().unwrap(), "192.168.0.0/16".parse().unwrap()];
        let snapshot = Snapshot::build(1, mesh, nodes, workloads, services).unwrap();
        let way = |to: &str, state: PodState| {
            explain(&snapshot, "one", "shop/web", to, |_| state, &[]).map(|told| told.way).unwrap()
        };
        let pending = || PodState::Pending { why: "no certificate yet".to_owned() };
        for (to, captured, held) in [
            ("10.0.2.1:80", "tunnel", "deny"),
            ("10.0.2.2:80", "passthrough", "deny"),
            ("10.0.9.9:80", "deny", "deny"),
            ("192.168.0.2:6443", "passthrough", "deny"),
            ("9.9.9.9:80", "untouched", "untouched"),
            ("10.0.1.1:80", "untouched", "untouched"),
        ] {
            assert_eq!(
                (way(to, PodState::Captured), way(to, pending())),
                (captured.into(), held.into()),
                "{to}"
            );
        }
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
            let error = explain(&snapshot, "one", from, to, |_| PodState::Captured, &[]).unwrap_err();
            assert!(error.starts_with(sentence), "{error}");
        }
    }

    #[test]
    fn what_the_other_agent_said_is_told() {
        let snapshot = fixture::snapshot();
        let party = |name| Party::of(snapshot.workload_named("shop", name).unwrap());
        let edge = EdgeView {
            direction: "outbound".to_owned(),
            source: party("web"),
            destination: party("db"),
            secured: Secured::Denied,
            connections: 1,
            open: 0,
            sent_bytes: 0,
            received_bytes: 0,
            reason: Some("policy_denied".to_owned()),
            detail: Some("NetworkPolicy shop/closed".to_owned()),
            round_trip_seconds: None,
            retransmits: None,
        };
        let before = |to: &str| {
            let edges = std::slice::from_ref(&edge);
            let told = explain(&snapshot, "one", "shop/web", to, |_| PodState::Captured, edges).unwrap();
            told.steps.into_iter().find(|step| step.stage == "before").map(|step| step.found)
        };
        let said =
            "the last connection of web to db that was denied: policy_denied, NetworkPolicy shop/closed";
        assert_eq!(before("10.0.2.1:80").as_deref(), Some(said));
        assert_eq!(before("10.0.1.2:80"), None);
    }
}
