//! What of the mesh somebody is shown who may not see all of it: a tenant, who may get pods in some namespaces.
//!
//! Invariants: nothing is told that concerns none of his namespaces; of the other end of a connection he is told what
//! his own workload could know of it (namespace, workload, identity, address) and no pod's name; and a sentence about
//! a connection is told only if whoever may have written it, or is named in it, is his. What is not known to concern
//! him does not: it fails closed.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::identity::SpiffeId;
use crate::question::Question;
use crate::view::{
    CertView, CheckView, ConnectionView, CourseView, EdgeView, HistoryView, Party, PolicyView, RequestsView,
    ServiceView, Status, WorkloadView,
};

/// What somebody may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Everything: he may get pods in all namespaces.
    All,
    /// What concerns these namespaces.
    Only(Namespaces),
}

/// Namespaces in which somebody may get pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces(BTreeSet<Arc<str>>);

impl FromIterator<Arc<str>> for Namespaces {
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(names: I) -> Self {
        // What is in no namespace is nobody's.
        Self(names.into_iter().filter(|name| !name.is_empty()).collect())
    }
}

impl Namespaces {
    /// Whether it is one of them.
    pub fn has(&self, namespace: &str) -> bool {
        self.0.contains(namespace)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a name, `NAMESPACE/NAME`, is of one of them.
    fn has_name(&self, name: &str) -> bool {
        name.split_once('/').is_some_and(|(namespace, name)| !name.contains('/') && self.has(namespace))
    }

    /// Whether an identity is of one of them.
    fn has_identity(&self, identity: &str) -> bool {
        identity.parse::<SpiffeId>().is_ok_and(|identity| self.has(identity.namespace()))
    }

    /// Whether one of the ends is of one of them.
    fn has_end(&self, source: &Party, destination: &Party) -> bool {
        self.has(&source.namespace) || self.has(&destination.namespace)
    }

    /// Whether a sentence about a connection may be told: the agent of an inbound one speaks of its own end, while the
    /// others pass on what the far end said. Who is no workload has no policies that could be named.
    fn has_said(&self, direction: &str, source: &Party, destination: &Party) -> bool {
        let may_speak = |party: &Party| party.namespace.is_empty() || self.has(&party.namespace);
        may_speak(destination) && (direction == "inbound" || may_speak(source))
    }
}

/// What of an answer of the agents concerns some namespaces.
pub trait SeenFrom: Sized {
    /// As much of it as may be told; nothing if none of it concerns them.
    fn seen_from(self, namespaces: &Namespaces) -> Option<Self>;
}

impl<T: SeenFrom> SeenFrom for Vec<T> {
    fn seen_from(self, namespaces: &Namespaces) -> Option<Self> {
        Some(self.into_iter().filter_map(|item| item.seen_from(namespaces)).collect())
    }
}

/// Whether a question is answered to somebody who may not see all. The others are about nodes as a whole, or tell by
/// which way and rule something would go that nobody has dialled.
pub const fn is_for_some(question: &Question<'_>) -> bool {
    match question {
        Question::Status
        | Question::Workloads
        | Question::Services
        | Question::Connections
        | Question::Edges
        | Question::Certs
        | Question::Check
        | Question::Policies
        | Question::PoliciesOf { .. }
        | Question::History
        | Question::Requests { .. }
        | Question::Last { .. } => true,
        Question::Bpf
        | Question::Trace { .. }
        | Question::Policy { .. }
        | Question::Tap { .. }
        | Question::Log
        | Question::SetLog { .. }
        | Question::Recent
        | Question::Metrics => false,
    }
}

/// One end of a connection whose other end is seen: whole, or without the pod's name.
fn end(party: Party, namespaces: &Namespaces) -> Party {
    if party.namespace.is_empty() || namespaces.has(&party.namespace) {
        return party;
    }
    Party { name: party.owner.clone(), ..party }
}

impl SeenFrom for EdgeView {
    fn seen_from(self, namespaces: &Namespaces) -> Option<Self> {
        if !namespaces.has_end(&self.source, &self.destination) {
            return None;
        }
        let told = namespaces.has_said(&self.direction, &self.source, &self.destination);
        Some(Self {
            detail: self.detail.filter(|_| told),
            source: end(self.source, namespaces),
            destination: end(self.destination, namespaces),
            ..self
        })
    }
}

impl SeenFrom for ConnectionView {
    fn seen_from(self, namespaces: &Namespaces) -> Option<Self> {
        if !namespaces.has_end(&self.source, &self.destination) {
            return None;
        }
        let told = namespaces.has_said(&self.direction, &self.source, &self.destination);
        Some(Self {
            note: if told { self.note } else { String::new() },
            service: self.service.filter(|service| namespaces.has_name(service)),
            source: end(self.source, namespaces),
            destination: end(self.destination, namespaces),
            ..self
        })
    }
}

impl SeenFrom for CourseView {
    fn seen_from(mut self, namespaces: &Namespaces) -> Option<Self> {
        if !namespaces.has_end(&self.source, &self.destination) {
            return None;
        }
        if !namespaces.has_said(&self.direction, &self.source, &self.destination) {
            self.stages.iter_mut().for_each(|stage| stage.found.clear());
        }
        Some(Self {
            source: end(self.source, namespaces),
            destination: end(self.destination, namespaces),
            ..self
        })
    }
}

impl SeenFrom for RequestsView {
    fn seen_from(self, namespaces: &Namespaces) -> Option<Self> {
        let seen = namespaces.has(&self.source_namespace) || namespaces.has(&self.destination_namespace);
        seen.then_some(self)
    }
}

impl SeenFrom for WorkloadView {
    fn seen_from(self, namespaces: &Namespaces) -> Option<Self> {
        namespaces.has(&self.namespace).then_some(self)
    }
}

impl SeenFrom for ServiceView {
    fn seen_from(self, namespaces: &Namespaces) -> Option<Self> {
        namespaces.has(&self.namespace).then_some(self)
    }
}

impl SeenFrom for PolicyView {
    fn seen_from(self, namespaces: &Namespaces) -> Option<Self> {
        namespaces.has(&self.namespace).then_some(self)
    }
}

impl SeenFrom for CertView {
    fn seen_from(self, namespaces: &Namespaces) -> Option<Self> {
        namespaces.has_identity(&self.identity).then_some(self)
    }
}

impl SeenFrom for CheckView {
    /// Subjects are `NAMESPACE/NAME` of a pod, `KIND NAMESPACE/NAME` of a policy, `certificate IDENTITY`, or a part of
    /// the agent.
    fn seen_from(self, namespaces: &Namespaces) -> Option<Self> {
        let subject = self.subject.split_once(' ').map_or(self.subject.as_str(), |(_, subject)| subject);
        let seen = namespaces.has_name(subject) || namespaces.has_identity(subject);
        seen.then_some(self)
    }
}

impl SeenFrom for HistoryView {
    /// Without what all of a node add up to.
    fn seen_from(mut self, namespaces: &Namespaces) -> Option<Self> {
        self.series.retain(|series| namespaces.has(&series.namespace));
        Some(self)
    }
}

impl SeenFrom for Status {
    /// That it is there, and whether it is well: what it counts is of all namespaces.
    fn seen_from(self, _: &Namespaces) -> Option<Self> {
        Some(Self {
            withheld: true,
            discovery_error: self.discovery_error.map(|_| "it is not current".to_owned()),
            pods: Vec::new(),
            connections_open: 0,
            draining: Vec::new(),
            ca_url: String::new(),
            ..self
        })
    }
}

#[cfg(test)]
mod tests;
