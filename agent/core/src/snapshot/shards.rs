//! A map in groups of pieces that copies share: a copy costs a pointer a group, a change copies the one
//! piece that it falls into and the pointers of its group. So the next snapshot of a hundred thousand
//! workloads costs what differs, and two snapshots are compared without a look at what they share.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::Turned;

/// Groups, and pieces in each. A hundred thousand entries make two hundred in a piece, which are copied in
/// microseconds; without groups, counting the references of all pieces would cost more than that.
const GROUPS: usize = 16;
const PIECES: usize = 32;

type Piece<K, V> = HashMap<K, V>;
type Group<K, V> = Vec<Arc<Piece<K, V>>>;

/// The map.
#[derive(Debug, Clone)]
pub(super) struct Shards<K, V> {
    groups: Vec<Arc<Group<K, V>>>,
}

impl<K, V> Default for Shards<K, V> {
    /// Empty; all pieces are one until something is put into them.
    fn default() -> Self {
        let piece = Arc::new(HashMap::new());
        let group = Arc::new(vec![piece; PIECES]);
        Self { groups: vec![group; GROUPS] }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    /// Group and piece of a key. Whoever chose keys for it would make one piece large and its copies dear, no
    /// look-up slow: inside a piece the map's own hash counts.
    fn place<Q: Hash + ?Sized>(key: &Q) -> (usize, usize) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let bits = usize::try_from(hasher.finish() >> 32).unwrap_or(0);
        (bits % GROUPS, bits / GROUPS % PIECES)
    }

    /// The piece of a key, to be changed in this copy alone.
    fn piece_mut<Q: Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut Piece<K, V>> {
        let (group, piece) = Self::place(key);
        let group = Arc::make_mut(self.groups.get_mut(group)?);
        group.get_mut(piece).map(Arc::make_mut)
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (group, piece) = Self::place(key);
        self.groups.get(group)?.get(piece)?.get(key)
    }

    /// The value of a key, to be changed in this copy alone.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.get(key)?;
        self.piece_mut(key)?.get_mut(key)
    }

    /// What was there before, if anything was.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.piece_mut(&key)?.insert(key, value)
    }

    /// What was there, if anything was.
    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get(key)?;
        self.piece_mut(key)?.remove(key)
    }

    /// All values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.groups.iter().flat_map(|group| group.iter()).flat_map(|piece| piece.values())
    }
}

impl<K: Hash + Eq + Clone, T: PartialEq> Shards<K, Arc<T>> {
    /// What differs from an earlier copy: what was there before, and what is there now.
    pub(super) fn changed<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Turned<'a, T>> {
        let pairs = || {
            let groups = before.groups.iter().zip(&self.groups).filter(|(old, new)| !Arc::ptr_eq(old, new));
            let pieces = groups.flat_map(|(old, new)| old.iter().zip(new.iter()));
            pieces.filter(|(old, new)| !Arc::ptr_eq(old, new))
        };
        let new = pairs().flat_map(|(_, piece)| piece.iter()).filter_map(|(key, value)| {
            let old = before.get(key);
            let same = old.is_some_and(|old| Arc::ptr_eq(old, value) || old == value);
            (!same).then_some((old, Some(value)))
        });
        let gone = pairs()
            .flat_map(|(piece, _)| piece.iter())
            .filter_map(|(key, value)| self.get(key).is_none().then_some((Some(value), None)));
        new.chain(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(keys: impl IntoIterator<Item = u32>) -> Shards<u32, Arc<u32>> {
        let mut map = Shards::default();
        for key in keys {
            map.insert(key, Arc::new(key));
        }
        map
    }

    fn told(before: &Shards<u32, Arc<u32>>, now: &Shards<u32, Arc<u32>>) -> Vec<(Option<u32>, Option<u32>)> {
        let mut told: Vec<_> =
            now.changed(before).map(|(old, new)| (old.map(|v| **v), new.map(|v| **v))).collect();
        told.sort_unstable();
        told
    }

    #[test]
    fn a_copy_keeps_what_it_had_and_tells_what_changed() {
        let before = map(0..2_000);
        let mut now = before.clone();
        now.insert(7, Arc::new(70));
        now.remove(&8);
        now.insert(5_000, Arc::new(5_000));
        // Written again with the same value: no change.
        now.insert(9, Arc::new(9));
        assert_eq!((before.get(&7), before.get(&8)), (Some(&Arc::new(7)), Some(&Arc::new(8))));
        assert_eq!(told(&before, &now), [(None, Some(5_000)), (Some(7), Some(70)), (Some(8), None)]);
        let pieces =
            |map: &Shards<u32, Arc<u32>>| map.groups.iter().flat_map(|g| g.to_vec()).collect::<Vec<_>>();
        let (old, new) = (pieces(&before), pieces(&now));
        let copied = old.iter().zip(&new).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        // One for each of the four keys that were written.
        assert!((1..=4).contains(&copied), "{copied}");
    }

    #[test]
    fn maps_that_share_nothing_are_compared_by_value() {
        assert_eq!(told(&map(0..100), &map(1..101)), [(None, Some(100)), (Some(0), None)]);
        assert_eq!(told(&map([]), &map([])), []);
    }
}
