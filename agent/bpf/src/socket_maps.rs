//! Typed access to maps on the data path. Each value has a descriptor of its own.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, SkStorage};
use lark_abi::{Counter, Flow, Tuple};

use crate::load::{MapError, open};

/// Reads what an accepted socket of the agent stands for.
#[derive(Debug)]
pub struct Accepted(SkStorage<MapData, Flow>);

impl Accepted {
    pub(crate) fn open(maps: &Path) -> Result<Self, MapError> {
        open(maps, "SK_ACCEPTED", Map::SkStorage).map(Self)
    }

    /// The flow of an accepted socket; `None` if the connect hook published none, which means that
    /// somebody dialled the listener directly.
    ///
    /// # Errors
    /// When the kernel refuses the look-up; treat the connection as one without a flow.
    pub fn flow(&self, socket: &impl AsRawFd) -> Result<Option<Flow>, MapError> {
        match self.0.get(socket, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(aya::maps::MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(None)
            }
            Err(source) => Err(MapError { map: "SK_ACCEPTED", source: Box::new(source) }),
        }
    }
}

/// Claims the source address of a delivery.
#[derive(Debug)]
pub struct Claims {
    claims: SkStorage<MapData, Flow>,
    deliveries: HashMap<MapData, Tuple, Flow>,
}

impl Claims {
    pub(crate) fn open(maps: &Path) -> Result<Self, MapError> {
        let claims = open(maps, "SK_CLAIM", Map::SkStorage)?;
        Ok(Self { claims, deliveries: open(maps, "DELIVERIES", Map::HashMap)? })
    }

    /// Says whose connection this socket delivers. To be called before it connects.
    ///
    /// # Errors
    /// When the kernel refuses; then the socket must not be connected.
    pub fn claim(&mut self, socket: &impl AsRawFd, source: SocketAddr) -> Result<(), MapError> {
        let flow = Flow { address: source.ip().into(), port: source.port(), ..Flow::default() };
        self.claims.insert(socket, flow, 0).map_err(MapError::of("SK_CLAIM"))
    }

    /// Whether the agent's hook published the claim when this socket connected. If not (its map was full, or
    /// somebody removed the hook), the application was not told who calls.
    ///
    /// # Errors
    /// When the kernel refuses the look-up; treat it as not published.
    pub fn is_published(&self, socket: &impl AsRawFd) -> Result<bool, MapError> {
        self.claims.get(socket, 0).map(|claim| claim.cookie != 0).map_err(MapError::of("SK_CLAIM"))
    }

    /// Whether the hook of the pod in that namespace has taken what was published of a connection: then its application
    /// is told who calls. Not before its end has the handshake behind it; and never if its listener was made outside of
    /// the pod's cgroup.
    ///
    /// # Errors
    /// When the kernel refuses the look-up.
    pub fn is_taken(
        &self,
        netns: u64,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<bool, MapError> {
        let tuple = Tuple {
            netns,
            source: source.ip().into(),
            destination: destination.ip().into(),
            source_port: source.port(),
            destination_port: destination.port(),
            padding: 0,
        };
        match self.deliveries.get(&tuple, 0) {
            Ok(_) => Ok(false),
            Err(aya::maps::MapError::KeyNotFound) => Ok(true),
            Err(error) => Err(MapError::of("DELIVERIES")(error)),
        }
    }
}

/// Writes the agent's sign of life.
pub struct Heartbeat(Array<MapData, u64>);

impl Heartbeat {
    pub(crate) fn open(maps: &Path) -> Result<Self, MapError> {
        open(maps, "HEARTBEAT", Map::Array).map(Self)
    }

    /// Says that the agent is alive now.
    ///
    /// # Errors
    /// When the map cannot be written: the hooks will take the agent for dead.
    pub fn beat(&mut self) -> Result<(), MapError> {
        let now = boottime_ns();
        self.0.set(0, now, 0).map_err(MapError::of("HEARTBEAT"))
    }

    /// Says that the agent is gone from now on, so that nobody waits for it.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn stop(&mut self) -> Result<(), MapError> {
        self.0.set(0, 0, 0).map_err(MapError::of("HEARTBEAT"))
    }

    /// The age of the last sign of life as the hooks see it, in nanoseconds; `None` if there is none.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn age_ns(&self) -> Result<Option<u64>, MapError> {
        let last = self.0.get(&0, 0).map_err(MapError::of("HEARTBEAT"))?;
        Ok((last != 0).then(|| boottime_ns().saturating_sub(last)))
    }
}

/// CLOCK_BOOTTIME in nanoseconds, as `bpf_ktime_get_boot_ns` gives it.
fn boottime_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local that outlives the call; the clock exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// Reads the kernel's counters.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    pub(crate) fn open(maps: &Path) -> Result<Self, MapError> {
        open(maps, "COUNTERS", Map::PerCpuArray).map(Self)
    }

    /// All counters, summed over the CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn read(&self) -> Result<Vec<(Counter, u64)>, MapError> {
        Counter::ALL
            .iter()
            .map(|counter| {
                let values = self.0.get(&counter.index(), 0).map_err(MapError::of("COUNTERS"))?;
                Ok((*counter, values.iter().sum()))
            })
            .collect()
    }
}

/// What the hooks count of each worker's connections.
pub struct Loads(Array<MapData, i64>);

impl Loads {
    /// Of this agent's own programs; to be called once, and before they run.
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        let map = take(ebpf, "LOAD")?;
        // By the kernel's number of the map, which no two have at once: what the agent before counted is its own.
        let id = match &map {
            Map::Array(data) => data.info().map_err(MapError::of("LOAD"))?.id(),
            _ => 0,
        };
        let mut epoch: Array<_, u16> =
            Array::try_from(take(ebpf, "EPOCH")?).map_err(MapError::of("EPOCH"))?;
        epoch.set(0, number(id), 0).map_err(MapError::of("EPOCH"))?;
        Array::try_from(map).map(Self).map_err(MapError::of("LOAD"))
    }

    /// How many connections pods have open with each of so many workers.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn read(&self, workers: u32) -> Result<Vec<i64>, MapError> {
        (0..workers).map(|worker| self.0.get(&worker, 0).map_err(MapError::of("LOAD"))).collect()
    }
}

/// A map that is not pinned.
fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, MapError> {
    ebpf.take_map(name).ok_or_else(|| MapError::of(name)(aya::maps::MapError::KeyNotFound))
}

/// Sixteen bits of an id that is counted up, and never zero.
fn number(id: u32) -> u16 {
    u16::try_from(id % u32::from(u16::MAX)).unwrap_or(0) + 1
}

/// Turns a kernel address and port into the standard form, IPv4 canonical.
pub fn socket_address(address: lark_abi::Address, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// Only here so that callers need not import aya's error kinds.
impl From<MapError> for io::Error {
    fn from(error: MapError) -> Self {
        Self::other(error)
    }
}
