//! Which policies select which workload: compiled once for all workloads of a snapshot, and followed from there at
//! the cost of what changes.
//!
//! Workloads that are selected by the same policies share one entry, so that memory grows with the
//! number of different sets and not with policies times workloads.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::index::{PolicyIndex, Set};
use super::selector::{Labels, Selector};
use super::{Action, AuthorizationRule, Direction, Kind, Policies, Scope};
use crate::snapshot::shards::Entry;
use crate::snapshot::{Node, Turned, Workload};

/// Label that every namespace has, whatever its manifest says (Kubernetes 1.21).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// Most workloads that are followed one by one, each of which is asked of all selectors of its namespace.
const FEW: usize = 256;

/// What stays as long as the policies and the sets of them that select workloads do.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    pub(super) namespaces: HashMap<Arc<str>, Labels>,
    pub(super) sets: Vec<Set>,
    groups: Vec<Group>,
    /// The groups that select from that namespace.
    within: HashMap<Arc<str>, Vec<u32>>,
    /// Those that select from all.
    everywhere: Vec<u32>,
    /// By the groups that select a workload, in order: its set.
    by_groups: HashMap<Vec<u32>, u32>,
}

/// Policies that select alike, so that equal selectors are evaluated once.
#[derive(Debug)]
struct Group {
    selector: Selector,
    /// In the order of the three lists of [`Policies`].
    policies: Vec<usize>,
}

/// A workload that policies select.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    uid: Arc<str>,
    pub(super) set: u32,
}

impl Entry for Subject {
    type Key<'a> = &'a str;

    fn key(&self) -> &str {
        &self.uid
    }

    fn is(&self, key: &str) -> bool {
        *self.uid == *key
    }
}

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

    /// The same policies for what became of the workloads and nodes that these were compiled for. Nothing if that
    /// takes a compilation of all: a workload is in a namespace or selected by a set of policies that none was
    /// before, or they are more than a few.
    pub fn follow<'w>(
        &self,
        workloads: impl Iterator<Item = Turned<'w, Workload>>,
        nodes: impl Iterator<Item = Turned<'w, Node>>,
    ) -> Option<Self> {
        let mut next = self.clone();
        if self.is_empty() {
            return Some(next);
        }
        for (before, now) in nodes {
            let nodes = Arc::make_mut(&mut next.nodes);
            before.map(|node| nodes.remove(&node.name));
            now.map(|node| nodes.insert(node.name.clone(), canonical(node)));
        }
        for (count, (before, now)) in workloads.enumerate() {
            if count >= FEW {
                return None;
            }
            if let Some(gone) = before.and_then(|before| next.subjects.remove(&before.uid))
                && let Some(members) = next.members_mut(gone.set)
            {
                *members -= 1;
            }
            if let Some(workload) = now {
                next.select(workload)?;
            }
        }
        Some(next)
    }

    /// Notes by which policies a workload is selected; nothing if that set of them is none of those there are.
    fn select(&mut self, workload: &Workload) -> Option<()> {
        self.compiled.namespaces.get(&workload.namespace)?;
        let groups = self.compiled.selecting(workload);
        if groups.is_empty() {
            return Some(());
        }
        let set = *self.compiled.by_groups.get(&groups)?;
        *self.members_mut(set)? += 1;
        self.subjects.insert(Subject { uid: workload.uid.clone(), set });
        Some(())
    }

    fn members_mut(&mut self, set: u32) -> Option<&mut u32> {
        self.members.get_mut(usize::try_from(set).ok()?)
    }

    /// Workloads that each policy selects, in the order of the three lists of [`Policies`].
    pub(super) fn selected(&self) -> Vec<u32> {
        let Policies { namespaces: _, authorization, network, unreadable } = &*self.policies;
        let mut selected = vec![0; authorization.len() + network.len() + unreadable.len()];
        for (groups, set) in &self.compiled.by_groups {
            let members = usize::try_from(*set).ok().and_then(|set| self.members.get(set));
            for place in self.compiled.policies_of(groups) {
                if let Some(selected) = selected.get_mut(place) {
                    *selected += members.copied().unwrap_or_default();
                }
            }
        }
        selected
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
            index.nodes = Arc::new(nodes.map(|node| (node.name.clone(), canonical(node))).collect());
            index.compile(&workloads);
        }
        index
    }

    fn compile(&mut self, workloads: &[&Arc<Workload>]) {
        let mut compiled = Compiled {
            namespaces: labels_of_namespaces(&self.policies.namespaces, workloads),
            ..Compiled::default()
        };
        let by_label = Candidates::of(workloads);
        // By workload: which groups select it, in order.
        let mut of_workload: Vec<Vec<u32>> = vec![Vec::new(); workloads.len()];
        for (group, ((within, selector), policies)) in (0..).zip(groups(&self.policies)) {
            for number in by_label.candidates(within.map(|n| &**n), selector) {
                if let (Some(workload), Some(own)) = (workloads.get(*number), of_workload.get_mut(*number))
                    && within.is_none_or(|namespace| *namespace == workload.namespace)
                    && selector.matches(&workload.labels)
                {
                    own.push(group);
                }
            }
            match within {
                Some(namespace) => compiled.within.entry(namespace.clone()).or_default().push(group),
                None => compiled.everywhere.push(group),
            }
            compiled.groups.push(Group { selector: selector.clone(), policies });
        }
        for (workload, groups) in workloads.iter().zip(of_workload).filter(|(_, groups)| !groups.is_empty()) {
            let set = match compiled.by_groups.get(&groups) {
                Some(set) => *set,
                None => {
                    let carried = |key: &str, value: &str| by_label.carried(key, value);
                    let set = set(&self.policies, compiled.policies_of(&groups), &carried);
                    let next = u32::try_from(compiled.sets.len()).unwrap_or(u32::MAX);
                    compiled.sets.push(set);
                    self.members.push(0);
                    compiled.by_groups.insert(groups, next);
                    next
                }
            };
            self.subjects.insert(Subject { uid: workload.uid.clone(), set });
            if let Some(members) = self.members_mut(set) {
                *members += 1;
            }
        }
        self.compiled = Arc::new(compiled);
    }
}

impl Compiled {
    /// The groups that select a workload, in order.
    fn selecting(&self, workload: &Workload) -> Vec<u32> {
        let within = self.within.get(&workload.namespace).into_iter().flatten();
        let selects = |group: &&u32| {
            let group = usize::try_from(**group).ok().and_then(|group| self.groups.get(group));
            group.is_some_and(|group| group.selector.matches(&workload.labels))
        };
        let mut groups: Vec<u32> = within.chain(&self.everywhere).filter(selects).copied().collect();
        groups.sort_unstable();
        groups
    }

    /// Places of the policies of groups.
    fn policies_of(&self, groups: &[u32]) -> impl Iterator<Item = usize> {
        let groups = groups.iter().filter_map(|group| self.groups.get(usize::try_from(*group).ok()?));
        groups.flat_map(|group| &group.policies).copied()
    }
}

fn canonical(node: &Node) -> Vec<IpAddr> {
    node.addresses.iter().map(|address| address.to_canonical()).collect()
}

/// What policies select, and from which namespace.
type Selects<'a> = (Option<&'a Arc<str>>, &'a Selector);

/// Places of policies by what they select.
fn groups(policies: &Policies) -> BTreeMap<Selects<'_>, Vec<usize>> {
    let authorization = policies.authorization.iter().map(|p| {
        let within = (p.scope == Scope::Namespace).then_some(&p.namespace);
        (within, &p.selector)
    });
    let network = policies.network.iter().map(|p| (Some(&p.namespace), &p.pods));
    let unreadable = policies.unreadable.iter().map(|p| (p.within.as_ref(), &p.selector));
    let mut groups: BTreeMap<Selects<'_>, Vec<usize>> = BTreeMap::new();
    for (place, selects) in authorization.chain(network).chain(unreadable).enumerate() {
        groups.entry(selects).or_default().push(place);
    }
    groups
}

fn set(
    policies: &Policies,
    places: impl Iterator<Item = usize>,
    carried: &impl Fn(&str, &str) -> usize,
) -> Set {
    let mut set = Set::default();
    let number = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
    let mut places: Vec<usize> = places.collect();
    places.sort_unstable();
    for place in places {
        if let Some(policy) = policies.authorization.get(place) {
            let list = match (policy.action, policy.dry_run) {
                (Action::Deny, false) => &mut set.deny,
                (Action::Deny, true) => &mut set.dry_deny,
                (Action::Allow, false) => &mut set.allow,
                (Action::Allow, true) => &mut set.dry_allow,
            };
            list.add(number(place), policy.rules.iter().map(AuthorizationRule::tokens));
            continue;
        }
        let place = place - policies.authorization.len();
        if let Some(policy) = policies.network.get(place) {
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
        let place = place - policies.network.len();
        if let Some(policy) = policies.unreadable.get(place) {
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
