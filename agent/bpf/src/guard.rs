//! What keeps plaintext from strict pods: the look-up hook in their namespaces, what it admits, the cluster's
//! own ranges, and what is refused, as it happens.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap as BpfHashMap, Map, MapData, RingBuf};
use lark_abi::entry::RangeData;
use lark_abi::{Address, DestinationKey, Guard, Pass, Refused, Tuple};
use tokio::io::unix::AsyncFd;

use crate::direct::OpenDirect;
use crate::hook::{
    Hook, LEAVE_ATTACH, LEAVE_PROGRAM, LOOKUP_ATTACH, LOOKUP_PIN, LOOKUP_PROGRAM, PROBE_PROGRAM,
};
use crate::link::{self, AttachError, LinkState};
use crate::load::{self, Gather, MapError};
use crate::mirror::{Mirror, Synced};
use crate::syscall;

/// Entries of each map of connections that somebody vouches for (ebpf/programs/src/maps.rs).
pub(crate) const PASSES_MAX: u32 = 65_536;

/// The maps of strict pods, and their programs' pins.
#[derive(Debug)]
pub struct Guards {
    root: PathBuf,
    guarded: Mirror<DestinationKey, Guard>,
    probes: BpfHashMap<MapData, Tuple, Pass>,
    agent: BpfHashMap<MapData, Tuple, Pass>,
    direct: BpfHashMap<MapData, Tuple, Pass>,
    ranges: LpmTrie<MapData, RangeData, u32>,
}

impl Guards {
    pub(crate) fn open(root: &Path) -> Result<Self, MapError> {
        let maps = root.join("maps");
        Ok(Self {
            root: root.to_owned(),
            guarded: Mirror::open(&maps, "GUARDED")?,
            probes: load::open(&maps, "PASSES", Map::HashMap)?,
            agent: load::open(&maps, "AGENT_PASSES", Map::HashMap)?,
            direct: load::open(&maps, "DIRECT_PASSES", Map::HashMap)?,
            ranges: load::open(&maps, "RANGES", Map::LpmTrie)?,
        })
    }

    /// How many guarded addresses and ports there are, and how many fit.
    pub fn guarded(&self) -> (usize, u32) {
        (self.guarded.len(), self.guarded.max())
    }

    /// Makes the guarded addresses and ports exactly these, written in this order; but none is open in between that is
    /// not to be.
    ///
    /// # Errors
    /// When the map cannot be written; a full one is no error but said in the result.
    pub fn sync(
        &mut self,
        wanted: impl IntoIterator<Item = (DestinationKey, Guard)>,
    ) -> Result<Synced, MapError> {
        let wanted: Vec<_> = wanted.into_iter().collect();
        self.guarded.sync_closing(&wanted, |guard| guard.action != Guard::PASS)
    }

    /// Makes the cluster's own ranges exactly these.
    ///
    /// # Errors
    /// When the map cannot be written; a full one too.
    pub fn sync_ranges(&mut self, wanted: impl IntoIterator<Item = (IpAddr, u8)>) -> Result<(), MapError> {
        let wanted: HashSet<(u32, RangeData)> =
            wanted.into_iter().map(|(ip, length)| range(ip, length)).collect();
        let there: HashSet<(u32, RangeData)> =
            self.ranges.keys().filter_map(Result::ok).map(|key| (key.prefix_len(), key.data())).collect();
        for (length, data) in wanted.difference(&there) {
            self.ranges.insert(&Key::new(*length, *data), 1, 0).map_err(MapError::of("RANGES"))?;
        }
        for (length, data) in there.difference(&wanted) {
            // Gone already is as good as removed.
            let _ = self.ranges.remove(&Key::new(*length, *data));
        }
        Ok(())
    }

    /// Whether a connection may reach a strict pod because somebody vouches for it, or a verdict leaves it alone.
    pub fn is_passing(&self, source: (IpAddr, u16), destination: (IpAddr, u16)) -> bool {
        let tuple = Tuple {
            netns: 0,
            source: source.0.into(),
            destination: destination.0.into(),
            source_port: source.1,
            destination_port: destination.1,
            padding: 0,
        };
        [&self.probes, &self.agent, &self.direct].iter().any(|map| map.get(&tuple, 0).is_ok())
    }

    /// Connections that are vouched for or left alone at this moment.
    pub fn passes(&self) -> usize {
        self.usage().map(|(_, entries)| entries).iter().sum()
    }

    /// The same by map.
    pub(crate) fn usage(&self) -> [(&'static str, usize); 3] {
        let maps = [("PASSES", &self.probes), ("AGENT_PASSES", &self.agent), ("DIRECT_PASSES", &self.direct)];
        maps.map(|(name, map)| (name, map.keys().count()))
    }

    /// Takes back what is recorded of direct connections from these addresses: the hooks of their pods are
    /// detached, so nobody sees their sockets close, and the next pod of that address must not pass for them.
    pub fn forget_direct(&mut self, is_gone: impl Fn(IpAddr) -> bool) {
        let sources = self.direct.keys().filter_map(Result::ok);
        let gone: Vec<Tuple> = sources.filter(|tuple| is_gone(tuple.source.into())).collect();
        for tuple in gone {
            // Gone already is as good as removed.
            let _ = self.direct.remove(&tuple);
        }
    }

    /// The direct connections that are open.
    pub fn direct(&self) -> Vec<OpenDirect> {
        let recorded = self.direct.iter().filter_map(Result::ok);
        let confirmed = recorded.filter(|(_, pass)| pass.kind == Pass::CONFIRMED);
        confirmed
            .map(|(tuple, pass)| OpenDirect {
                cookie: pass.cookie,
                source: SocketAddr::new(tuple.source.into(), tuple.source_port),
                destination: SocketAddr::new(tuple.destination.into(), tuple.destination_port),
                acceptor: pass.acceptor,
            })
            .collect()
    }

    pub(crate) fn attach_probes(
        &self,
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        cgroup_id: u64,
    ) -> Result<(), AttachError> {
        let pin = self.probes_pin();
        link::attach(program, PROBE_PROGRAM, Hook::SockOps.attach_type(), cgroup, cgroup_id, &pin)
    }

    /// The probes that were recorded go too, for nobody would see their sockets close.
    pub(crate) fn detach_probes(&mut self) -> Result<(), AttachError> {
        if !self.probes_pin().exists() {
            return Ok(());
        }
        link::remove(&self.probes_pin())?;
        let recorded = self.probes.iter().filter_map(Result::ok);
        let probes: Vec<Tuple> =
            recorded.filter(|(_, pass)| pass.kind == Pass::PROBE).map(|(tuple, _)| tuple).collect();
        for tuple in probes {
            // Gone already is as good as removed.
            let _ = self.probes.remove(&tuple);
        }
        Ok(())
    }

    fn probes_pin(&self) -> PathBuf {
        self.root.join("probes")
    }

    pub(crate) fn attach(
        &self,
        program: BorrowedFd<'_>,
        pod: &Path,
        netns: BorrowedFd<'_>,
        inode: u64,
    ) -> Result<(), AttachError> {
        link::attach_netns(program, LOOKUP_PROGRAM, LOOKUP_ATTACH, netns, inode, &pod.join(LOOKUP_PIN))
    }
}

/// A range as the map's key has it.
fn range(ip: IpAddr, length: u8) -> (u32, RangeData) {
    let ip = ip.to_canonical();
    let more = if ip.is_ipv4() { 96 } else { 0 };
    (u32::from(length) + more, Address::from(ip).words_be)
}

/// Ids of the programs in a network namespace that steer look-ups: one that is none of ours may lead plaintext
/// past our hook.
///
/// # Errors
/// When the kernel refuses to tell.
pub fn lookup_programs(netns: BorrowedFd<'_>) -> std::io::Result<Vec<u32>> {
    syscall::attached(netns, LOOKUP_ATTACH)
}

/// What is refused, as it happens. Bounded in the kernel: one of a kind a second, and no more than the ring
/// buffer holds.
pub struct Refusals(AsyncFd<RingBuf<MapData>>);

impl std::fmt::Debug for Refusals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refusals")
    }
}

impl Refusals {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        load::ring(ebpf, "EVENTS").map(Self)
    }

    /// The next one. Cancel safe: nothing is taken before it is returned.
    pub async fn next(&mut self) -> std::io::Result<Refused> {
        load::next(&mut self.0, &mut Gather::default(), parse).await
    }
}

fn parse(bytes: &[u8]) -> Option<Refused> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let address =
        |at: usize| Some(Address { words_be: [word(at)?, word(at + 4)?, word(at + 8)?, word(at + 12)?] });
    Some(Refused {
        source: address(0)?,
        destination: address(16)?,
        source_port: half(32)?,
        destination_port: half(34)?,
        counter: word(36)?,
        interface: word(40)?,
    })
}

/// Whether the look-up hook of a pod's pins is attached to the namespace of that inode.
pub(crate) fn is_attached(pod: &Path, inode: u64) -> bool {
    link::pinned_netns(&pod.join(LOOKUP_PIN)) == Some(inode)
}

/// Detaches the look-up hook and the second line.
pub(crate) fn detach(pod: &Path) -> Result<(), AttachError> {
    link::remove(&pod.join(LOOKUP_PIN))?;
    detach_second_line(pod)
}

/// Puts the second line on these interfaces of the host too, and takes over where it is already. It stays on
/// each for as long as that is there: a pod whose interface cannot be found any more may have hidden it.
pub(crate) fn attach_second_line(
    program: BorrowedFd<'_>,
    pod: &Path,
    interfaces: &[u32],
) -> Result<(), AttachError> {
    let mut wanted: BTreeSet<u32> = interfaces.iter().copied().collect();
    for pin in second_pins(pod) {
        match link::pinned_interface(&pin) {
            Some(interface) => drop(wanted.insert(interface)),
            None => link::remove(&pin)?,
        }
    }
    wanted.into_iter().try_for_each(|interface| {
        let pin = second_pin(pod, interface);
        link::attach_interface(program, LEAVE_PROGRAM, LEAVE_ATTACH, interface, &pin)
    })
}

/// Whether the second line is on all of these interfaces.
pub(crate) fn has_second_line(pod: &Path, interfaces: &[u32]) -> bool {
    interfaces
        .iter()
        .all(|interface| link::pinned_interface(&second_pin(pod, *interface)) == Some(*interface))
}

/// Detaches the second line.
pub(crate) fn detach_second_line(pod: &Path) -> Result<(), AttachError> {
    second_pins(pod).iter().try_for_each(|pin| link::remove(pin))
}

fn second_pins(pod: &Path) -> Vec<PathBuf> {
    names(pod).filter(|name| name.starts_with(SECOND_PIN)).map(|name| pod.join(name)).collect()
}

fn names(pod: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(pod).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The links that guard a pod, by what the kernel says of them.
pub(crate) fn pinned(pod: &Path) -> Vec<LinkState> {
    let mut guards: Vec<LinkState> = names(pod)
        .filter(|name| name == LOOKUP_PIN || name.starts_with(SECOND_PIN))
        .filter_map(|name| {
            let link = syscall::open_pin(&pod.join(&name)).ok()?;
            link::state(link.as_fd(), &name).ok()
        })
        .collect();
    guards.sort_by(|a, b| a.hook.cmp(&b.hook));
    guards
}

/// What the names of the second line's pins begin with.
const SECOND_PIN: &str = "tcx-";

fn second_pin(pod: &Path, interface: u32) -> PathBuf {
    pod.join(format!("{SECOND_PIN}{interface}"))
}
