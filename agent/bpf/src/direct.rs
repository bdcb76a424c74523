//! Verdicts about connections between pods of this node.

use std::net::SocketAddr;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use lark_abi::{DirectKey, DirectValue};

use crate::load::{self, MapError};
use crate::mirror::{Mirror, Synced};

/// The verdicts, and their generation.
pub struct Directs {
    verdicts: Mirror<DirectKey, DirectValue>,
    generation: Array<MapData, u32>,
    current: u32,
}

impl std::fmt::Debug for Directs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directs").field("generation", &self.current).finish_non_exhaustive()
    }
}

impl Directs {
    pub(crate) fn open(maps: &Path) -> Result<Self, MapError> {
        let generation: Array<MapData, u32> = load::open(maps, "GENERATION", Map::Array)?;
        let current = generation.get(&0, 0).map_err(MapError::of("GENERATION"))?;
        Ok(Self { verdicts: Mirror::open(maps, "DIRECT")?, generation, current })
    }

    /// No verdict counts from now on, and none is left, those of another agent neither.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn clear(&mut self) -> Result<(), MapError> {
        self.write(0)?;
        self.verdicts.sync([]).map(drop)
    }

    /// No verdict that was written before counts from now on; returns the generation of those to come.
    ///
    /// # Errors
    /// When the map cannot be written; then verdicts of before still count.
    pub fn raise(&mut self) -> Result<u32, MapError> {
        self.current = self.current.wrapping_add(1).max(1);
        self.write(self.current)?;
        Ok(self.current)
    }

    fn write(&mut self, generation: u32) -> Result<(), MapError> {
        self.generation.set(0, generation, 0).map_err(MapError::of("GENERATION"))
    }

    /// Writes verdicts: those for single ports first, for they are exceptions from those for all others. If one
    /// of them does not fit, none for all others is written, and the agent is asked.
    ///
    /// # Errors
    /// When the map cannot be written; a full one is no error but said in the result.
    pub fn write_all(&mut self, written: &[(DirectKey, DirectValue)]) -> Result<Synced, MapError> {
        let of = |single: bool| written.iter().copied().filter(move |(key, _)| (key.port != 0) == single);
        let mut synced = self.verdicts.change(of(true), [])?;
        if synced.left_out > 0 {
            synced.left_out += of(false).count();
            return Ok(synced);
        }
        let others = self.verdicts.change(of(false), [])?;
        Ok(Synced { written: synced.written + others.written, ..others })
    }

    /// Removes verdicts: those for single ports last.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn remove(&mut self, gone: impl Fn(&DirectKey, &DirectValue) -> bool) -> Result<(), MapError> {
        let mut gone: Vec<DirectKey> = self.verdicts.written(gone).collect();
        gone.sort_by_key(|key| key.port);
        self.verdicts.change([], gone).map(drop)
    }

    /// Verdicts in the map, and how many fit.
    pub fn usage(&self) -> (usize, u32) {
        (self.verdicts.len(), self.verdicts.max())
    }
}

/// A direct connection that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpenDirect {
    /// Cookie of the socket that dialled.
    pub cookie: u64,
    /// Its end.
    pub source: SocketAddr,
    /// The other end.
    pub destination: SocketAddr,
    /// The namespace that accepted.
    pub acceptor: u32,
}
