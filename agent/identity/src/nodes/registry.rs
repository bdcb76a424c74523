//! What each node said last, and when.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lark_core::rotation::{NodeFacts, Phase, Report, SILENT, State, may_have};

/// Agents of one node that count: one, two while one takes over, a few after crashes.
const INSTANCES: usize = 4;

/// What an agent said last, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// How long ago.
    pub silent: Duration,
    /// What it holds.
    pub report: Report,
    /// Its version.
    pub version: String,
}

#[derive(Debug)]
struct Instance {
    number: u64,
    heard: Instant,
    /// Whether its stream is open.
    open: bool,
    report: Report,
    version: String,
}

/// The agents by node. Only nodes that proved themselves get in, and of each a few agents.
#[derive(Debug)]
pub(super) struct Registry {
    began: Mutex<Instant>,
    nodes: Mutex<HashMap<Arc<str>, Vec<Instance>>>,
    /// What each node said last of pods that fail, and when; only of those that said something.
    failing: Mutex<HashMap<Arc<str>, (Instant, Failing)>>,
}

/// UIDs of pods, each with the reason.
type Failing = Vec<(String, String)>;

impl Registry {
    pub(super) fn new(began: Instant) -> Self {
        Self { began: Mutex::new(began), nodes: Mutex::default(), failing: Mutex::default() }
    }

    /// Forgets all nodes: they are silent from now on, until they speak.
    pub(super) fn begin(&self, now: Instant) {
        let mut nodes = self.locked();
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = now;
        nodes.clear();
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Instance>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard(&self, node: &Arc<str>, number: u64, report: Report, version: String, now: Instant) {
        let mut nodes = self.locked();
        let all = nodes.entry(node.clone()).or_default();
        // An agent that says nothing while another of its node speaks has ended.
        all.retain(|i| i.number != number && i.open && now.saturating_duration_since(i.heard) < SILENT);
        if all.len() >= INSTANCES {
            all.remove(0);
        }
        all.push(Instance { number, heard: now, open: true, report, version });
    }

    /// What a node says of its pods that fail.
    pub(super) fn fails(&self, node: &Arc<str>, failing: Failing) {
        let mut all = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match failing.is_empty() {
            true => drop(all.remove(node)),
            false => drop(all.insert(node.clone(), (Instant::now(), failing))),
        }
    }

    /// What nodes that speak say of pods that fail.
    pub(super) fn failing(&self, now: Instant) -> Vec<(Arc<str>, String, String)> {
        let mut all = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (heard, _)| now.saturating_duration_since(*heard) < SILENT);
        let each = all.iter().flat_map(|(node, (_, failing))| {
            failing.iter().map(|(pod, why)| (node.clone(), pod.clone(), why.clone()))
        });
        each.collect()
    }

    /// An agent's stream ended. What it held counts until another agent of its node speaks.
    pub(super) fn left(&self, node: &str, number: u64) {
        if let Some(all) = self.locked().get_mut(node) {
            all.iter_mut().filter(|i| i.number == number).for_each(|i| i.open = false);
        }
    }

    /// One entry an agent; one for a node of which nothing was heard.
    pub(super) fn facts<'a>(&self, names: impl IntoIterator<Item = &'a str>, now: Instant) -> Vec<NodeFacts> {
        let nodes = self.locked();
        let began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let mut facts = Vec::new();
        for name in names {
            let all = nodes.get(name).filter(|all| !all.is_empty());
            let Some(all) = all else {
                let silent = now.saturating_duration_since(began);
                facts.push(NodeFacts { name: name.to_owned(), silent, report: None });
                continue;
            };
            facts.extend(all.iter().map(|instance| NodeFacts {
                name: name.to_owned(),
                silent: now.saturating_duration_since(instance.heard),
                report: Some(instance.report.clone()),
            }));
        }
        facts
    }

    pub(super) fn state(&self, name: &str, now: Instant) -> Option<NodeState> {
        let nodes = self.locked();
        let last = nodes.get(name)?.last()?;
        let silent = now.saturating_duration_since(last.heard);
        Some(NodeState { silent, report: last.report.clone(), version: last.version.clone() })
    }

    /// Whether a node may have certificates: each of its agents must have taken up what counts, since a
    /// request does not say which of them it is from.
    pub(super) fn may_have(&self, state: &State, name: &str, now: Instant) -> bool {
        if let Phase::Steady { .. } = state.phase {
            return true;
        }
        let nodes = self.locked();
        let Some(all) = nodes.get(name) else { return false };
        let speaks = |i: &&Instance| now.saturating_duration_since(i.heard) < SILENT;
        let mut speaking = all.iter().filter(speaks).peekable();
        speaking.peek().is_some() && speaking.all(|i| may_have(state, Some(&i.report)))
    }
}

#[cfg(test)]
mod tests {
    use lark_core::rotation::RootId;

    use super::*;

    fn report(epoch: u64, roots: &[u8]) -> Report {
        let roots = roots.iter().map(|&n| RootId::new([n; 32])).collect();
        Report { epoch, roots, svids: Vec::new(), asking: false }
    }

    #[test]
    fn every_agent_of_a_node_counts_while_it_speaks() {
        let began = Instant::now();
        let registry = Registry::new(began);
        let node: Arc<str> = "one".into();
        let at = |seconds| began + Duration::from_secs(seconds);
        let (old, new) = (RootId::new([1; 32]), RootId::new([2; 32]));
        let state = State::steady(old, 0);
        assert!(registry.may_have(&state, "one", at(0)));
        let state = state.begin(new, 0).unwrap();
        assert!(!registry.may_have(&state, "one", at(0)), "nothing was heard of it");
        assert_eq!(registry.facts(["one"], at(9))[0].silent, Duration::from_secs(9));
        registry.heard(&node, 1, report(2, &[1, 2]), String::new(), at(10));
        assert!(registry.may_have(&state, "one", at(11)));
        registry.heard(&node, 2, report(2, &[1]), String::new(), at(12));
        assert!(!registry.may_have(&state, "one", at(13)), "the other one lacks a root");
        assert_eq!(registry.facts(["one"], at(13)).len(), 2);
        // The other one is silent: it has ended, and is forgotten once this one speaks.
        registry.heard(&node, 1, report(2, &[1, 2]), "v".to_owned(), at(43));
        assert!(registry.may_have(&state, "one", at(44)));
        assert_eq!(registry.facts(["one"], at(44)).len(), 1);
        assert_eq!(registry.state("one", at(44)).unwrap().version, "v");
        registry.left("one", 1);
        assert_eq!(registry.facts(["one"], at(44)).len(), 1, "what it held may count still");
        registry.heard(&node, 3, report(2, &[1, 2]), "w".to_owned(), at(45));
        assert_eq!(registry.facts(["one"], at(45)).len(), 1);
        assert!(!registry.may_have(&state, "one", at(80)), "it says nothing any more");
        for number in 0..100 {
            registry.heard(&node, number, report(2, &[1]), String::new(), at(81));
        }
        assert_eq!(registry.facts(["one"], at(81)).len(), INSTANCES);
        // Who leads anew has heard nothing of it, for no time at all.
        registry.begin(at(90));
        let facts = registry.facts(["one"], at(93));
        assert_eq!((facts.len(), facts[0].silent), (1, Duration::from_secs(3)));
        assert!(facts[0].report.is_none() && registry.state("one", at(93)).is_none());
    }
}
