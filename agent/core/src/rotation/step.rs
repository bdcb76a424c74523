//! When the next phase may begin.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Phase, RootId, State};
use crate::constants::SVID_LIFE;

/// How long the way back stays open after every node has SVIDs of the new root alone.
pub const SETTLE: Duration = Duration::from_secs(10);
/// A node that was not heard for this long is silent.
pub const SILENT: Duration = Duration::from_secs(30);
/// A node that was not heard for this long has no valid SVID, whatever its clock says within an hour.
const FORGOTTEN: Duration = Duration::from_secs(SVID_LIFE.as_secs() + 3600);

/// What a node holds, as it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The last phase that it was told of.
    pub epoch: u64,
    /// Roots that it trusts.
    pub roots: Vec<RootId>,
    /// Roots from which its valid SVIDs hang.
    pub svids: Vec<RootId>,
    /// Whether requests for certificates are under way.
    pub asking: bool,
}

/// What is known of a node of the mesh.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// How long it was not heard; since the controller started, if it was not heard since.
    pub silent: Duration,
    /// What it said last.
    pub report: Option<Report>,
}

/// What a phase waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The node; empty for the time itself.
    pub node: String,
    /// Why.
    pub why: Why,
}

/// Why a phase waits for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Nothing was heard of it.
    #[error(
        "it says nothing for {0} s; its SVIDs may be valid: start its agent, or go on without it by `lark ca rotate --without NODE`"
    )]
    Silent(u64),
    /// It has not yet told what it holds in this phase.
    #[error("it has not yet said what it holds in this phase")]
    Unseen,
    /// It does not hold a root yet.
    #[error("it does not hold root {} yet", .0.short())]
    Lacks(RootId),
    /// It has SVIDs of a root that is to go.
    #[error("it has SVIDs of root {}", .0.short())]
    HasSvidOf(RootId),
    /// It waits for certificates that may still be of a root that is to go.
    #[error("it has requests for certificates under way")]
    Asking,
    /// It still holds a root that is withdrawn.
    #[error("it still holds root {}", .0.short())]
    Holds(RootId),
    /// The last moment to go back is not over.
    #[error("there is a way back for another {0} s")]
    Settling(u64),
}

/// What happens now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do, or what is waited for.
    Stay(Vec<Waiting>),
    /// The next phase begins; it must be on disk before anything follows from it.
    Next(State),
}

/// Whether a node may have certificates now: in a rotation only one that said in this phase that it trusts
/// all roots that count. A node that was away might otherwise take part again without them. One that was told of a
/// later phase than this knows better: whoever is asked lags behind.
pub fn may_have(state: &State, report: Option<&Report>) -> bool {
    match state.phase {
        Phase::Steady { .. } => report.is_none_or(|report| report.epoch <= state.epoch),
        _ => report.is_some_and(|report| {
            report.epoch == state.epoch && state.plan().trusted.iter().all(|r| report.roots.contains(r))
        }),
    }
}

/// Decides whether the next phase may begin. `nodes` are all nodes of the mesh by discovery: another one's
/// connections are refused in any case.
pub fn step(state: &State, nodes: &[NodeFacts], now: u64) -> Step {
    let mut waiting: Vec<Waiting> = nodes.iter().filter_map(|node| wait_for(state, node, now)).collect();
    if let Phase::Settle { .. } = state.phase {
        // A clock that was set back holds it for as long again at most, one that was set ahead only shortens it.
        let left = SETTLE.as_secs().saturating_sub(now.abs_diff(state.since));
        if left > 0 {
            waiting.push(Waiting { node: String::new(), why: Why::Settling(left) });
        }
    }
    let next = match state.phase {
        Phase::Steady { .. } => return Step::Stay(Vec::new()),
        _ if !waiting.is_empty() => return Step::Stay(waiting),
        Phase::Trust { old, new } => Phase::Issue { old, new },
        Phase::Issue { old, new } => Phase::Settle { old, new },
        Phase::Settle { old, new } => Phase::Retire { stays: new, goes: old },
        Phase::Revert { old, new } => Phase::Retire { stays: old, goes: new },
        Phase::Retire { stays, .. } => Phase::Steady { root: stays },
    };
    Step::Next(state.next(next, now))
}

fn wait_for(state: &State, node: &NodeFacts, now: u64) -> Option<Waiting> {
    let wait = |why| Some(Waiting { node: node.name.clone(), why });
    // Without a valid SVID it takes no part, and it is told of the present roots before it gets one. Until the rotation
    // began it may have got one without being heard.
    let began = matches!(state.phase, Phase::Trust { .. }).then_some(state.since);
    if node.silent >= FORGOTTEN && began.is_none_or(|began| now.saturating_sub(began) >= FORGOTTEN.as_secs())
    {
        return None;
    }
    if node.silent >= SILENT {
        // A root too many at a node that is away harms nobody.
        let gone = matches!(state.phase, Phase::Retire { .. }) || state.left_out.contains(&node.name);
        return if gone { None } else { wait(Why::Silent(node.silent.as_secs())) };
    }
    let Some(report) = node.report.as_ref().filter(|r| r.epoch == state.epoch) else {
        return wait(Why::Unseen);
    };
    let has_only = |root: RootId| {
        if let Some(&other) = report.svids.iter().find(|&&r| r != root) {
            wait(Why::HasSvidOf(other))
        } else if report.asking {
            wait(Why::Asking)
        } else {
            None
        }
    };
    match state.phase {
        Phase::Steady { .. } => None,
        Phase::Trust { old, new } => {
            let missing = [old, new].into_iter().find(|root| !report.roots.contains(root));
            missing.and_then(|root| wait(Why::Lacks(root)))
        }
        Phase::Issue { new, .. } | Phase::Settle { new, .. } => has_only(new),
        Phase::Revert { old, .. } => has_only(old),
        Phase::Retire { goes, .. } if report.roots.contains(&goes) => wait(Why::Holds(goes)),
        Phase::Retire { .. } => None,
    }
}
