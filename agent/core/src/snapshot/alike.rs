//! Values that many facts have alike, each held once: the pods of a Deployment have its labels, and those of a node
//! its name. In a cluster of a hundred thousand pods that is most of what is held of them.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use super::Workload;
use crate::identity::SpiffeId;

/// Fewer values than this are not swept.
const FEW: usize = 1024;

/// Values of one type.
#[derive(Debug)]
struct Values<T: ?Sized> {
    known: HashSet<Arc<T>>,
    /// How many there may be before those go that nobody holds any more.
    sweep_at: usize,
}

impl<T: ?Sized> Default for Values<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: FEW }
    }
}

impl<T: Hash + Eq + ?Sized> Values<T> {
    /// Makes it the one of its value.
    fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.known.get(&*value) {
            *value = known.clone();
            return;
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            // Twice what is in use: a sweep costs each value that came since the last one a constant.
            self.sweep_at = FEW.max(self.known.len() * 2);
        }
        self.known.insert(value.clone());
    }
}

/// The values that discovery shares between what it tells.
#[derive(Debug, Default)]
pub struct Alike {
    texts: Values<str>,
    labels: Values<BTreeMap<String, String>>,
}

impl Alike {
    /// Makes a text the one of its value.
    pub fn text(&mut self, text: &mut Arc<str>) {
        self.texts.share(text);
    }

    /// Makes texts those of their values.
    pub fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a mut Arc<str>>) {
        texts.into_iter().for_each(|text| self.text(text));
    }

    /// Makes labels those of their value.
    pub fn labels(&mut self, labels: &mut Arc<BTreeMap<String, String>>) {
        self.labels.share(labels);
    }

    /// Makes the text of an identity the one of its value.
    pub fn identity(&mut self, identity: &mut SpiffeId) {
        self.text(identity.shared_text());
    }

    /// Makes everything of a workload that others may have alike those of their values.
    pub fn workload(&mut self, workload: &mut Workload) {
        self.texts([&mut workload.namespace, &mut workload.account, &mut workload.node]);
        self.identity(&mut workload.identity);
        self.labels(&mut workload.labels);
        self.texts(&mut workload.owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Wanted;
    use crate::snapshot::fixture::workload;

    #[test]
    fn equal_values_are_one_and_those_that_nobody_holds_go() {
        let mut alike = Alike::default();
        let mut held: Vec<Arc<str>> = (0..4 * FEW).map(|n| format!("value-{}", n % FEW).into()).collect();
        alike.texts(&mut held);
        assert!(Arc::ptr_eq(&held[0], &held[FEW]) && !Arc::ptr_eq(&held[0], &held[1]));
        assert_eq!(alike.texts.known.len(), FEW);
        held.truncate(1);
        for n in 0..10 * FEW {
            alike.text(&mut format!("passing-{n}").into());
        }
        assert!(alike.texts.known.len() <= 2 * FEW, "{}", alike.texts.known.len());
        let mut again: Arc<str> = "value-0".into();
        alike.text(&mut again);
        assert!(Arc::ptr_eq(&again, &held[0]));
    }

    #[test]
    fn workloads_share_what_they_have_alike_and_stay_what_they_are() {
        let mut alike = Alike::default();
        let fact = workload("web", "10.0.1.1", "one", Wanted::ByNamespace);
        let [mut first, mut second] = [fact.clone(), workload("web", "10.0.1.1", "one", Wanted::ByNamespace)];
        alike.workload(&mut first);
        alike.workload(&mut second);
        assert_eq!([&first, &second], [&fact; 2]);
        assert!(std::ptr::eq(first.identity.as_str(), second.identity.as_str()));
        assert!(Arc::ptr_eq(&first.node, &second.node) && Arc::ptr_eq(&first.labels, &second.labels));
        // Their own.
        assert!(!Arc::ptr_eq(&first.uid, &second.uid));
    }
}
