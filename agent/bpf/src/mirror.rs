//! A map that is made to hold exactly what user space wants of it.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;

use aya::Pod;
use aya::maps::{HashMap as BpfHashMap, Map, MapData};

use crate::load::{MapError, max_entries, open};

/// A map and what this agent has written into it.
#[derive(Debug)]
pub(crate) struct Mirror<K, V> {
    name: &'static str,
    map: BpfHashMap<MapData, K, V>,
    written: HashMap<K, V>,
    max: u32,
}

/// What a change of a map did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Synced {
    /// Entries written.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
    /// Entries that did not fit, which is an error to show.
    pub left_out: usize,
}

impl<K: Pod + Hash + Eq, V: Pod + PartialEq> Mirror<K, V> {
    pub(crate) fn open(maps: &Path, name: &'static str) -> Result<Self, MapError> {
        let map: BpfHashMap<_, K, V> = open(maps, name, Map::HashMap)?;
        Ok(Self { name, map, written: HashMap::new(), max: max_entries(maps, name)? })
    }

    /// Makes the map hold exactly `wanted`, written in its order: additions first, so that no entry is missing while it
    /// changes, unless there is no room for both. Of more than fits the first ones are held.
    ///
    /// # Errors
    /// When the kernel refuses for another cause than a full map.
    pub(crate) fn sync(&mut self, wanted: impl IntoIterator<Item = (K, V)>) -> Result<Synced, MapError> {
        self.look();
        self.hold(wanted)
    }

    /// The same, when what is there was looked at.
    fn hold(&mut self, wanted: impl IntoIterator<Item = (K, V)>) -> Result<Synced, MapError> {
        let max = usize::try_from(self.max).unwrap_or(usize::MAX);
        let (mut held, mut order, mut left_out) = (HashMap::<K, V>::new(), Vec::new(), 0);
        for (key, value) in wanted {
            if held.contains_key(&key) {
                held.insert(key, value);
            } else if held.len() < max {
                held.insert(key, value);
                order.push(key);
            } else {
                left_out += 1;
            }
        }
        let gone: Vec<_> = self.written.keys().filter(|k| !held.contains_key(*k)).copied().collect();
        let all = held.len() + gone.len();
        let ordered = order.into_iter().filter_map(|key| Some((key, *held.get(&key)?)));
        let mut synced = if all <= max { self.change(ordered, gone)? } else { self.replace(ordered, gone)? };
        synced.left_out += left_out;
        Ok(synced)
    }

    /// The same, but what is there and becomes something that is `closing` is written before anything else.
    ///
    /// # Errors
    /// When the kernel refuses for another cause than a full map.
    pub(crate) fn sync_closing(
        &mut self,
        wanted: &[(K, V)],
        closing: impl Fn(&V) -> bool,
    ) -> Result<Synced, MapError> {
        self.look();
        let closes = |(key, value): &&(K, V)| closing(value) && self.written.contains_key(key);
        let first: Vec<(K, V)> = wanted.iter().filter(closes).copied().collect();
        let first = self.change(first, [])?;
        let rest = self.hold(wanted.iter().copied())?;
        Ok(Synced { written: first.written + rest.written, ..rest })
    }

    /// Reads what is there. What another agent wrote is adopted, so that its stale entries are removed by the diff.
    fn look(&mut self) {
        self.written = self.map.iter().filter_map(Result::ok).collect();
    }

    /// Removes some entries and then writes others.
    fn replace(
        &mut self,
        written: impl IntoIterator<Item = (K, V)>,
        removed: Vec<K>,
    ) -> Result<Synced, MapError> {
        let before = self.change([], removed)?;
        let after = self.change(written, [])?;
        Ok(Synced { removed: before.removed, ..after })
    }

    /// Writes some entries and then removes others; the rest stays as it is.
    ///
    /// # Errors
    /// When the kernel refuses for another cause than a full map.
    pub(crate) fn change(
        &mut self,
        written: impl IntoIterator<Item = (K, V)>,
        removed: impl IntoIterator<Item = K>,
    ) -> Result<Synced, MapError> {
        let mut synced = Synced::default();
        for (key, value) in written {
            if self.written.get(&key) == Some(&value) {
                continue;
            }
            match self.map.insert(key, value, 0) {
                Ok(()) => {
                    self.written.insert(key, value);
                    synced.written += 1;
                }
                Err(aya::maps::MapError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(libc::E2BIG) =>
                {
                    synced.left_out += 1;
                }
                Err(source) => return Err(MapError { map: self.name, source: Box::new(source) }),
            }
        }
        for key in removed {
            // Gone already is as good as removed.
            let _ = self.map.remove(&key);
            if self.written.remove(&key).is_some() {
                synced.removed += 1;
            }
        }
        Ok(synced)
    }

    /// The keys of what was written, of some of it.
    pub(crate) fn written(&self, wanted: impl Fn(&K, &V) -> bool) -> impl Iterator<Item = K> {
        self.written.iter().filter(move |(key, value)| wanted(key, value)).map(|(key, _)| *key)
    }

    /// Entries in the map.
    pub(crate) fn len(&self) -> usize {
        self.written.len()
    }

    /// Entries that fit.
    pub(crate) fn max(&self) -> u32 {
        self.max
    }
}
