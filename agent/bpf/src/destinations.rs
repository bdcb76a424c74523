//! Mesh destinations: the map that decides which connects are taken.

use std::collections::HashMap;
use std::path::Path;

use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use lark_abi::{DestinationKey, DestinationValue};

use crate::load::{MapError, open};

/// The map and what this agent has written into it.
#[derive(Debug)]
pub struct Destinations {
    map: BpfHashMap<MapData, DestinationKey, DestinationValue>,
    written: HashMap<DestinationKey, u32>,
    max: u32,
}

/// What a change of the map did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Synced {
    /// Entries written.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
    /// Entries that did not fit: connects to them stay plaintext, so this is an error to show.
    pub left_out: usize,
}

impl Destinations {
    pub(crate) fn open(maps: &Path, max: u32) -> Result<Self, MapError> {
        let map: BpfHashMap<_, DestinationKey, DestinationValue> = open(maps, "DESTINATIONS", Map::HashMap)?;
        Ok(Self { map, written: HashMap::new(), max })
    }

    /// Makes the map hold exactly `wanted`: additions first, so that no destination is missing
    /// while it changes.
    ///
    /// # Errors
    /// When the kernel refuses for another cause than a full map.
    pub fn sync(
        &mut self,
        wanted: impl IntoIterator<Item = (DestinationKey, DestinationValue)>,
    ) -> Result<Synced, MapError> {
        // What another agent wrote is adopted, so that its stale entries are removed by the diff.
        self.written = self.map.iter().filter_map(Result::ok).map(|(k, v)| (k, v.action)).collect();
        let wanted: HashMap<DestinationKey, u32> = wanted.into_iter().map(|(k, v)| (k, v.action)).collect();
        let gone: Vec<_> = self.written.keys().filter(|k| !wanted.contains_key(*k)).copied().collect();
        self.change(wanted.into_iter().map(|(key, action)| (key, DestinationValue { action })), gone)
    }

    /// Writes some entries and then removes others; the rest stays as it is.
    ///
    /// # Errors
    /// When the kernel refuses for another cause than a full map.
    pub fn change(
        &mut self,
        written: impl IntoIterator<Item = (DestinationKey, DestinationValue)>,
        removed: impl IntoIterator<Item = DestinationKey>,
    ) -> Result<Synced, MapError> {
        let mut synced = Synced::default();
        for (key, value) in written {
            if self.written.get(&key) == Some(&value.action) {
                continue;
            }
            match self.map.insert(key, value, 0) {
                Ok(()) => {
                    self.written.insert(key, value.action);
                    synced.written += 1;
                }
                Err(aya::maps::MapError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(libc::E2BIG) =>
                {
                    synced.left_out += 1;
                }
                Err(source) => return Err(MapError { map: "DESTINATIONS", source: Box::new(source) }),
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

    /// Entries in the map.
    pub fn len(&self) -> usize {
        self.written.len()
    }

    /// Whether the map is empty.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Entries that fit.
    pub fn max(&self) -> u32 {
        self.max
    }
}
