//! The newest known state of all objects of one kind, fed by one watch.

use std::collections::BTreeMap;
use std::sync::Arc;

use lark_core::snapshot::Alike;

use super::fact::{AuthorizationPolicy, Key, Namespace, NetworkPolicy, Node, Pod, Service, Slice};
use super::world::Step;

/// What a watch tells, in the order in which it tells it.
#[derive(Debug, Clone)]
pub(crate) enum Event<F> {
    /// All objects are about to be listed anew: at the start, or because the watch had lost its place.
    Listing,
    /// One of these.
    Listed(F),
    /// That was all: what was not listed is gone.
    ListedAll,
    /// An object is there, or is different.
    Changed(F),
    /// An object is gone.
    Gone(F),
}

impl<F> Event<F> {
    pub(super) fn step(&self) -> Step {
        match self {
            Self::Listing => Step::Listing,
            Self::ListedAll => Step::ListedAll,
            Self::Listed(_) | Self::Changed(_) | Self::Gone(_) => Step::Object,
        }
    }
}

/// What a kind must tell of its objects.
pub(crate) trait Keyed: Clone + PartialEq {
    /// Namespace and name, which no two objects have at one time.
    fn key(&self) -> Key;
    /// Whether this is the same object, not a later one of the same name.
    fn is_same(&self, _other: &Self) -> bool {
        true
    }
    /// Takes what others have alike from them.
    fn share(&mut self, _alike: &mut Alike) {}
}

impl Keyed for Namespace {
    fn key(&self) -> Key {
        (Arc::default(), self.name.clone())
    }
}

impl Keyed for Node {
    fn key(&self) -> Key {
        (Arc::default(), self.name.clone())
    }

    fn share(&mut self, alike: &mut Alike) {
        alike.text(&mut self.name);
    }
}

impl Keyed for Pod {
    fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    fn is_same(&self, other: &Self) -> bool {
        self.uid == other.uid
    }

    fn share(&mut self, alike: &mut Alike) {
        alike.text(&mut self.namespace);
        alike.texts(self.account.iter_mut().chain(&mut self.node));
        alike.labels(&mut self.labels);
        alike.texts(&mut self.owner);
    }
}

impl Keyed for NetworkPolicy {
    fn key(&self) -> Key {
        (self.0.namespace.clone(), self.0.name.clone())
    }
}

impl Keyed for AuthorizationPolicy {
    fn key(&self) -> Key {
        (self.0.namespace.clone(), self.0.name.clone())
    }
}

impl Keyed for Service {
    fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    fn share(&mut self, alike: &mut Alike) {
        alike.text(&mut self.namespace);
    }
}

impl Keyed for Slice {
    fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    fn share(&mut self, alike: &mut Alike) {
        alike.texts([&mut self.namespace, &mut self.service]);
        for endpoint in &mut self.endpoints {
            alike.texts(endpoint.node.iter_mut().chain(&mut endpoint.zone));
            alike.texts(endpoint.zones.iter_mut().chain(&mut endpoint.nodes));
        }
    }
}

/// An object before and after; one of both is there.
pub(crate) type Difference<F> = (Option<F>, Option<F>);

/// The objects of one kind.
#[derive(Debug)]
pub(crate) struct Store<F> {
    objects: BTreeMap<Key, F>,
    /// What a listing has told so far. Until it is complete, what was known before holds.
    listing: BTreeMap<Key, F>,
    listed: bool,
}

impl<F> Default for Store<F> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listing: BTreeMap::new(), listed: false }
    }
}

impl<F: Keyed> Store<F> {
    /// Takes in what the watch tells; returns what is different by that.
    pub(crate) fn take(&mut self, event: Event<F>, alike: &mut Alike) -> Vec<Difference<F>> {
        match event {
            Event::Listing => {
                self.listing.clear();
                Vec::new()
            }
            Event::Listed(mut object) => {
                object.share(alike);
                self.listing.insert(object.key(), object);
                Vec::new()
            }
            Event::ListedAll => self.replace(),
            Event::Changed(mut object) => {
                object.share(alike);
                let before = self.objects.insert(object.key(), object.clone());
                if before.as_ref() == Some(&object) { Vec::new() } else { vec![(before, Some(object))] }
            }
            Event::Gone(object) => {
                let key = object.key();
                // A later object of the same name stays.
                match self.objects.get(&key) {
                    Some(known) if known.is_same(&object) => vec![(self.objects.remove(&key), None)],
                    _ => Vec::new(),
                }
            }
        }
    }

    fn replace(&mut self) -> Vec<Difference<F>> {
        self.listed = true;
        let mut before = std::mem::replace(&mut self.objects, std::mem::take(&mut self.listing));
        let mut different: Vec<Difference<F>> = Vec::new();
        for (key, object) in &self.objects {
            let was = before.remove(key);
            if was.as_ref() != Some(object) {
                different.push((was, Some(object.clone())));
            }
        }
        different.extend(before.into_values().map(|was| (Some(was), None)));
        different
    }

    /// Whether all objects were listed once.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed
    }

    /// Whether there is an object, or a list that has begun told one.
    pub(crate) fn heard_any(&self) -> bool {
        !self.objects.is_empty() || !self.listing.is_empty()
    }

    /// The object of that key.
    pub(crate) fn get(&self, key: &Key) -> Option<&F> {
        self.objects.get(key)
    }

    /// All objects.
    pub(crate) fn all(&self) -> impl Iterator<Item = &F> {
        self.objects.values()
    }

    /// All objects of a namespace.
    pub(crate) fn of_namespace(&self, namespace: &Arc<str>) -> impl Iterator<Item = &F> {
        let from = (namespace.clone(), Arc::default());
        let namespace = namespace.clone();
        self.objects.range(from..).take_while(move |(key, _)| key.0 == namespace).map(|(_, object)| object)
    }
}
