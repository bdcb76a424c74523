//! Strict pods of this node, as the kernel keeps plaintext from them: the look-up hook in each one's
//! namespace, what it admits, who vouches for probes, and the end of connections that are older than strict.
//!
//! Each pass looks at what the kernel has and mends it. The hook and its map stay when the agent goes: a
//! strict pod takes no plaintext while there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lark_abi::{Address, DestinationKey, Guard};
use lark_bpf::Kernel;
use lark_core::mode::{Mode, Mtls};
use lark_core::policy::Cidr;
use lark_core::snapshot::{Snapshot, Workload};
use lark_core::strict::{is_older, probes_of};
use lark_sys::cgroup::Cgroup;
use lark_sys::connections::{self, Established, Found};
use lark_sys::netns::NetNs;

use super::locate::Locator;
use super::reconcile::locked;
use super::second_line::{SecondLine, Wires};

/// How long after its beginning a pod's open connections are looked at: handshakes that were under way.
const SWEPT: Duration = Duration::from_secs(10);
/// Connections older than strict that are ended in one pod at a time; if there are more, they are next.
const CONNECTIONS_A_POD: usize = 10_000;
/// Ends that are named in the log for one pod at a time; more are counted.
const NAMED: usize = 20;

/// What the last pass found, for people.
#[derive(Debug, Clone)]
pub struct StrictReport {
    /// Each strict pod, by its uid.
    pub pods: BTreeMap<Arc<str>, GuardReport>,
    /// Why probes are not told from others, if they are not.
    pub probes: Result<(), String>,
}

/// One strict pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuardReport {
    /// Why plaintext is not kept from it, if it is not.
    pub failed: Option<String>,
    /// What of its second line is missing, if something is.
    pub second_line: Option<String>,
    /// Programs of others that steer look-ups in its namespace.
    pub foreign: usize,
    /// Open connections that are older than strict.
    pub older: usize,
}

/// The host's own interfaces, asked at most once in a pass.
pub(super) type Here = Option<Result<Vec<lark_sys::links::Interface>, String>>;

struct Guarded {
    /// By which the map knows that addresses are one pod's.
    number: u32,
    /// How it takes plaintext: its mode and policies together.
    taken: Mode,
    swept_until: Instant,
    /// Open connections that are older than strict and could not be ended.
    stay: usize,
    /// Whether the hook is this agent's program, and not that of one before.
    is_ours: bool,
}

/// Keeps plaintext from the strict pods of this node.
pub(super) struct Strict {
    node: Arc<str>,
    /// Where its cgroup may be.
    kubelet: Vec<PathBuf>,
    kernel: Arc<Mutex<Kernel>>,
    guarded: BTreeMap<Arc<str>, Guarded>,
    second_line: SecondLine,
    report: Arc<Mutex<StrictReport>>,
    probes: Option<u64>,
    ranges: Option<Vec<Cidr>>,
    /// How pods of the snapshot of this generation take plaintext.
    taken: (u64, BTreeMap<Arc<str>, Mode>),
    is_first: bool,
    next: u32,
}

impl Strict {
    pub(super) fn new(node: Arc<str>, kubelet: Vec<PathBuf>, kernel: Arc<Mutex<Kernel>>) -> Self {
        let report = StrictReport { pods: BTreeMap::new(), probes: Ok(()) };
        Self {
            node,
            kubelet,
            second_line: SecondLine::new(kernel.clone()),
            kernel,
            guarded: BTreeMap::new(),
            report: Arc::new(Mutex::new(report)),
            probes: None,
            ranges: None,
            taken: (0, BTreeMap::new()),
            is_first: true,
            // Numbers differ from those of an agent before: while this one writes its own over them, nobody
            // is taken for another.
            next: std::process::id() << 10 | 1,
        }
    }

    pub(super) fn report(&self) -> Arc<Mutex<StrictReport>> {
        self.report.clone()
    }

    /// Whose wires the host's interfaces are.
    pub(super) fn wires(&self) -> Wires {
        self.second_line.wires.clone()
    }

    /// One pass; `listeners` are the agent's own on a pod's addresses.
    pub(super) fn pass(
        &mut self,
        snapshot: &Snapshot,
        locator: &mut Locator,
        listeners: impl Fn(&str) -> Vec<u16>,
    ) {
        if self.taken.0 != snapshot.generation {
            let own = snapshot.workloads_on(&self.node).filter(|w| w.capture.is_wanted() && !w.host_network);
            let taken = own.map(|w| (w.uid.clone(), snapshot.policies().plaintext(w).into_owned()));
            self.taken = (snapshot.generation, taken.filter(|(_, mode)| mode.is_guarded()).collect());
        }
        let wanted: BTreeMap<Arc<str>, Arc<Workload>> = (self.taken.1.keys())
            .filter_map(|uid| Some((uid.clone(), snapshot.workload(uid)?.clone())))
            .collect();
        self.unguard(snapshot, &wanted);
        for (uid, taken) in &self.taken.1 {
            Self::note(&mut self.guarded, &mut self.next, uid, taken);
        }
        self.write(snapshot, &wanted, listeners);
        let probes = self.vouch(snapshot, locator, wanted.is_empty());
        let mut pods = BTreeMap::new();
        let mut here = None;
        for workload in wanted.values() {
            pods.insert(workload.uid.clone(), self.guard(snapshot, locator, workload, &mut here));
        }
        let mut report = locked(&self.report);
        if let (Ok(()), Err(why)) = (&report.probes, &probes) {
            tracing::warn!(why, "probes of strict pods are refused like anybody else's plaintext");
        }
        *report = StrictReport { pods, probes };
    }

    /// Another agent has had its programs in place of ours.
    pub(super) fn retake(&mut self) {
        self.guarded.values_mut().for_each(|guarded| guarded.is_ours = false);
        self.second_line.retake();
        self.probes = None;
        self.ranges = None;
    }

    /// Begins to guard a pod, or to guard it otherwise than before.
    fn note(all: &mut BTreeMap<Arc<str>, Guarded>, next: &mut u32, uid: &Arc<str>, taken: &Mode) {
        let known = all.get(uid);
        if known.is_some_and(|guarded| guarded.taken == *taken) {
            return;
        }
        let guarded = Guarded {
            number: known.map_or(*next, |guarded| guarded.number),
            taken: taken.clone(),
            swept_until: Instant::now() + SWEPT,
            stay: known.map_or(0, |guarded| guarded.stay),
            is_ours: known.is_some_and(|guarded| guarded.is_ours),
        };
        if all.insert(uid.clone(), guarded).is_none() {
            *next = next.wrapping_add(1).max(1);
        }
    }

    /// Detaches the hook of pods that are not strict any more, or not here.
    fn unguard(&mut self, snapshot: &Snapshot, wanted: &BTreeMap<Arc<str>, Arc<Workload>>) {
        let mut gone: BTreeSet<Arc<str>> = self.guarded.keys().cloned().collect();
        if std::mem::take(&mut self.is_first) {
            // An agent before this one may have guarded any of them.
            gone.extend(snapshot.workloads_on(&self.node).map(|w| w.uid.clone()));
        }
        for uid in gone.into_iter().filter(|uid| !wanted.contains_key(uid)) {
            self.second_line.release(&uid);
            match locked(&self.kernel).unguard(&uid) {
                Ok(()) => drop(self.guarded.remove(&uid)),
                Err(error) => tracing::error!(uid = &*uid, %error, "a pod that is not strict stays guarded"),
            }
        }
    }

    /// Writes what hooks admit, before any of them asks.
    fn write(
        &mut self,
        snapshot: &Snapshot,
        wanted: &BTreeMap<Arc<str>, Arc<Workload>>,
        listeners: impl Fn(&str) -> Vec<u16>,
    ) {
        let guarded = wanted.values().filter_map(|w| Some((w, self.guarded.get(&w.uid)?)));
        let entries = guarded.map(|(w, guarded)| entries(w, guarded, &listeners(&w.uid)));
        let mut kernel = locked(&self.kernel);
        let most = usize::try_from(kernel.guards().guarded().1).unwrap_or(usize::MAX);
        let (entries, closed) = fitting(entries.collect(), most);
        if closed > 0 {
            tracing::error!(
                closed,
                "the kernel's map of strict pods and ports is full: so many pods take no plaintext, on whatever port"
            );
        }
        match kernel.guards().sync(entries) {
            Ok(synced) if synced.left_out > 0 => tracing::error!(
                left_out = synced.left_out,
                "the kernel's map of strict pods is full: those left out take no plaintext, probes neither"
            ),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "what strict pods take cannot be written"),
        }
        if self.ranges.as_ref() != Some(&snapshot.mesh.cluster_ranges) {
            let ranges = snapshot.mesh.cluster_ranges.iter().map(|range| range.parts());
            match kernel.guards().sync_ranges(ranges) {
                Ok(()) => {
                    self.ranges = Some(snapshot.mesh.cluster_ranges.clone());
                    // What was open to addresses that are the cluster's by now is older too.
                    let until = Instant::now() + SWEPT;
                    self.guarded.values_mut().for_each(|guarded| guarded.swept_until = until);
                }
                Err(error) => tracing::error!(%error, "the cluster's ranges cannot be written"),
            }
        }
    }

    /// Has the kubelet's sockets recorded, or says why not.
    fn vouch(&mut self, snapshot: &Snapshot, locator: &mut Locator, is_idle: bool) -> Result<(), String> {
        let mut kernel = locked(&self.kernel);
        let found = if is_idle { Err(String::new()) } else { self.prober(snapshot, locator) };
        match found {
            Ok(cgroup) => {
                if self.probes != Some(cgroup.id()) {
                    kernel.attach_probes(cgroup.as_fd(), cgroup.id()).map_err(|e| e.to_string())?;
                    self.probes = Some(cgroup.id());
                }
                Ok(())
            }
            Err(why) => {
                // What another agent has attached goes too.
                kernel.detach_probes().map_err(|e| e.to_string())?;
                self.probes = None;
                if is_idle { Ok(()) } else { Err(why) }
            }
        }
    }

    fn prober(&self, snapshot: &Snapshot, locator: &mut Locator) -> Result<Cgroup, String> {
        let is_there = self.kubelet.iter().find_map(|path| Cgroup::open(path).ok());
        let cgroup = is_there.ok_or_else(|| {
            let looked: Vec<String> = self.kubelet.iter().map(|path| path.display().to_string()).collect();
            format!("the kubelet's cgroup is not there: looked for {} (--kubelet-cgroup)", looked.join(", "))
        })?;
        let mount = lark_sys::cgroup::mount().map_err(|e| e.to_string())?;
        let pods = locator.cgroups(snapshot, &self.node);
        probes_of(cgroup.path(), &mount, pods.into_iter())?;
        Ok(cgroup)
    }

    /// Makes sure of one pod's hook, and ends what is older.
    fn guard(
        &mut self,
        snapshot: &Snapshot,
        locator: &mut Locator,
        workload: &Workload,
        here: &mut Here,
    ) -> GuardReport {
        let failed = |why: String| GuardReport { failed: Some(why), ..GuardReport::default() };
        let opened = locator.netns(workload).map_err(|state| state.why().to_owned());
        let (netns, inode) = match opened.and_then(|n| n.inode().map(|i| (n, i)).map_err(|e| e.to_string())) {
            Ok(opened) => opened,
            Err(why) => return failed(why),
        };
        if NetNs::current().is_ok_and(|own| own.inode().is_ok_and(|own| own == inode)) {
            return failed(
                "it shares the agent's network namespace, so it is on the host network".to_owned(),
            );
        }
        let Some(guarded) = self.guarded.get_mut(&workload.uid) else { return GuardReport::default() };
        let foreign = {
            let mut kernel = locked(&self.kernel);
            if !guarded.is_ours || !kernel.is_guarded(&workload.uid, inode) {
                if let Err(error) = kernel.guard(&workload.uid, netns.as_fd(), inode) {
                    return failed(error.to_string());
                }
                guarded.is_ours = true;
                guarded.swept_until = Instant::now() + SWEPT;
                let mtls = workload.told_mode(snapshot.policies());
                tracing::info!(pod = workload.full_name(), mtls, "takes no plaintext");
            }
            kernel.foreign_lookups(netns.as_fd()).map_or(0, |programs| programs.len())
        };
        // What could not be ended is tried for as long as it is there.
        let is_swept = Instant::now() < guarded.swept_until || guarded.stay > 0;
        // Before the sweep: what it does not end has a line that it must not cross.
        let second_line = if workload.mode.is_strict() {
            self.second_line.hold(&workload.uid, &netns, here)
        } else {
            self.second_line.release(&workload.uid);
            None
        };
        let older = if is_swept { self.sweep(snapshot, workload, &netns) } else { 0 };
        if let Some(guarded) = self.guarded.get_mut(&workload.uid) {
            guarded.stay = older;
        }
        GuardReport { failed: None, second_line, foreign, older }
    }

    /// Ends the open connections that strict would not have let happen; returns how many stay.
    fn sweep(&self, snapshot: &Snapshot, workload: &Workload, netns: &NetNs) -> usize {
        let (mut ended, mut stay, mut why) = (Vec::new(), 0, None);
        let looked = netns.within(|| {
            let is_passing = |found: &Established| {
                let ends = |end: SocketAddr| (end.ip(), end.port());
                let (own, peer) = (ends(found.local), ends(found.remote));
                let mut kernel = locked(&self.kernel);
                kernel.guards().is_passing(peer, own) || kernel.guards().is_passing(own, peer)
            };
            let older = older(snapshot, workload, CONNECTIONS_A_POD, is_passing)?;
            stay += usize::from(older.more);
            for found in older.connections {
                match connections::destroy(found.local, found.remote) {
                    Ok(_) => ended.push(found),
                    Err(error) => (stay, why) = (stay + 1, Some(error)),
                }
            }
            Ok::<(), std::io::Error>(())
        });
        let pod = workload.full_name();
        for found in ended.iter().take(NAMED) {
            tracing::info!(pod, own = %found.local, peer = %found.remote, "older than strict: ended");
        }
        if ended.len() > NAMED {
            tracing::info!(pod, more = ended.len() - NAMED, "older than strict: ended");
        }
        let error = why.map(|e| e.to_string()).or(match looked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        });
        if let Some(error) = error {
            tracing::error!(pod, stay, error, "connections older than strict could not be ended");
        }
        stay
    }
}

/// The open connections of the calling thread's namespace that are older than what closed their ports, at most so many of
/// those that may not stay.
pub(super) fn older(
    snapshot: &Snapshot,
    workload: &Workload,
    most: usize,
    may_stay: impl Fn(&Established) -> bool,
) -> std::io::Result<Found> {
    let listening = connections::listening()?;
    let taken = snapshot.policies().plaintext(workload);
    connections::open(most, |c| {
        is_older(snapshot, workload, &taken, c.local, c.remote, listening.contains(&c.local.port()))
            && !may_stay(c)
    })
}

/// What of pods' parts is written into a map of so many entries, and for how many pods that is less than they ask for:
/// these take no plaintext on any port. Those that ask for little are served first. Ports come before their addresses,
/// so that no address is open while a port of it is still to be closed.
fn fitting(mut pods: Vec<Vec<Entry>>, most: usize) -> (Vec<Entry>, usize) {
    let is_address = |(key, _): &Entry| key.port == 0;
    let addresses: usize = pods.iter().flatten().filter(|e| is_address(e)).count();
    let mut room = most.saturating_sub(addresses);
    pods.sort_by_key(Vec::len);
    let (mut last, mut all, mut closed) = (Vec::with_capacity(addresses), Vec::new(), 0);
    for pod in pods {
        let (mut own, ports): (Vec<Entry>, Vec<Entry>) = pod.into_iter().partition(is_address);
        if ports.len() <= room {
            room -= ports.len();
            all.extend(ports);
        } else {
            closed += 1;
            own.iter_mut().for_each(|(_, guard)| guard.action = Guard::REFUSE);
        }
        last.append(&mut own);
    }
    all.append(&mut last);
    (all, closed)
}

type Entry = (DestinationKey, Guard);

/// A pod's part of the map. An address that others claim too is nobody's, and closed for that.
fn entries(workload: &Workload, guarded: &Guarded, listeners: &[u16]) -> Vec<Entry> {
    let action = |mtls: Mtls| match mtls {
        Mtls::Strict => Guard::REFUSE,
        Mtls::Permissive => Guard::PASS,
    };
    let taken = &guarded.taken;
    let mut ports: BTreeMap<u16, u32> = taken.ports.iter().map(|(p, m)| (*p, action(*m))).collect();
    // Whatever an annotation says, nobody outside dials these.
    ports.extend(listeners.iter().map(|port| (*port, Guard::LISTENER)));
    ports.insert(0, action(taken.mtls));
    let entry = |ip: IpAddr, port: u16, action: u32| {
        let key = DestinationKey { address_be: Address::from(ip).words_be, port, padding: 0 };
        (key, Guard { pod: guarded.number, action })
    };
    let own: BTreeSet<IpAddr> = workload.identifying_addresses().collect();
    let mut all = Vec::new();
    for ip in workload.addresses.iter().map(IpAddr::to_canonical) {
        if own.contains(&ip) {
            all.extend(ports.iter().map(|(port, action)| entry(ip, *port, *action)));
        } else {
            all.push(entry(ip, 0, Guard::REFUSE));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(address: u32, port: u16, action: u32) -> Entry {
        (DestinationKey { address_be: [0, 0, 0, address], port, padding: 0 }, Guard { pod: address, action })
    }

    proptest! {
        /// However little room there is, a port that is to be closed is closed, and who asks for little has it.
        #[test]
        fn what_does_not_fit_is_closed_and_never_open(
            pods in prop::collection::vec((any::<bool>(), prop::collection::btree_map(1_u16..100, any::<bool>(), 0..20)), 1..20),
            most in 0_usize..200,
        ) {
            let action = |open: bool| if open { Guard::PASS } else { Guard::REFUSE };
            let part = |(at, (open, ports)): (usize, &(bool, BTreeMap<u16, bool>))| {
                let address = u32::try_from(at).unwrap();
                let ports = ports.iter().map(|(port, open)| entry(address, *port, action(*open)));
                ports.chain([entry(address, 0, action(*open))]).collect::<Vec<_>>()
            };
            let parts: Vec<Vec<Entry>> = pods.iter().enumerate().map(part).collect();
            let (all, closed) = fitting(parts.clone(), most);
            prop_assert!(all.len() <= most.max(pods.len()));
            let written: HashMap<DestinationKey, Guard> = all.iter().copied().collect();
            let mut whole = 0;
            for part in &parts {
                let is_whole = part.iter().all(|(key, guard)| written.get(key) == Some(guard));
                let (address, _) = part.last().unwrap();
                prop_assert!(is_whole || written[address].action == Guard::REFUSE);
                whole += usize::from(is_whole);
            }
            prop_assert!(whole + closed >= parts.len());
            let smallest = parts.iter().map(Vec::len).min().unwrap();
            if most >= pods.len() + smallest - 1 {
                prop_assert!(closed < parts.len(), "nobody has what fits");
            }
            // Written in this order, no address is open before its ports are closed.
            let first = all.iter().position(|(key, _)| key.port == 0).unwrap();
            prop_assert!(all[first..].iter().all(|(key, _)| key.port == 0));
        }
    }
}
