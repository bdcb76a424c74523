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
        // What an earlier agent wrote is adopted, so that its stale entries are removed by the diff.
        let written = map.iter().filter_map(Result::ok).map(|(k, v)| (k, v.action)).collect();
        Ok(Self { map, written, max })
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
        let wanted: HashMap<DestinationKey, u32> = wanted.into_iter().map(|(k, v)| (k, v.action)).collect();
        let mut synced = Synced::default();
        let gone: Vec<_> = self.written.keys().filter(|k| !wanted.contains_key(*k)).copied().collect();
        for (key, action) in wanted {
            if self.written.get(&key) == Some(&action) {
                continue;
            }
            match self.map.insert(key, DestinationValue { action }, 0) {
                Ok(()) => {
                    self.written.insert(key, action);
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
        for key in gone {
            // Gone already is as good as removed.
            let _ = self.map.remove(&key);
            self.written.remove(&key);
            synced.removed += 1;
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
