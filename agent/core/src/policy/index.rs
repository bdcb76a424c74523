//! Policies by the workload that they select, compiled once for a snapshot.
//!
//! Workloads that are selected by the same policies share one entry, so that memory grows with the
//! number of different sets and not with policies times workloads.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::buckets::{Buckets, Place, Token};
use super::decision::{Because, Decision, Selecting, Stage};
use super::network::Against;
use super::selector::{Labels, Selector};
use super::{
    Action, Attempt, AuthorizationPolicy, AuthorizationRule, Direction, Kind, NetworkPolicy, Policies,
    PolicyName, Scope, Unreadable,
};
use crate::snapshot::{Node, NodeName, Workload};

/// Label that every namespace has, whatever its manifest says (Kubernetes 1.21).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// All policies of a snapshot.
#[derive(Debug, Clone, Default)]
pub struct PolicyIndex {
    /// What it was compiled from, each list in order of names.
    policies: Arc<Policies>,
    /// Workloads that each selects, in the order of the three lists of `policies`.
    selected: Vec<u32>,
    namespaces: HashMap<Arc<str>, Labels>,
    nodes: HashMap<NodeName, Vec<IpAddr>>,
    /// Which set of policies selects a workload, by uid; not listed where none does.
    subjects: HashMap<Arc<str>, u32>,
    sets: Vec<Set>,
}

/// The policies that select some workloads. Numbers are places in the index's lists.
#[derive(Debug, Clone, Default)]
pub(super) struct Set {
    pub(super) deny: List,
    pub(super) allow: List,
    dry_deny: List,
    dry_allow: List,
    ingress: List,
    egress: List,
    pub(super) unreadable_authorization: Option<u32>,
    unreadable_authorization_dry: Option<u32>,
    unreadable_network: Option<u32>,
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
    fn add<'t>(&mut self, policy: u32, rules: impl Iterator<Item = Vec<Token<'t>>>) {
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

/// Selectors are looked up by what they select from, so that equal ones are evaluated once.
type Selects<'a> = (Option<&'a Arc<str>>, &'a Selector);

impl PolicyIndex {
    /// Compiles policies for the workloads and nodes of a snapshot.
    pub fn build<'w>(
        mut policies: Policies,
        workloads: impl Iterator<Item = &'w Arc<Workload>>,
        nodes: impl Iterator<Item = &'w Node>,
    ) -> Self {
        // The order in which they are named must not hang on the order in which they arrived.
        policies.authorization.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        policies.network.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        policies.unreadable.sort_by(|a, b| a.policy.cmp(&b.policy));
        Self::of(Arc::new(policies), workloads, nodes)
    }

    /// The same policies compiled for other workloads and nodes. What was compiled for those before says
    /// nothing of these: a workload that is not listed is selected by none.
    pub fn rebuild<'w>(
        &self,
        workloads: impl Iterator<Item = &'w Arc<Workload>>,
        nodes: impl Iterator<Item = &'w Node>,
    ) -> Self {
        Self::of(self.policies.clone(), workloads, nodes)
    }

    fn of<'w>(
        policies: Arc<Policies>,
        workloads: impl Iterator<Item = &'w Arc<Workload>>,
        nodes: impl Iterator<Item = &'w Node>,
    ) -> Self {
        let mut index = Self { policies, ..Self::default() };
        // Of no policies nothing is asked.
        if !index.is_empty() {
            let workloads: Vec<&Arc<Workload>> = workloads.collect();
            let canonical = |node: &Node| node.addresses.iter().map(|a| a.to_canonical()).collect();
            index.namespaces = labels_of_namespaces(&index.policies.namespaces, &workloads);
            index.nodes = nodes.map(|node| (node.name.clone(), canonical(node))).collect();
            index.compile(&workloads);
        }
        index
    }

    /// Whether there is no policy at all.
    pub fn is_empty(&self) -> bool {
        let Policies { namespaces: _, authorization, network, unreadable } = &*self.policies;
        authorization.is_empty() && network.is_empty() && unreadable.is_empty()
    }

    fn compile(&mut self, workloads: &[&Arc<Workload>]) {
        let groups = self.groups();
        let by_label = Candidates::of(workloads);
        let mut selected = vec![
            0;
            self.policies.authorization.len()
                + self.policies.network.len()
                + self.policies.unreadable.len()
        ];
        // By workload: which groups select it, in order.
        let mut of_workload: Vec<Vec<u32>> = vec![Vec::new(); workloads.len()];
        let mut members = Vec::with_capacity(groups.len());
        for (group, ((within, selector), policies)) in (0..).zip(&groups) {
            let mut count = 0;
            for number in by_label.candidates(within.map(|n| &**n), selector) {
                if let (Some(workload), Some(own)) = (workloads.get(*number), of_workload.get_mut(*number))
                    && within.is_none_or(|namespace| *namespace == workload.namespace)
                    && selector.matches(&workload.labels)
                {
                    own.push(group);
                    count += 1;
                }
            }
            policies.iter().for_each(|p| selected[*p] = count);
            members.push(policies.clone());
        }
        drop(groups);
        let mut sets: HashMap<Vec<u32>, u32> = HashMap::new();
        for (workload, groups) in workloads.iter().zip(of_workload).filter(|(_, groups)| !groups.is_empty()) {
            let next = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
            let set = match sets.get(&groups) {
                Some(set) => *set,
                None => {
                    let policies = groups.iter().filter_map(|g| members.get(usize::try_from(*g).ok()?));
                    let carried = |key: &str, value: &str| by_label.carried(key, value);
                    let set = self.set(policies.flatten().copied(), &carried);
                    self.sets.push(set);
                    sets.insert(groups, next);
                    next
                }
            };
            self.subjects.insert(workload.uid.clone(), set);
        }
        self.selected = selected;
    }

    /// Places of policies by what they select.
    fn groups(&self) -> BTreeMap<Selects<'_>, Vec<usize>> {
        let authorization = self.policies.authorization.iter().map(|p| {
            let within = (p.scope == Scope::Namespace).then_some(&p.namespace);
            (within, &p.selector)
        });
        let network = self.policies.network.iter().map(|p| (Some(&p.namespace), &p.pods));
        let unreadable = self.policies.unreadable.iter().map(|p| (p.within.as_ref(), &p.selector));
        let mut groups: BTreeMap<Selects<'_>, Vec<usize>> = BTreeMap::new();
        for (place, selects) in authorization.chain(network).chain(unreadable).enumerate() {
            groups.entry(selects).or_default().push(place);
        }
        groups
    }

    fn set(&self, places: impl Iterator<Item = usize>, carried: &impl Fn(&str, &str) -> usize) -> Set {
        let mut set = Set::default();
        let number = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        let mut places: Vec<usize> = places.collect();
        places.sort_unstable();
        for place in places {
            if let Some(policy) = self.policies.authorization.get(place) {
                let list = match (policy.action, policy.dry_run) {
                    (Action::Deny, false) => &mut set.deny,
                    (Action::Deny, true) => &mut set.dry_deny,
                    (Action::Allow, false) => &mut set.allow,
                    (Action::Allow, true) => &mut set.dry_allow,
                };
                list.add(number(place), policy.rules.iter().map(AuthorizationRule::tokens));
                continue;
            }
            let place = place - self.policies.authorization.len();
            if let Some(policy) = self.policies.network.get(place) {
                for (direction, list) in
                    [(Direction::Ingress, &mut set.ingress), (Direction::Egress, &mut set.egress)]
                {
                    if let Some(rules) = policy.rules(direction) {
                        let tokens = rules.iter().map(|rule| rule.tokens(&policy.namespace, carried));
                        list.add(number(place), tokens);
                    }
                }
                continue;
            }
            let place = place - self.policies.network.len();
            if let Some(policy) = self.policies.unreadable.get(place) {
                match (policy.policy.kind, policy.dry_run) {
                    (Kind::Authorization, false) => &mut set.unreadable_authorization,
                    (Kind::Authorization, true) => &mut set.unreadable_authorization_dry,
                    (Kind::Network, _) => &mut set.unreadable_network,
                }
                .get_or_insert(number(place));
            }
        }
        set
    }

    pub(super) fn set_of(&self, workload: &Workload) -> Option<&Set> {
        let number = self.subjects.get(&workload.uid)?;
        self.sets.get(usize::try_from(*number).ok()?)
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
            namespace_labels: pod.and_then(|w| self.namespaces.get(&w.namespace)).unwrap_or(&none),
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
        let selected = self.selected.iter().copied().chain(std::iter::repeat(0));
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
        self.sets.len()
    }
}

fn is_itself(attempt: &Attempt<'_>) -> bool {
    match (attempt.source.workload, attempt.destination.workload) {
        (Some(source), Some(destination)) => source.uid == destination.uid,
        _ => false,
    }
}

fn labels_of_namespaces(
    listed: &BTreeMap<Arc<str>, Labels>,
    workloads: &[&Arc<Workload>],
) -> HashMap<Arc<str>, Labels> {
    let mut all: HashMap<Arc<str>, Labels> =
        listed.iter().map(|(name, labels)| (name.clone(), labels.clone())).collect();
    for workload in workloads {
        if !all.contains_key(&workload.namespace) {
            all.insert(workload.namespace.clone(), Labels::new());
        }
    }
    for (name, labels) in &mut all {
        labels.insert(NAMESPACE_NAME.to_owned(), name.to_string());
    }
    all
}

/// Where to look for workloads of a selector: those with one of its labels, those of its namespace, or all.
struct Candidates<'w> {
    all: Vec<usize>,
    by_namespace: HashMap<&'w str, Vec<usize>>,
    by_label: HashMap<(&'w str, &'w str), Vec<usize>>,
}

impl<'w> Candidates<'w> {
    fn of(workloads: &[&'w Arc<Workload>]) -> Self {
        let mut candidates = Self {
            all: (0..workloads.len()).collect(),
            by_namespace: HashMap::new(),
            by_label: HashMap::new(),
        };
        for (number, workload) in workloads.iter().enumerate() {
            candidates.by_namespace.entry(&workload.namespace).or_default().push(number);
            for (key, value) in workload.labels.iter() {
                candidates.by_label.entry((key, value)).or_default().push(number);
            }
        }
        candidates
    }

    /// How many workloads have a label.
    fn carried(&self, key: &str, value: &str) -> usize {
        self.by_label.get(&(key, value)).map_or(0, Vec::len)
    }

    /// The shortest list that holds all that the selector can match.
    fn candidates<'a>(&'a self, within: Option<&'a str>, selector: &'a Selector) -> &'a [usize] {
        let labels = selector.labels.iter().map(|(key, value)| self.by_label.get(&(&**key, &**value)));
        let namespace = within.map(|namespace| self.by_namespace.get(namespace));
        let lists = labels.chain(namespace).map(|list| list.map_or(&[][..], Vec::as_slice));
        lists.min_by_key(|list| list.len()).unwrap_or(&self.all)
    }
}
