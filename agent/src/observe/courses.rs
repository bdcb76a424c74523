//! The last connection between each two workloads, for whoever asks what became of it. Bounded: of more than
//! [`PAIRS_MAX`] pairs those are forgotten whose connection ended first.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lark_core::observe::{Secured, Stage};
use lark_core::view::{CourseView, Party, StageView};

use super::connection::{Direction, Live};

/// Pairs whose last connection is kept: a kilobyte or so each.
const PAIRS_MAX: usize = 512;

/// Connections that are over, by who dialled whom, each with its number.
#[derive(Debug, Default)]
pub(super) struct Courses(HashMap<Pair, (u64, Arc<Live>)>);

/// The two ends' namespaces and names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    source: (Arc<str>, Arc<str>),
    destination: (Arc<str>, Arc<str>),
}

impl Pair {
    pub(super) fn of(live: &Live) -> Self {
        let end = |party: &Party| (party.namespace.clone(), party.name.clone());
        Self { source: end(&live.opening.source), destination: end(&live.opening.destination) }
    }
}

impl Courses {
    /// A connection is over.
    pub(super) fn keep(&mut self, pair: Pair, id: u64, live: Arc<Live>) {
        if self.0.len() >= PAIRS_MAX && !self.0.contains_key(&pair) {
            let oldest = self.0.iter().min_by_key(|(_, (id, _))| *id).map(|(pair, _)| pair.clone());
            if let Some(oldest) = oldest {
                self.0.remove(&oldest);
            }
        }
        let kept = self.0.entry(pair).or_insert_with(|| (id, live.clone()));
        if kept.0 <= id {
            *kept = (id, live);
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, Arc<Live>)> {
        self.0.values().map(|(id, live)| (*id, live.clone()))
    }
}

/// Whether an end goes by that name, `NAMESPACE/NAME`, or has that address, `IP:PORT` or `IP`.
pub(super) fn is(party: &Party, address: SocketAddr, name: &str) -> bool {
    party.goes_by(name) || address.to_string() == name || address.ip().to_string() == name
}

/// What one connection went through.
pub(super) fn view(live: &Live) -> CourseView {
    let opening = &live.opening;
    let taken = StageView { stage: "taken".to_owned(), after_seconds: 0.0, found: taken(live) };
    let mut reached: Vec<(Duration, Stage)> =
        Stage::ALL.into_iter().filter_map(|stage| Some((live.stages.after(stage)?, stage))).collect();
    // What the source said at once may be on its way before anybody has accepted it.
    reached.sort_by_key(|(after, _)| *after);
    let reached = reached.into_iter().map(|(after, stage)| StageView {
        stage: stage.label().to_owned(),
        after_seconds: after.as_secs_f64(),
        found: found(live, stage),
    });
    let began = SystemTime::now().checked_sub(live.started.elapsed()).unwrap_or(UNIX_EPOCH);
    let began = began.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    CourseView {
        direction: opening.direction.label().to_owned(),
        source: opening.source.clone(),
        destination: opening.destination.clone(),
        source_address: opening.source_address.to_string(),
        destination_address: opening.destination_address.to_string(),
        secured: live.secured.get().copied(),
        began_ms: u64::try_from(began).unwrap_or(u64::MAX),
        stages: std::iter::once(taken).chain(reached).collect(),
    }
}

fn taken(live: &Live) -> String {
    match (live.opening.direction, live.opening.peer) {
        (Direction::Inbound, Some(peer)) => format!("a stream came in from the agent at {peer}"),
        (Direction::Inbound, None) => "somebody dialled it".to_owned(),
        _ if live.secured.get() == Some(&Secured::Direct) => "the kernel left it to the two pods".to_owned(),
        _ => "the pod's connect was led to the agent".to_owned(),
    }
}

fn found(live: &Live, stage: Stage) -> String {
    let opening = &live.opening;
    let secured = live.secured.get().map_or("", |secured| secured.sign());
    match stage {
        Stage::Known => match (opening.direction, opening.peer) {
            (Direction::Inbound, _) => "discovery agrees with what the other agent claims".to_owned(),
            (Direction::Local, _) => format!("it goes to {} on this node", opening.destination_address),
            (Direction::Outbound, Some(peer)) => {
                format!("it goes to {} by the agent at {peer}", opening.destination_address)
            }
            (Direction::Outbound, None) => format!("it goes to {}", opening.destination_address),
        },
        Stage::Allowed => "policies allow it".to_owned(),
        Stage::Tunnel if live.waited_for_tunnel() => "a tunnel was opened for it".to_owned(),
        Stage::Tunnel => "a tunnel was there".to_owned(),
        Stage::Open => match opening.direction {
            Direction::Inbound => format!("the application accepted it; {secured}"),
            Direction::Outbound if opening.peer.is_some() => {
                format!("the other agent delivered it; {secured}")
            }
            _ => format!("the destination accepted it; {secured}"),
        },
        Stage::Sent => "the source's first byte was passed on".to_owned(),
        Stage::Received => "the destination's first byte was passed on".to_owned(),
        Stage::Ended => {
            let bytes = format!("{} bytes sent, {} received", live.counters.sent(), live.counters.received());
            let ended = live.ended.get().map(|ended| [ended.how, ended.reason, ended.detail.as_str()]);
            let said = ended.into_iter().flatten().chain([bytes.as_str()]);
            said.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
        }
    }
}
