//! What policies say of an attempt, by the set of them that selects a workload.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::buckets::{Buckets, Place, Token};
use super::compile::{Compiled, Subject};
use super::decision::{Because, Decision, Selecting, Stage};
use super::network::Against;
use super::selector::Labels;
use super::{Attempt, AuthorizationPolicy, Direction, Kind, NetworkPolicy, Policies, PolicyName, Unreadable};
use crate::snapshot::shards::Shards;
use crate::snapshot::{NodeName, Workload};

/// All policies of a snapshot. A copy shares what its changes do not touch.
#[derive(Debug, Clone, Default)]
pub struct PolicyIndex {
    /// What it was compiled from, each list in order of names.
    pub(super) policies: Arc<Policies>,
    pub(super) compiled: Arc<Compiled>,
    pub(super) nodes: Arc<HashMap<NodeName, Vec<IpAddr>>>,
    /// Which set of policies selects a workload; not listed where none does.
    pub(super) subjects: Shards<Subject>,
    /// How many workloads each set selects.
    pub(super) members: Vec<u32>,
}

/// The policies that select some workloads. Numbers are places in the index's lists.
#[derive(Debug, Clone, Default)]
pub(super) struct Set {
    pub(super) deny: List,
    pub(super) allow: List,
    pub(super) dry_deny: List,
    pub(super) dry_allow: List,
    pub(super) ingress: List,
    pub(super) egress: List,
    pub(super) unreadable_authorization: Option<u32>,
    pub(super) unreadable_authorization_dry: Option<u32>,
    pub(super) unreadable_network: Option<u32>,
}

/// Policies of one kind and effect, with their rules to be looked up.
#[derive(Debug, Clone, Default)]
pub(super) struct List {
    pub(super) policies: Vec<u32>,
    rules: Buckets,
}

impl Set {
    /// Whether an AuthorizationPolicy is enforced, or was to be and cannot be read.
    pub(super) fn is_authorized(&self) -> bool {
        !self.deny.is_empty() || !self.allow.is_empty() || self.unreadable_authorization.is_some()
    }
}

impl List {
    fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Adds a policy with the tokens of each of its rules.
    pub(super) fn add<'t>(&mut self, policy: u32, rules: impl Iterator<Item = Vec<Token<'t>>>) {
        self.policies.push(policy);
        for (rule, tokens) in (0..).zip(rules) {
            tokens.into_iter().for_each(|token| self.rules.add(token, (policy, rule)));
        }
    }
}

/// One policy, for people.
#[derive(Debug, Clone)]
pub struct Listed<'a> {
    /// Which one.
    pub name: PolicyName,
    /// What it is, or why it could not be read.
    pub policy: Policy<'a>,
    /// How many workloads it selects.
    pub selected: u32,
}

/// A policy of either kind.
#[derive(Debug, Clone, Copy)]
pub enum Policy<'a> {
    /// AuthorizationPolicy.
    Authorization(&'a AuthorizationPolicy),
    /// NetworkPolicy.
    Network(&'a NetworkPolicy),
    /// Neither could be made of it.
    Unreadable(&'a Unreadable),
}

impl PolicyIndex {
    /// Whether there is no policy at all.
    pub fn is_empty(&self) -> bool {
        let Policies { namespaces: _, authorization, network, unreadable } = &*self.policies;
        authorization.is_empty() && network.is_empty() && unreadable.is_empty()
    }

    pub(super) fn set_of(&self, workload: &Workload) -> Option<&Set> {
        let subject = self.subjects.get(&workload.uid)?;
        self.compiled.sets.get(usize::try_from(subject.set).ok()?)
    }

    /// The NetworkPolicies that select a workload.
    pub(super) fn network_of(&self, workload: &Workload) -> impl Iterator<Item = &NetworkPolicy> {
        let set = self.set_of(workload).into_iter();
        let numbers = set.flat_map(|set| [&set.ingress, &set.egress]).flat_map(|list| &list.policies);
        numbers.filter_map(|number| self.policies.network.get(usize::try_from(*number).ok()?))
    }

    /// The AuthorizationPolicies that select a workload, those under dry run among them.
    pub(super) fn authorization_of(&self, workload: &Workload) -> impl Iterator<Item = &AuthorizationPolicy> {
        let set = self.set_of(workload).into_iter();
        let lists = set.flat_map(|set| [&set.deny, &set.allow, &set.dry_deny, &set.dry_allow]);
        let numbers = lists.flat_map(|list| &list.policies);
        numbers.filter_map(|number| self.authorization(*number))
    }

    /// The AuthorizationPolicy of that number.
    pub(super) fn authorization(&self, number: u32) -> Option<&AuthorizationPolicy> {
        self.policies.authorization.get(usize::try_from(number).ok()?)
    }

    /// Whether these are the policies of another index, compiled for other workloads perhaps.
    pub fn has_policies_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.policies, &other.policies) || self.policies == other.policies
    }

    /// What the source's agent asks.
    pub fn egress(&self, attempt: &Attempt<'_>) -> Decision<'_> {
        self.network(Direction::Egress, attempt)
    }

    /// What the destination's agent asks: both must allow it.
    pub fn inbound(&self, attempt: &Attempt<'_>) -> [Decision<'_>; 2] {
        [self.authorize(attempt), self.network(Direction::Ingress, attempt)]
    }

    fn network(&self, direction: Direction, attempt: &Attempt<'_>) -> Decision<'_> {
        let (stage, subject, peer) = match direction {
            Direction::Egress => (Stage::Egress, attempt.source, attempt.destination),
            Direction::Ingress => (Stage::Ingress, attempt.destination, attempt.source),
        };
        let decided = |allowed, because| Decision { stage, allowed, because, dry_run: Vec::new() };
        // Pods on the host network are their node: no NetworkPolicy selects them.
        let selected = subject.workload.filter(|w| !w.host_network);
        let Some((workload, set)) = selected.and_then(|w| Some((w, self.set_of(w)?))) else {
            return decided(true, Because::NoPolicy);
        };
        let list = if direction == Direction::Egress { &set.egress } else { &set.ingress };
        if list.is_empty() && set.unreadable_network.is_none() {
            return decided(true, Because::NoPolicy);
        }
        if is_itself(attempt) {
            return decided(true, Because::Itself);
        }
        let address = peer.address.to_canonical();
        if self.nodes.get(&workload.node).is_some_and(|own| own.contains(&address)) {
            return decided(true, Because::OwnNode);
        }
        if let Some(because) = self.cannot_read(set.unreadable_network) {
            return decided(false, because);
        }
        let none = Labels::new();
        // A pod on the host network is known by its node's address only.
        let pod = peer.workload.filter(|w| !w.host_network);
        let against = Against {
            pod,
            namespace_labels: pod.and_then(|w| self.compiled.namespaces.get(&w.namespace)).unwrap_or(&none),
            address,
            accepts: attempt.destination.workload.filter(|w| !w.host_network),
            port: attempt.port,
        };
        let tokens = pod.into_iter().flat_map(|pod| {
            let labels = pod.labels.iter().map(|(key, value)| Token::Label(key, value));
            labels.chain([Token::Namespace(&pod.namespace)])
        });
        let allows = |(policy, rule): Place| {
            let policy = usize::try_from(policy).ok().and_then(|n| self.policies.network.get(n));
            let rule = policy.zip(usize::try_from(rule).ok());
            rule.is_some_and(|(policy, rule)| {
                let rule = policy.rules(direction).and_then(|rules| rules.get(rule));
                rule.is_some_and(|rule| rule.allows(&policy.namespace, &against))
            })
        };
        match list.rules.first(tokens.chain([Token::Any]), allows) {
            Some(place) => decided(true, self.rule(Kind::Network, place)),
            None => decided(false, self.none_allows(Kind::Network, list)),
        }
    }

    pub(super) fn authorize(&self, attempt: &Attempt<'_>) -> Decision<'_> {
        let decided =
            |allowed, because, dry_run| Decision { stage: Stage::Authorization, allowed, because, dry_run };
        let Some(set) = attempt.destination.workload.and_then(|w| self.set_of(w)) else {
            return decided(true, Because::NoPolicy, Vec::new());
        };
        if is_itself(attempt) {
            return decided(true, Because::Itself, Vec::new());
        }
        let dry_run = self.dry_run(set, attempt);
        if let Some(because) = self.cannot_read(set.unreadable_authorization) {
            return decided(false, because, dry_run);
        }
        if let Some(because) = self.matching(&set.deny, attempt) {
            return decided(false, because, dry_run);
        }
        if set.allow.is_empty() {
            return decided(true, Because::NoPolicy, dry_run);
        }
        match self.matching(&set.allow, attempt) {
            Some(because) => decided(true, because, dry_run),
            None => decided(false, self.none_allows(Kind::Authorization, &set.allow), dry_run),
        }
    }

    /// What would deny it if dry runs were none. An ALLOW beside others only opens, so a dry run of it
    /// would close only where no other ALLOW selects the workload.
    fn dry_run<'a>(&'a self, set: &'a Set, attempt: &Attempt<'_>) -> Vec<Because<'a>> {
        let mut would: Vec<_> = self.cannot_read(set.unreadable_authorization_dry).into_iter().collect();
        would.extend(self.matching(&set.dry_deny, attempt));
        if set.allow.is_empty()
            && !set.dry_allow.is_empty()
            && self.matching(&set.dry_allow, attempt).is_none()
        {
            would.push(self.none_allows(Kind::Authorization, &set.dry_allow));
        }
        would
    }

    fn matching(&self, list: &List, attempt: &Attempt<'_>) -> Option<Because<'_>> {
        let identity = attempt.source.workload.filter(|_| attempt.source.proved).map(|w| &w.identity);
        let tokens = identity
            .into_iter()
            .flat_map(|id| [Token::Account(id.namespace(), id.account()), Token::Namespace(id.namespace())]);
        let matches = |(policy, rule): Place| {
            let policy = usize::try_from(policy).ok().and_then(|n| self.policies.authorization.get(n));
            let rule = policy.zip(usize::try_from(rule).ok()).and_then(|(p, rule)| p.rules.get(rule));
            rule.is_some_and(|rule| rule.matches(attempt))
        };
        let place = list.rules.first(tokens.chain([Token::Any]), matches)?;
        Some(self.rule(Kind::Authorization, place))
    }

    fn none_allows<'a>(&'a self, kind: Kind, list: &'a List) -> Because<'a> {
        Because::NoneAllows(Selecting { index: self, kind, numbers: &list.policies })
    }

    fn rule(&self, kind: Kind, (policy, rule): Place) -> Because<'_> {
        let rule = usize::try_from(rule).unwrap_or(usize::MAX).saturating_add(1);
        Because::Rule { policy: self.name(kind, policy), rule }
    }

    fn cannot_read(&self, number: Option<u32>) -> Option<Because<'_>> {
        let policy = self.policies.unreadable.get(usize::try_from(number?).ok()?)?;
        Some(Because::Unreadable { policy: policy.policy.clone(), why: &policy.why })
    }

    pub(super) fn name(&self, kind: Kind, number: u32) -> PolicyName {
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        let found = match kind {
            Kind::Authorization => self.policies.authorization.get(place).map(|p| (&p.namespace, &p.name)),
            Kind::Network => self.policies.network.get(place).map(|p| (&p.namespace, &p.name)),
        };
        // A number of the index always names one of its policies.
        let (namespace, name) = found.map_or_else(|| ("".into(), "".into()), |(n, m)| (n.clone(), m.clone()));
        PolicyName { kind, namespace, name }
    }

    /// All policies, those that could not be read first.
    pub fn policies(&self) -> impl Iterator<Item = Listed<'_>> {
        let name = |kind, namespace: &Arc<str>, name: &Arc<str>| PolicyName {
            kind,
            namespace: namespace.clone(),
            name: name.clone(),
        };
        let authorization = self
            .policies
            .authorization
            .iter()
            .map(move |p| (name(Kind::Authorization, &p.namespace, &p.name), Policy::Authorization(p)));
        let network = self
            .policies
            .network
            .iter()
            .map(move |p| (name(Kind::Network, &p.namespace, &p.name), Policy::Network(p)));
        let unreadable = self.policies.unreadable.iter().map(|p| (p.policy.clone(), Policy::Unreadable(p)));
        let selected = self.selected().into_iter();
        authorization
            .chain(network)
            .chain(unreadable)
            .zip(selected)
            .map(|((name, policy), selected)| Listed { name, policy, selected })
    }

    /// The policies that could not be read.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.policies.unreadable
    }

    /// How many different sets of policies select workloads: what memory grows with.
    pub fn distinct_sets(&self) -> usize {
        self.members.iter().filter(|members| **members > 0).count()
    }
}

fn is_itself(attempt: &Attempt<'_>) -> bool {
    match (attempt.source.workload, attempt.destination.workload) {
        (Some(source), Some(destination)) => source.uid == destination.uid,
        _ => false,
    }
}
