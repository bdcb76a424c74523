//! A map in groups of pieces that copies share: a copy costs a pointer a group, a change copies the one
//! piece that it falls into and the pointers of its group. So the next snapshot of a hundred thousand
//! workloads costs what differs, and two snapshots are compared without a look at what they share.
//!
//! What is held knows its key, which is not held beside it: an index of workloads by uid is a pointer for
//! each. The one hash of a key says in which piece an entry is, and where in it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use hashbrown::HashTable;

use super::Turned;

/// Groups, and pieces in each. A hundred thousand entries make two hundred in a piece, which are copied in
/// microseconds; without groups, counting the references of all pieces would cost more than that.
const GROUPS: usize = 16;
const PIECES: usize = 32;

/// What a map holds.
pub(crate) trait Entry: Clone {
    /// What it is looked up by.
    type Key<'a>: Hash + Copy;

    /// Its key.
    fn key(&self) -> Self::Key<'_>;

    /// Whether this is its key.
    fn is(&self, key: Self::Key<'_>) -> bool;
}

type Piece<E> = HashTable<E>;
type Group<E> = [Arc<Piece<E>>; PIECES];

/// What the hasher mixes pieces of long keys with: whoever knew it could choose names of one hash.
static MIXED: LazyLock<SharedSeed> = LazyLock::new(|| SharedSeed::from_u64(chance()));

/// The chance that std keys its maps by, another one each time; the hasher's own is made of addresses.
fn chance() -> u64 {
    HashMap::<(), ()>::new().hasher().hash_one(())
}

/// Hashes keys, which are names that are chosen by whoever makes a pod; the same in all copies of a map. The hasher's
/// faster kind lets keys in a row, as addresses are, fall into some pieces and leave others empty, for one seed in sixty.
#[derive(Debug, Clone)]
struct Keyed {
    mixed: &'static SharedSeed,
    seed: u64,
}

impl Default for Keyed {
    fn default() -> Self {
        Self { mixed: &MIXED, seed: chance() }
    }
}

impl Keyed {
    fn of(&self, key: impl Hash) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, self.mixed);
        key.hash(&mut hasher);
        hasher.finish()
    }
}

/// The map.
#[derive(Debug, Clone)]
pub(crate) struct Shards<E> {
    groups: [Arc<Group<E>>; GROUPS],
    hasher: Keyed,
}

impl<E> Default for Shards<E> {
    /// Empty; all pieces are one until something is put into them.
    fn default() -> Self {
        let piece = Arc::new(HashTable::new());
        let group: Arc<Group<E>> = Arc::new(std::array::from_fn(|_| piece.clone()));
        Self { groups: std::array::from_fn(|_| group.clone()), hasher: Keyed::default() }
    }
}

/// Group and piece of a hash. Inside a piece the lowest and the highest bits count, here those between.
fn place(hash: u64) -> (usize, usize) {
    let bits = usize::try_from(hash >> 32 & 0xffff).unwrap_or(0);
    (bits % GROUPS, bits / GROUPS % PIECES)
}

impl<E: Entry> Shards<E> {
    fn piece(&self, hash: u64) -> Option<&Piece<E>> {
        let (group, piece) = place(hash);
        self.groups.get(group)?.get(piece).map(|piece| &**piece)
    }

    /// The piece of a hash, to be changed in this copy alone.
    fn piece_mut(&mut self, hash: u64) -> Option<&mut Piece<E>> {
        let (group, piece) = place(hash);
        Arc::make_mut(self.groups.get_mut(group)?).get_mut(piece).map(Arc::make_mut)
    }

    /// The entry of a key.
    pub(crate) fn get(&self, key: E::Key<'_>) -> Option<&E> {
        let hash = self.hasher.of(key);
        self.piece(hash)?.find(hash, |entry| entry.is(key))
    }

    /// The entry of a key, to be changed in this copy alone; not its key.
    pub(crate) fn get_mut(&mut self, key: E::Key<'_>) -> Option<&mut E> {
        self.get(key)?;
        let hash = self.hasher.of(key);
        self.piece_mut(hash)?.find_mut(hash, |entry| entry.is(key))
    }

    /// All entries of a key, where [`Self::add`] has put several.
    pub(crate) fn all(&self, key: E::Key<'_>) -> impl Iterator<Item = &E> {
        let hash = self.hasher.of(key);
        self.piece(hash).into_iter().flat_map(move |piece| piece.iter_hash(hash)).filter(move |e| e.is(key))
    }

    /// Puts an entry in the place of the one of its key, which it returns, if there was any.
    pub(crate) fn insert(&mut self, entry: E) -> Option<E> {
        let hash = self.hasher.of(entry.key());
        match self.piece_mut(hash)?.find_mut(hash, |known| known.is(entry.key())) {
            Some(known) => Some(std::mem::replace(known, entry)),
            None => {
                self.add(entry);
                None
            }
        }
    }

    /// Puts an entry beside those of its key.
    pub(crate) fn add(&mut self, entry: E) {
        let hasher = self.hasher.clone();
        let hash = hasher.of(entry.key());
        if let Some(piece) = self.piece_mut(hash) {
            piece.insert_unique(hash, entry, |entry| hasher.of(entry.key()));
        }
    }

    /// Takes out the entry of a key, if there is one.
    pub(crate) fn remove(&mut self, key: E::Key<'_>) -> Option<E> {
        self.remove_one(key, |_| true)
    }

    /// Takes out the first entry of a key of which that holds.
    pub(crate) fn remove_one(&mut self, key: E::Key<'_>, holds: impl Fn(&E) -> bool) -> Option<E> {
        let hash = self.hasher.of(key);
        let is_it = |entry: &E| entry.is(key) && holds(entry);
        self.piece(hash)?.find(hash, is_it)?;
        self.piece_mut(hash)?.find_entry(hash, is_it).ok().map(|found| found.remove().0)
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &E> {
        self.groups.iter().flat_map(|group| group.iter()).flat_map(|piece| piece.iter())
    }
}

impl<T: PartialEq> Shards<Arc<T>>
where
    Arc<T>: Entry,
{
    /// What differs from an earlier copy: what was there before, and what is there now.
    pub(crate) fn changed<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Turned<'a, T>> {
        let pairs = || {
            let groups = before.groups.iter().zip(&self.groups).filter(|(old, new)| !Arc::ptr_eq(old, new));
            let pieces = groups.flat_map(|(old, new)| old.iter().zip(new.iter()));
            pieces.filter(|(old, new)| !Arc::ptr_eq(old, new))
        };
        let new = pairs().flat_map(|(_, piece)| piece.iter()).filter_map(|value| {
            let old = before.get(value.key());
            let same = old.is_some_and(|old| Arc::ptr_eq(old, value) || old == value);
            (!same).then_some((old, Some(value)))
        });
        let gone = pairs()
            .flat_map(|(piece, _)| piece.iter())
            .filter_map(|value| self.get(value.key()).is_none().then_some((Some(value), None)));
        new.chain(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    impl Entry for Arc<(u32, u32)> {
        type Key<'a> = u32;

        fn key(&self) -> u32 {
            self.0
        }

        fn is(&self, key: u32) -> bool {
            self.0 == key
        }
    }

    type Map = Shards<Arc<(u32, u32)>>;

    fn map(keys: impl IntoIterator<Item = u32>) -> Map {
        let mut map = Map::default();
        for key in keys {
            assert_eq!(map.insert(Arc::new((key, key))), None);
        }
        map
    }

    fn value(map: &Map, key: u32) -> Option<u32> {
        map.get(key).map(|entry| entry.1)
    }

    fn told(before: &Map, now: &Map) -> Vec<(Option<u32>, Option<u32>)> {
        let mut told: Vec<_> =
            now.changed(before).map(|(old, new)| (old.map(|v| v.1), new.map(|v| v.1))).collect();
        told.sort_unstable();
        told
    }

    type Pieces = Vec<Arc<Piece<Arc<(u32, u32)>>>>;

    fn pieces(map: &Map) -> Pieces {
        map.groups.iter().flat_map(|group| group.to_vec()).collect()
    }

    #[test]
    fn a_copy_keeps_what_it_had_and_tells_what_changed() {
        let before = map(0..2_000);
        let mut now = before.clone();
        assert_eq!(now.insert(Arc::new((7, 70))), Some(Arc::new((7, 7))));
        now.remove(8);
        now.insert(Arc::new((5_000, 5_000)));
        // Written again with the same value: no change.
        now.insert(Arc::new((9, 9)));
        assert_eq!((value(&before, 7), value(&before, 8)), (Some(7), Some(8)));
        assert_eq!((value(&now, 7), value(&now, 8)), (Some(70), None));
        assert_eq!(told(&before, &now), [(None, Some(5_000)), (Some(7), Some(70)), (Some(8), None)]);
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

    #[test]
    fn entries_of_one_key_stand_beside_each_other() {
        let mut map = map(0..100);
        map.add(Arc::new((7, 70)));
        map.add(Arc::new((7, 71)));
        let all = |map: &Map| {
            let mut all: Vec<u32> = map.all(7).map(|entry| entry.1).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(all(&map), [7, 70, 71]);
        assert_eq!(map.remove_one(7, |entry| entry.1 == 70), Some(Arc::new((7, 70))));
        assert_eq!(map.remove_one(7, |entry| entry.1 == 70), None);
        assert_eq!(all(&map), [7, 71]);
        assert_eq!(map.iter().count(), 101);
    }

    /// All of them have one hash, as names would that somebody had found out how to choose.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Colliding(u32);

    impl Hash for Colliding {
        fn hash<H: Hasher>(&self, _state: &mut H) {}
    }

    impl Entry for Arc<Colliding> {
        type Key<'a> = Colliding;

        fn key(&self) -> Colliding {
            **self
        }

        fn is(&self, key: Colliding) -> bool {
            **self == key
        }
    }

    #[test]
    fn keys_whose_hashes_collide_are_told_apart() {
        let mut map = Shards::default();
        let keys = (0..300).map(Colliding);
        keys.clone().for_each(|key| assert_eq!(map.insert(Arc::new(key)), None));
        assert!(keys.clone().all(|key| map.get(key).map(|found| **found) == Some(key)));
        assert_eq!(map.get(Colliding(300)), None);
        keys.clone().step_by(2).for_each(|key| assert_eq!(map.remove(key), Some(Arc::new(key))));
        let mut keys = keys;
        assert!(keys.all(|key| map.get(key).is_some() == (key.0 % 2 == 1)));
        assert_eq!(map.iter().count(), 150);
    }

    #[test]
    fn names_cannot_be_chosen_by_what_the_hasher_is_made_of() {
        // What foldhash mixes short keys with where nobody gives it a seed: its product with anything is nothing.
        let known = 0x3f84_d5b5_b547_0917_u64.to_ne_bytes();
        let keyed = Keyed::default();
        let names = (0..1_000_u64).map(|name| [name.to_ne_bytes(), known].concat());
        let hashes: HashSet<u64> = names.map(|name| keyed.of(name.as_slice())).collect();
        assert_eq!(hashes.len(), 1_000);
    }

    #[test]
    fn keys_in_a_row_fill_all_pieces_alike() {
        // Each has a key of its own.
        for _ in 0..20 {
            let sizes: Vec<usize> = pieces(&map(0..51_200)).iter().map(|piece| piece.len()).collect();
            // A hundred in each, give or take what chance does: six times the root of that never happens.
            assert!(sizes.iter().all(|size| (40..=180).contains(size)), "{sizes:?}");
        }
    }
}
