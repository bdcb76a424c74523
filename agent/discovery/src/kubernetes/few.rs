use std::ops::Deref;

/// A set that has one member in nearly all cases, of which there are very many: sorted, and without room for more
/// than a few that are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Few<T>(Vec<T>);

/// Up to here there is room for what is there and nothing else.
const EXACT: usize = 4;

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord> Few<T> {
    pub(super) fn insert(&mut self, item: T) {
        if let Err(place) = self.0.binary_search(&item) {
            if self.0.len() < EXACT {
                self.0.reserve_exact(1);
            }
            self.0.insert(place, item);
        }
    }

    pub(super) fn remove(&mut self, item: &T) {
        if let Ok(place) = self.0.binary_search(item) {
            self.0.remove(place);
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_has_what_a_set_has(steps in prop::collection::vec((0_u8..12, any::<bool>()), 0..60)) {
            let (mut few, mut set) = (Few::default(), BTreeSet::new());
            for (item, is_there) in steps {
                if is_there {
                    few.insert(item);
                    set.insert(item);
                } else {
                    few.remove(&item);
                    set.remove(&item);
                }
                prop_assert!(few.iter().eq(&set));
            }
        }
    }
}
