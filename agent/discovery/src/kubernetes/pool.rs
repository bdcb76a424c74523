//! Values that many objects have alike, each held once: the pods of a Deployment have its labels, and those of a node
//! its name. In a cluster of a hundred thousand pods that is most of what is held of them.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use lark_core::snapshot::Owner;

/// Fewer values than this are not swept.
const FEW: usize = 1024;

/// Values of one type.
#[derive(Debug)]
struct Alike<T: ?Sized> {
    known: HashSet<Arc<T>>,
    /// How many there may be before those go that nobody holds any more.
    sweep_at: usize,
}

impl<T: ?Sized> Default for Alike<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), sweep_at: FEW }
    }
}

impl<T: Hash + Eq + ?Sized> Alike<T> {
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

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    texts: Alike<str>,
    labels: Alike<BTreeMap<String, String>>,
    owners: Alike<Owner>,
}

impl Pool {
    /// Makes a text the one of its value.
    pub(super) fn text(&mut self, text: &mut Arc<str>) {
        self.texts.share(text);
    }

    /// Makes texts those of their values.
    pub(super) fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a mut Arc<str>>) {
        texts.into_iter().for_each(|text| self.text(text));
    }

    /// Makes labels those of their value.
    pub(super) fn labels(&mut self, labels: &mut Arc<BTreeMap<String, String>>) {
        self.labels.share(labels);
    }

    /// Makes an owner the one of its value.
    pub(super) fn owner(&mut self, owner: &mut Arc<Owner>) {
        self.owners.share(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_those_that_nobody_holds_go() {
        let mut pool = Pool::default();
        let mut held: Vec<Arc<str>> = (0..4 * FEW).map(|n| format!("value-{}", n % FEW).into()).collect();
        pool.texts(&mut held);
        assert!(Arc::ptr_eq(&held[0], &held[FEW]) && !Arc::ptr_eq(&held[0], &held[1]));
        assert_eq!(pool.texts.known.len(), FEW);
        held.truncate(1);
        for n in 0..10 * FEW {
            pool.text(&mut format!("passing-{n}").into());
        }
        assert!(pool.texts.known.len() <= 2 * FEW, "{}", pool.texts.known.len());
        let mut again: Arc<str> = "value-0".into();
        pool.text(&mut again);
        assert!(Arc::ptr_eq(&again, &held[0]));
    }
}
