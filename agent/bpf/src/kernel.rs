//! Everything together: one agent's hold on the kernel.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
#[expect(deprecated, reason = "the successor is keyed by the current task, not by the attachment")]
use aya::maps::cgroup_storage::{CgroupStorage, CgroupStorageKey};
use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData};
use aya::programs::{CgroupSockAddr, SchedClassifier, SkLookup, SockOps};
use lark_abi::{Config, DestinationKey, DestinationValue, Flow, PodEntry, Tuple};

use crate::direct::Directs;
use crate::follow::FollowedEvents;
use crate::guard::{self, Guards, Refusals};
use crate::hook::{AGENT_PROGRAM, Hook, LEAVE_PROGRAM, LOOKUP_PROGRAM, PROBE_PROGRAM};
use crate::link::{self, AttachError, LinkState};
use crate::load::{self, MapError, OpenError};
use crate::mirror::{Mirror, Synced};
use crate::socket_maps::{Accepted, Claims, Counters, Heartbeat, Loads};

/// What the kernel side is opened with.
#[derive(Debug, Clone)]
pub struct KernelConfig {
    /// Directory on bpffs for everything of this layout.
    pub pin_root: PathBuf,
    /// Most mesh destinations; a map of another size that is there is replaced.
    pub destinations_max: u32,
}

/// A pod as the pins have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedPod {
    /// Name of its directory (the workload's uid).
    pub name: String,
    /// Its hooks' links as the kernel has them.
    pub links: Vec<LinkState>,
    /// Those of what guards it if it is strict.
    pub guards: Vec<LinkState>,
}

impl PinnedPod {
    /// Whether all hooks are attached to the cgroup of that id.
    pub fn is_attached_to(&self, cgroup_id: u64) -> bool {
        self.links.len() == Hook::ALL.len() && self.links.iter().all(|l| l.cgroup_id == Some(cgroup_id))
    }

    /// Whether the cgroup that the links were attached to is gone.
    pub fn is_severed(&self) -> bool {
        self.links.iter().any(|l| l.cgroup_id.is_none())
    }
}

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapUsage {
    /// Name of the map.
    pub map: &'static str,
    /// Entries in it.
    pub entries: usize,
    /// Entries that fit.
    pub max: u32,
}

/// One agent's hold on the kernel. Dropping it leaves everything pinned as it is.
pub struct Kernel {
    root: PathBuf,
    ebpf: Ebpf,
    #[expect(deprecated, reason = "see the import")]
    pods: CgroupStorage<MapData, PodEntry>,
    config: Array<MapData, Config>,
    destinations: Mirror<DestinationKey, DestinationValue>,
    guards: Guards,
    directs: Directs,
    loads: Loads,
}

impl Kernel {
    /// Loads the programs over what an earlier agent pinned, or from nothing.
    ///
    /// # Errors
    /// Each says what is missing and what to do; nothing is attached.
    pub fn open(config: &KernelConfig) -> Result<Self, OpenError> {
        lark_sys::kernel::probe()?;
        let root = config.pin_root.clone();
        lark_sys::bpffs::ensure(&root)?;
        for directory in ["maps", "pods", "agent"] {
            let path = root.join(directory);
            std::fs::create_dir_all(&path).map_err(|source| OpenError::Directory { path, source })?;
        }
        let maps = root.join("maps");
        load::check_layout(&root)?;
        let mut ebpf = load::load(&maps, config.destinations_max)?;
        Ok(Self {
            pods: load::open(&maps, "POD", Map::CgroupStorage)?,
            config: load::open(&maps, "CONFIG", Map::Array)?,
            destinations: Mirror::open(&maps, "DESTINATIONS")?,
            guards: Guards::open(&root)?,
            directs: Directs::open(&maps)?,
            loads: Loads::open(&mut ebpf)?,
            ebpf,
            root,
        })
    }

    fn program(&self, name: &'static str) -> Result<BorrowedFd<'_>, AttachError> {
        let program = self.ebpf.program(name).ok_or(AttachError::NoProgram(name))?;
        let fd = if let Ok(program) = <&SockOps>::try_from(program) {
            program.fd()
        } else if let Ok(program) = <&CgroupSockAddr>::try_from(program) {
            program.fd()
        } else if let Ok(program) = <&SkLookup>::try_from(program) {
            program.fd()
        } else if let Ok(program) = <&SchedClassifier>::try_from(program) {
            program.fd()
        } else {
            return Err(AttachError::NoProgram(name));
        };
        fd.map(AsFd::as_fd).map_err(|_| AttachError::NoProgram(name))
    }

    /// Attaches the agent's own program to the agent's cgroup. One pin a cgroup: while an agent takes over
    /// from another, both have theirs, for sockets run the program of the cgroup that they were made in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_agent(&mut self, cgroup: BorrowedFd<'_>, cgroup_id: u64) -> Result<(), AttachError> {
        let pin = self.agent_pin(cgroup_id);
        link::attach(
            self.program(AGENT_PROGRAM)?,
            AGENT_PROGRAM,
            Hook::SockOps.attach_type(),
            cgroup,
            cgroup_id,
            &pin,
        )
    }

    /// Detaches the own programs of agents before this one, whose cgroup is `cgroup_id`.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach_other_agents(&mut self, cgroup_id: u64) -> Result<(), AttachError> {
        let own = self.agent_pin(cgroup_id);
        let pins = std::fs::read_dir(self.root.join("agent")).into_iter().flatten().flatten();
        pins.map(|entry| entry.path()).filter(|pin| *pin != own).try_for_each(|pin| link::remove(&pin))
    }

    fn agent_pin(&self, cgroup_id: u64) -> PathBuf {
        self.root.join("agent").join(format!("sock_ops-{cgroup_id}"))
    }

    /// Attaches all hooks to a pod's cgroup, or takes over those that are pinned, and then writes
    /// the entry that makes them redirect.
    ///
    /// # Errors
    /// When the kernel refuses; then nothing new stays attached, and what was attached before stays.
    pub fn capture(
        &mut self,
        name: &str,
        cgroup: BorrowedFd<'_>,
        cgroup_id: u64,
        entry: PodEntry,
    ) -> Result<(), AttachError> {
        let directory = self.pod_directory(name);
        std::fs::create_dir_all(&directory)
            .map_err(|source| AttachError::Pin { path: directory.clone(), source })?;
        let fresh = link::pinned(&directory).is_empty();
        let attached = Hook::ALL.iter().try_for_each(|hook| {
            link::attach(
                self.program(hook.program())?,
                hook.program(),
                hook.attach_type(),
                cgroup,
                cgroup_id,
                &directory.join(hook.name()),
            )
        });
        let written = attached.and_then(|()| {
            self.update(cgroup_id, entry)
                .map_err(|source| AttachError::Entry { pod: name.to_owned(), source })
        });
        if written.is_err() && fresh {
            // The first error is the one to tell.
            let _ = self.release(name);
        }
        written
    }

    /// Writes a pod's entry: the kernel replaces it as a whole.
    ///
    /// # Errors
    /// When the pod's hooks are not attached.
    pub fn update(&mut self, cgroup_id: u64, entry: PodEntry) -> Result<(), MapError> {
        for hook in Hook::ALL.into_iter().filter(|h| h.has_entry()) {
            let key = CgroupStorageKey::new(cgroup_id, hook.attach_type());
            self.pods.insert(key, entry, 0).map_err(MapError::of("POD"))?;
        }
        Ok(())
    }

    /// The entry as the kernel has it for IPv4 connects.
    ///
    /// # Errors
    /// When the pod's hooks are not attached.
    pub fn entry(&self, cgroup_id: u64) -> Result<PodEntry, MapError> {
        let key = CgroupStorageKey::new(cgroup_id, Hook::Connect4.attach_type());
        self.pods.get(key, 0).map_err(MapError::of("POD"))
    }

    /// Detaches a pod's hooks, those that redirect first. A guard stays: it has nothing to do with them.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn release(&mut self, name: &str) -> Result<(), AttachError> {
        self.release_pinned(&file_name(name))
    }

    /// The same by the name of the pins' directory, as [`Kernel::pinned`] tells it.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn release_pinned(&mut self, directory: &str) -> Result<(), AttachError> {
        let directory = self.root.join("pods").join(directory);
        self.release_hooks(&directory)?;
        remove_empty(directory)
    }

    /// Detaches everything of a pod that is not wanted any more, its guard too, by the name of the pins'
    /// directory.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn forget_pinned(&mut self, directory: &str) -> Result<(), AttachError> {
        guard::detach(&self.root.join("pods").join(directory))?;
        self.release_pinned(directory)
    }

    fn release_hooks(&self, directory: &Path) -> Result<(), AttachError> {
        Hook::ALL.iter().rev().try_for_each(|hook| link::remove(&directory.join(hook.name())))
    }

    /// Attaches the look-up hook to a pod's network namespace, or takes over the one that is pinned: from then
    /// on nothing reaches the pod but what [`Self::guards`] admit. It stays when this agent goes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn guard(&mut self, name: &str, netns: BorrowedFd<'_>, inode: u64) -> Result<(), AttachError> {
        let directory = self.pod_directory(name);
        std::fs::create_dir_all(&directory)
            .map_err(|source| AttachError::Pin { path: directory.clone(), source })?;
        self.guards.attach(self.program(LOOKUP_PROGRAM)?, &directory, netns, inode)
    }

    /// Puts a pod's second line on these interfaces of the calling thread's namespace too, and takes over what is
    /// pinned: what leaves the pod for the cluster past its hooks is dropped there. It stays when this
    /// agent goes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn second_line(&mut self, name: &str, interfaces: &[u32]) -> Result<(), AttachError> {
        let directory = self.pod_directory(name);
        std::fs::create_dir_all(&directory)
            .map_err(|source| AttachError::Pin { path: directory.clone(), source })?;
        guard::attach_second_line(self.program(LEAVE_PROGRAM)?, &directory, interfaces)
    }

    /// Detaches a pod's second line.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn drop_second_line(&mut self, name: &str) -> Result<(), AttachError> {
        guard::detach_second_line(&self.pod_directory(name))
    }

    /// Whether a pod's second line is on all of these interfaces.
    pub fn has_second_line(&self, name: &str, interfaces: &[u32]) -> bool {
        guard::has_second_line(&self.pod_directory(name), interfaces)
    }

    /// Detaches the look-up hook and the second line of a pod.
    ///
    /// # Errors
    /// When the pin cannot be removed.
    pub fn unguard(&mut self, name: &str) -> Result<(), AttachError> {
        let directory = self.pod_directory(name);
        guard::detach(&directory)?;
        remove_empty(directory)
    }

    /// Whether the look-up hook of a pod is attached to the namespace of that inode.
    pub fn is_guarded(&self, name: &str, inode: u64) -> bool {
        guard::is_attached(&self.pod_directory(name), inode)
    }

    /// What look-up hooks admit.
    pub fn guards(&mut self) -> &mut Guards {
        &mut self.guards
    }

    /// Ids of the programs in a namespace that steer look-ups and are none of this agent's.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn foreign_lookups(&self, netns: BorrowedFd<'_>) -> std::io::Result<Vec<u32>> {
        let own = self.ebpf.program(LOOKUP_PROGRAM).and_then(|p| p.info().ok()).map(|info| info.id());
        let all = guard::lookup_programs(netns)?;
        Ok(all.into_iter().filter(|id| Some(*id) != own).collect())
    }

    /// Attaches the program that vouches for probes to the kubelet's cgroup.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_probes(&mut self, cgroup: BorrowedFd<'_>, cgroup_id: u64) -> Result<(), AttachError> {
        self.guards.attach_probes(self.program(PROBE_PROGRAM)?, cgroup, cgroup_id)
    }

    /// Detaches it.
    ///
    /// # Errors
    /// When the pin cannot be removed.
    pub fn detach_probes(&mut self) -> Result<(), AttachError> {
        self.guards.detach_probes()
    }

    /// What look-up hooks refuse, as it happens. To be called once, in a tokio runtime.
    ///
    /// # Errors
    /// When the ring buffer cannot be opened, or was taken already.
    pub fn refusals(&mut self) -> Result<Refusals, MapError> {
        Refusals::open(&mut self.ebpf)
    }

    /// Verdicts about connections between pods of this node.
    pub fn directs(&mut self) -> &mut Directs {
        &mut self.directs
    }

    /// What becomes of direct connections, as it happens. To be called once, in a tokio runtime.
    ///
    /// # Errors
    /// When the ring buffer cannot be opened, or was taken already.
    pub fn direct_events(&mut self) -> Result<FollowedEvents, MapError> {
        FollowedEvents::direct(&mut self.ebpf)
    }

    /// What becomes of the pods' connections in plaintext, as it happens. To be called once, in a tokio runtime.
    ///
    /// # Errors
    /// When the ring buffer cannot be opened, or was taken already.
    pub fn plain_events(&mut self) -> Result<FollowedEvents, MapError> {
        FollowedEvents::plain(&mut self.ebpf)
    }

    /// The pods that are pinned, with what the kernel says of each link.
    pub fn pinned(&self) -> Vec<PinnedPod> {
        let mut pods: Vec<PinnedPod> = std::fs::read_dir(self.root.join("pods"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| PinnedPod {
                name: entry.file_name().to_string_lossy().into_owned(),
                links: link::pinned(&entry.path()),
                guards: guard::pinned(&entry.path()),
            })
            .collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        pods
    }

    /// Writes the settings that the hooks read.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_config(&mut self, config: Config) -> Result<(), MapError> {
        self.config.set(0, config, 0).map_err(MapError::of("CONFIG"))
    }

    /// Makes the kernel's mesh destinations exactly these.
    ///
    /// # Errors
    /// When the map cannot be written; a full one is no error but said in the result.
    pub fn sync_destinations(
        &mut self,
        wanted: impl IntoIterator<Item = (DestinationKey, DestinationValue)>,
    ) -> Result<Synced, MapError> {
        self.destinations.sync(wanted)
    }

    /// Writes some mesh destinations and removes others; the rest stays as it is.
    ///
    /// # Errors
    /// When the map cannot be written; a full one is no error but said in the result.
    pub fn change_destinations(
        &mut self,
        written: impl IntoIterator<Item = (DestinationKey, DestinationValue)>,
        removed: impl IntoIterator<Item = DestinationKey>,
    ) -> Result<Synced, MapError> {
        self.destinations.change(written, removed)
    }

    /// Reads flows of accepted sockets.
    ///
    /// # Errors
    /// When the map cannot be opened.
    pub fn accepted(&self) -> Result<Accepted, MapError> {
        Accepted::open(&self.maps())
    }

    /// Claims sources of deliveries.
    ///
    /// # Errors
    /// When the map cannot be opened.
    pub fn claims(&self) -> Result<Claims, MapError> {
        Claims::open(&self.maps())
    }

    /// How many connections pods have open with each of so many workers.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn loads(&self, workers: u32) -> Result<Vec<i64>, MapError> {
        self.loads.read(workers)
    }

    /// The heartbeat.
    ///
    /// # Errors
    /// When the map cannot be opened.
    pub fn heartbeat(&self) -> Result<Heartbeat, MapError> {
        Heartbeat::open(&self.maps())
    }

    /// The counters.
    ///
    /// # Errors
    /// When the map cannot be opened.
    pub fn counters(&self) -> Result<Counters, MapError> {
        Counters::open(&self.maps())
    }

    /// How full the maps are whose fullness matters.
    ///
    /// # Errors
    /// When a map cannot be opened.
    pub fn usage(&self) -> Result<Vec<MapUsage>, MapError> {
        let mut usage = vec![MapUsage {
            map: "DESTINATIONS",
            entries: self.destinations.len(),
            max: self.destinations.max(),
        }];
        for map in ["FLOWS", "DELIVERIES"] {
            let opened: BpfHashMap<_, Tuple, Flow> = load::open(&self.maps(), map, Map::HashMap)?;
            usage.push(MapUsage { map, entries: opened.keys().count(), max: 65_536 });
        }
        let (entries, max) = self.guards.guarded();
        usage.push(MapUsage { map: "GUARDED", entries, max });
        let (entries, max) = self.directs.usage();
        usage.push(MapUsage { map: "DIRECT", entries, max });
        let passes = self.guards.usage().into_iter();
        usage.extend(passes.map(|(map, entries)| MapUsage { map, entries, max: guard::PASSES_MAX }));
        Ok(usage)
    }

    /// Name and kernel id of each loaded program.
    pub fn programs(&self) -> Vec<(String, u32)> {
        let mut programs: Vec<(String, u32)> = self
            .ebpf
            .programs()
            .filter_map(|(name, program)| Some((name.to_owned(), program.info().ok()?.id())))
            .collect();
        programs.sort();
        programs
    }

    /// Sends the programs' rare messages to tracing, from the current tokio runtime.
    pub fn spawn_logs(&mut self) {
        crate::logs::spawn(&mut self.ebpf);
    }

    fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    fn pod_directory(&self, name: &str) -> PathBuf {
        self.root.join("pods").join(file_name(name))
    }
}

/// Removes a pod's directory, unless there is something in it, or it is gone already.
fn remove_empty(directory: PathBuf) -> Result<(), AttachError> {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
    match std::fs::remove_dir(&directory) {
        Err(source) if !matches!(source.kind(), DirectoryNotEmpty | NotFound) => {
            Err(AttachError::Pin { path: directory, source })
        }
        _ => Ok(()),
    }
}

/// Detaches everything and removes all pins under `root`.
///
/// # Errors
/// When a file cannot be removed.
pub fn uninstall(root: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A uid as a file name on bpffs, which allows no dots: every byte but letters, digits, `-` and `_`
/// is written as `+` and two hex digits, so that two uids never share a name.
pub fn file_name(uid: &str) -> String {
    uid.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(b).to_string(),
            _ => format!("+{b:02x}"),
        })
        .collect()
}
