//! Loading the object and opening its maps.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{Array, Map, MapData, RingBuf};
use aya::programs::{CgroupSockAddr, SchedClassifier, SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader};

use lark_abi::Config;
use tokio::io::unix::AsyncFd;

use crate::hook::{AGENT_PROGRAM, Hook, LEAVE_PROGRAM, LOOKUP_PROGRAM, PROBE_PROGRAM};

/// The committed object; the build script has compared its sources with what made it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../object/lark.bpf.o");

/// The maps that are pinned: all but the events, when they were told, and the loads of workers, which are each
/// agent's own.
pub(crate) const MAPS: [&str; 18] = [
    "POD",
    "DESTINATIONS",
    "FLOWS",
    "DELIVERIES",
    "SK_PEER",
    "SK_ACCEPTED",
    "SK_CLAIM",
    "RANGES",
    "GUARDED",
    "PASSES",
    "AGENT_PASSES",
    "DIRECT_PASSES",
    "DIRECT",
    "GENERATION",
    "SK_FOLLOWED",
    "CONFIG",
    "HEARTBEAT",
    "COUNTERS",
];

/// Why the kernel side cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel lacks something.
    #[error(transparent)]
    Kernel(#[from] lark_sys::kernel::KernelError),
    /// There is no place for pins.
    #[error(transparent)]
    Bpffs(#[from] lark_sys::bpffs::BpffsError),
    /// No bpf().
    #[error("the kernel has no bpf() system call; it must be built with CONFIG_BPF_SYSCALL")]
    NoBpf,
    /// A directory for pins cannot be made.
    #[error("directory {path} cannot be made: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another version's maps or hooks are pinned.
    #[error(
        "{path} was made by a version of Lark with map layout {found}, this one has {own}: stop that agent and remove {path}, which detaches its hooks; pods are left alone until this agent has captured them"
    )]
    Layout {
        /// What is to be removed.
        path: PathBuf,
        /// Its layout.
        found: String,
        /// Ours.
        own: u32,
    },
    /// The object was refused.
    #[error(
        "the kernel refused Lark's maps: {source}; loading needs CAP_BPF and CAP_NET_ADMIN, and maps of another version under {path} must be removed first"
    )]
    Load {
        /// Where the pins are.
        path: PathBuf,
        /// What went wrong.
        source: Box<aya::EbpfError>,
    },
    /// A program was refused.
    #[error(
        "the kernel refused program {program}: {source}; Lark needs Linux 5.18 or later, and CAP_BPF and CAP_NET_ADMIN"
    )]
    Program {
        /// The program.
        program: &'static str,
        /// What went wrong.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program or map is missing from the object, or of another kind.
    #[error("{0} is missing from the object; rebuild it with `cargo xtask ebpf`")]
    Missing(&'static str),
    /// A map could not be used.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("map {map} could not be used: {source}")]
pub struct MapError {
    /// The map.
    pub map: &'static str,
    /// What went wrong.
    #[source]
    pub source: Box<aya::maps::MapError>,
}

impl MapError {
    pub(crate) fn of(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self { map, source: Box::new(source) }
    }
}

/// Loads all programs over the maps pinned under `maps`, making those that are missing.
pub(crate) fn load(maps: &Path, destinations_max: u32) -> Result<Ebpf, OpenError> {
    if crate::syscall::open_pin(maps).is_err_and(|e| e.raw_os_error() == Some(libc::ENOSYS)) {
        return Err(OpenError::NoBpf);
    }
    make_way(maps, "DESTINATIONS", destinations_max)?;
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, maps.join(name));
    }
    loader.map_max_entries("DESTINATIONS", destinations_max);
    let mut ebpf = loader
        .load(OBJECT)
        .map_err(|source| OpenError::Load { path: maps.to_owned(), source: Box::new(source) })?;
    for hook in Hook::ALL {
        if hook == Hook::SockOps {
            load_sock_ops(&mut ebpf, hook.program())?
        } else {
            load_sock_addr(&mut ebpf, hook.program())?
        }
    }
    load_sock_ops(&mut ebpf, AGENT_PROGRAM)?;
    load_sock_ops(&mut ebpf, PROBE_PROGRAM)?;
    load_lookup(&mut ebpf, LOOKUP_PROGRAM)?;
    load_classifier(&mut ebpf, LEAVE_PROGRAM)?;
    Ok(ebpf)
}

/// A map of another size than is wanted is left to whoever has it open, and made anew: a pinned one would be taken as it
/// is.
fn make_way(maps: &Path, name: &'static str, max: u32) -> Result<(), OpenError> {
    let pin = maps.join(name);
    if !pin.exists() || max_entries(maps, name)? == max {
        return Ok(());
    }
    match std::fs::remove_file(&pin) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let error = aya::maps::MapError::IoError(e);
            Err(MapError::of(name)(error).into())
        }
        _ => Ok(()),
    }
}

/// How many entries a pinned map has room for.
pub(crate) fn max_entries(maps: &Path, name: &'static str) -> Result<u32, MapError> {
    let map = MapData::from_pin(maps.join(name)).map_err(MapError::of(name))?;
    Ok(map.info().map_err(MapError::of(name))?.max_entries())
}

fn load_lookup(ebpf: &mut Ebpf, name: &'static str) -> Result<(), OpenError> {
    let program: &mut SkLookup =
        ebpf.program_mut(name).and_then(|p| p.try_into().ok()).ok_or(OpenError::Missing(name))?;
    program.load().map_err(|source| OpenError::Program { program: name, source: Box::new(source) })
}

fn load_classifier(ebpf: &mut Ebpf, name: &'static str) -> Result<(), OpenError> {
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).and_then(|p| p.try_into().ok()).ok_or(OpenError::Missing(name))?;
    program.load().map_err(|source| OpenError::Program { program: name, source: Box::new(source) })
}

fn load_sock_addr(ebpf: &mut Ebpf, name: &'static str) -> Result<(), OpenError> {
    let program: &mut CgroupSockAddr =
        ebpf.program_mut(name).and_then(|p| p.try_into().ok()).ok_or(OpenError::Missing(name))?;
    program.load().map_err(|source| OpenError::Program { program: name, source: Box::new(source) })
}

fn load_sock_ops(ebpf: &mut Ebpf, name: &'static str) -> Result<(), OpenError> {
    let program: &mut SockOps =
        ebpf.program_mut(name).and_then(|p| p.try_into().ok()).ok_or(OpenError::Missing(name))?;
    program.load().map_err(|source| OpenError::Program { program: name, source: Box::new(source) })
}

/// A fresh descriptor of a pinned map: each user has its own, so none waits for another.
pub(crate) fn open<T>(maps: &Path, name: &'static str, kind: fn(MapData) -> Map) -> Result<T, MapError>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    MapData::from_pin(maps.join(name)).and_then(|data| T::try_from(kind(data))).map_err(MapError::of(name))
}

/// A ring buffer of this agent's own programs. To be called once for each, in a tokio runtime.
pub(crate) fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<AsyncFd<RingBuf<MapData>>, MapError> {
    let missing = || MapError::of(name)(aya::maps::MapError::KeyNotFound);
    let map = ebpf.take_map(name).ok_or_else(missing)?;
    let ring = RingBuf::try_from(map).map_err(MapError::of(name))?;
    let io = |error: std::io::Error| MapError::of(name)(aya::maps::MapError::IoError(error));
    // SAFETY: the ring buffer owns its descriptor and keeps it open for as long as it is registered.
    unsafe { AsyncFd::register(ring) }.map_err(|error| io(error.into()))
}

/// The next item of a ring buffer that is one. Cancel safe: nothing is taken before it is returned.
///
/// Once it is empty, it is left to gather: the kernel wakes nobody beside a buffer that has something.
///
/// A ring that somebody fills faster than it is read is always ready, so that whoever awaits nothing else would
/// never let the others of its thread have theirs: it counts against the task's budget (tokio's `coop`).
///
/// # Errors
/// When the ring buffer cannot be waited for.
pub(crate) async fn next<T>(
    ring: &mut AsyncFd<RingBuf<MapData>>,
    gather: &mut Gather,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> std::io::Result<T> {
    tokio::task::coop::consume_budget().await;
    loop {
        let mut guard = ring.readable_mut().await?;
        while let Some(item) = guard.get_inner_mut().next() {
            gather.heard = gather.heard.saturating_add(1);
            if let Some(parsed) = parse(&item) {
                return Ok(parsed);
            }
        }
        guard.clear_ready();
        let pause = gather.pause();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// For how long a ring that was found empty is left alone.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// This long, ...
    pub(crate) most: Duration,
    /// ... but a tenth of it for as long as so many items would come in that time, so that it does not overflow.
    pub(crate) many: u32,
    heard: u32,
    is_short: bool,
}

impl Gather {
    pub(crate) fn new(most: Duration, many: u32) -> Self {
        Self { most, many, heard: 0, is_short: false }
    }

    fn pause(&mut self) -> Duration {
        // What was heard came in the last pause, mostly.
        let many = if self.is_short { self.many / 10 } else { self.many };
        self.is_short = std::mem::take(&mut self.heard) >= many;
        if self.is_short { self.most / 10 } else { self.most }
    }
}

/// Refuses to work beside or over what a version with another layout of the maps has pinned: its hooks and
/// ours would redirect the same connects, or read each other's entries wrongly.
pub(crate) fn check_layout(root: &Path) -> Result<(), OpenError> {
    let own = lark_abi::LAYOUT_VERSION;
    let maps = root.join("maps");
    if maps.join("CONFIG").exists() {
        let config: Array<MapData, Config> = open(&maps, "CONFIG", Map::Array)?;
        let found = config.get(&0, 0).map_err(MapError::of("CONFIG"))?.layout;
        // Zero: an agent made the map and ended before it wrote to it.
        if found != 0 && found != own {
            return Err(OpenError::Layout { path: root.to_owned(), found: found.to_string(), own });
        }
    }
    let siblings =
        root.parent().and_then(|parent| std::fs::read_dir(parent).ok()).into_iter().flatten().flatten();
    for sibling in siblings.filter(|s| s.path() != root) {
        let name = sibling.file_name().to_string_lossy().into_owned();
        let version = name.strip_prefix('v').filter(|v| v.parse::<u32>().is_ok());
        if let Some(found) = version.filter(|_| sibling.path().join("pods").is_dir()) {
            return Err(OpenError::Layout { path: sibling.path(), found: found.to_owned(), own });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_fills_quickly_is_looked_at_sooner() {
        let mut gather = Gather::new(Duration::from_millis(50), 100);
        let mut pause_after = |heard| {
            gather.heard = heard;
            gather.pause().as_millis()
        };
        assert_eq!(pause_after(99), 50);
        assert_eq!(pause_after(100), 5);
        // As many as ever in a tenth of the time, ...
        assert_eq!(pause_after(10), 5);
        assert_eq!(pause_after(10), 5);
        // ... and fewer.
        assert_eq!(pause_after(9), 50);
        assert_eq!(pause_after(10), 50);
        assert_eq!(Gather::default().pause(), Duration::ZERO);
    }
}
