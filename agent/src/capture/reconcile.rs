//! The reconciler: compares what discovery wants for this node with what is captured, and acts. It runs
//! on the control runtime, is the only writer of [`Pods`] and the only user of the kernel's links.
//!
//! Order of a capture: certificate, listeners, listeners taken by the workers, hooks, entry. Order of a
//! release: entry inactive (new connects are left alone), hooks when the last connection is over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lark_abi::PodEntry;
use lark_bpf::{Kernel, PinnedPod};
use lark_core::capture::PodState;
use lark_core::explain::Unwatched;
use lark_core::identity::SpiffeId;
use lark_core::place::Looks;
use lark_core::snapshot::{Snapshot, Workload};

use super::destinations;
use super::direct::{Direct, Doubted};
use super::hold::Holds;
use super::listeners::{self, PodListener};
use super::locate::Locator;
use super::pod::{Pod, Pods};
use super::second_line::Wires;
use super::strict::{Strict, StrictReport};

/// A pass captures for no longer than this, and releases for no longer: discovery, certificates and answers have their
/// turn before the next pass, which follows at once. A node has hundreds of pods when an agent starts.
const BUDGET: Duration = Duration::from_millis(100);

/// Hands a pod's listeners to the workers, and takes them back.
pub trait ToWorker: Send {
    /// A worker is to accept from this listener for that pod.
    fn listen(&self, pod: &Arc<Pod>, listener: PodListener);
    /// All workers are to close that pod's listeners.
    fn unlisten(&self, uid: &Arc<str>);
}

/// Says whether an identity has a valid certificate, and if not, why.
pub type Certificate = Box<dyn Fn(&SpiffeId) -> Result<(), String> + Send>;

/// What the reconciler asks others.
pub struct Inputs {
    /// This node.
    pub node: Arc<str>,
    /// Number of workers.
    pub workers: usize,
    /// Where the kubelet's cgroup may be: its sockets are probes.
    pub kubelet: Vec<PathBuf>,
    /// Whether an identity has a valid certificate, and if not, why.
    pub certificate: Certificate,
    /// The workers.
    pub to_worker: Box<dyn ToWorker>,
    /// Where workloads are.
    pub locator: Locator,
    /// Told of each pod that began after the agent, how long it ran before it was captured.
    pub late: Box<dyn Fn(Duration) + Send>,
    /// Told each time that changes of pods are not told by the kernel, and why.
    pub unwatched: Box<dyn Fn(Unwatched) + Send>,
}

/// One workload of this node, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodReport {
    /// Its uid.
    pub uid: Arc<str>,
    /// `namespace/name`.
    pub name: String,
    /// How far it is.
    pub state: PodState,
    /// Id of its cgroup, if it was found.
    pub cgroup_id: Option<u64>,
}

struct Captured {
    pod: Arc<Pod>,
    entry: PodEntry,
    releasing: bool,
}

/// The reconciler's state.
pub struct Capturer {
    inputs: Inputs,
    kernel: Arc<Mutex<Kernel>>,
    pods: Arc<Pods>,
    captured: BTreeMap<Arc<str>, Captured>,
    holds: Holds,
    strict: Strict,
    direct: Direct,
    is_whole: bool,
    /// Whose capture had no time left in the last pass: the next one begins with it.
    resume: Option<Arc<str>>,
    reports: Arc<Mutex<Vec<PodReport>>>,
    generation: u64,
    /// What the kernel's map of destinations was made from, if all of it fitted.
    synced: Option<Arc<Snapshot>>,
    next_id: u32,
    started: Instant,
    /// When pods are looked for because something of them changed.
    looks: Looks,
    /// Pods of this node that are to be captured, as of the last pass.
    wanted: BTreeSet<Arc<str>>,
    /// Why the kernel does not tell of all of them.
    unwatched: Option<Unwatched>,
}

impl std::fmt::Debug for Capturer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capturer").field("captured", &self.captured.len()).finish_non_exhaustive()
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Capturer {
    /// A reconciler that knows only what the kernel has pinned.
    pub fn new(inputs: Inputs, kernel: Arc<Mutex<Kernel>>, pods: Arc<Pods>) -> Self {
        // Numbers differ from those of an agent before, whose flows may still be around.
        let next_id = (std::process::id() << 10 | 1).max(largest_id(&locked(&kernel)).wrapping_add(1));
        let strict = Strict::new(inputs.node.clone(), inputs.kubelet.clone(), kernel.clone());
        let direct = Direct::new(kernel.clone());
        let holds = Holds::new(kernel.clone());
        Self {
            inputs,
            kernel,
            pods,
            captured: BTreeMap::new(),
            holds,
            strict,
            direct,
            is_whole: true,
            resume: None,
            reports: Arc::default(),
            generation: 0,
            synced: None,
            next_id,
            started: Instant::now(),
            looks: Looks::default(),
            wanted: BTreeSet::new(),
            unwatched: None,
        }
    }

    /// What the last pass found, for people.
    pub fn reports(&self) -> Arc<Mutex<Vec<PodReport>>> {
        self.reports.clone()
    }

    /// What the last pass found of strict pods, for people.
    pub fn strict(&self) -> Arc<Mutex<StrictReport>> {
        self.strict.report()
    }

    /// Whose wires the host's interfaces are, of strict pods.
    pub fn wires(&self) -> Wires {
        self.strict.wires()
    }

    /// Who did not accept what was left to them.
    pub fn doubted(&self) -> Doubted {
        self.direct.doubted()
    }

    /// Identities that this node needs certificates for.
    pub fn identities(&self, snapshot: &Snapshot) -> BTreeSet<SpiffeId> {
        snapshot
            .workloads_on(&self.inputs.node)
            .filter(|w| w.capture.is_wanted())
            .map(|w| w.identity.clone())
            .chain(self.captured.values().filter_map(|c| {
                // A pod that is being released still has connections.
                snapshot.workload(&c.pod.uid).map(|w| w.identity.clone())
            }))
            .collect()
    }

    /// Once an earlier agent has ended: what it captured and this one has not must not lead anywhere until
    /// it is captured anew, because its listeners are gone ([`PodEntry::ORPHANED`]). Pods that nobody wants any
    /// more are released.
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        let mut kernel = locked(&self.kernel);
        let wanted: BTreeMap<String, &Arc<str>> = snapshot
            .workloads_on(&self.inputs.node)
            .filter(|w| w.capture.is_wanted())
            .map(|w| (lark_bpf::file_name(&w.uid), &w.uid))
            .collect();
        let own: BTreeSet<String> = self.captured.keys().map(|uid| lark_bpf::file_name(uid)).collect();
        // Whose hooks see their sockets close still.
        let mut hooked: BTreeSet<IpAddr> =
            self.captured.values().flat_map(|c| c.pod.addresses.iter().map(IpAddr::to_canonical)).collect();
        for pinned in kernel.pinned().into_iter().filter(|p| !own.contains(&p.name)) {
            let removed = match wanted.get(&pinned.name) {
                None => kernel.forget_pinned(&pinned.name),
                // Whether it is guarded still is another matter.
                Some(_) if pinned.is_severed() => kernel.release_pinned(&pinned.name),
                Some(uid) => {
                    hooked.extend(Self::orphan(&mut kernel, &pinned));
                    self.holds.adopt(uid);
                    continue;
                }
            };
            if let Err(error) = removed {
                tracing::error!(pod = pinned.name, %error, "what an earlier agent left cannot be removed");
            }
        }
        kernel.guards().forget_direct(|source| !hooked.contains(&source));
    }

    /// Lets a pod's entry lead nowhere: what it dials in the mesh does as `agentDown` says until it is captured
    /// anew, and is refused if it is strict. Returns the pod's own addresses.
    fn orphan(kernel: &mut Kernel, pinned: &PinnedPod) -> [IpAddr; 2] {
        let cgroup = pinned.links.first().and_then(|l| l.cgroup_id).unwrap_or_default();
        let before = kernel.entry(cgroup).unwrap_or_default();
        let was_captured = before.flags & (PodEntry::ACTIVE | PodEntry::ORPHANED) != 0;
        let flags = before.flags & PodEntry::STRICT | if was_captured { PodEntry::ORPHANED } else { 0 };
        let entry = PodEntry { flags, own_v4: before.own_v4, own_v6: before.own_v6, ..PodEntry::default() };
        if let Err(error) = kernel.update(cgroup, entry) {
            tracing::error!(pod = pinned.name, %error, "an earlier agent's entry cannot be reset");
        }
        [before.own_v4.into(), before.own_v6.into()]
    }

    /// Takes back what another agent has taken over and does not keep: programs, entries and with them the
    /// connects of every captured pod.
    pub fn retake(&mut self) {
        for captured in self.captured.values() {
            let Captured { pod, entry, releasing } = captured;
            let entry = PodEntry { flags: if *releasing { 0 } else { entry.flags }, ..*entry };
            let id = pod.cgroup.id();
            if let Err(error) = locked(&self.kernel).capture(&pod.uid, pod.cgroup.as_fd(), id, entry) {
                tracing::error!(pod = pod.name, %error, "cannot be taken back");
            }
        }
        // Whatever the other has made of the destinations is written anew.
        self.generation = 0;
        self.synced = None;
        self.holds.retake();
        self.strict.retake();
        self.direct.retake();
    }

    /// One pass. Returns whether everything that is wanted is captured or has failed for a reason that
    /// waiting will not mend.
    pub fn reconcile(&mut self, snapshot: &Arc<Snapshot>) -> bool {
        let began = self.started.elapsed();
        let wanted: BTreeMap<Arc<str>, Arc<Workload>> = snapshot
            .workloads_on(&self.inputs.node)
            .filter(|w| w.capture.is_wanted())
            .map(|w| (w.uid.clone(), w.clone()))
            .collect();
        self.inputs.locator.look_anew(|uid| wanted.contains_key(uid));
        // First of all: what the kernel decides by itself must not be decided by what was so before.
        let inputs = &mut self.inputs;
        self.direct.take_back(
            snapshot,
            present(&self.captured).filter(|pod| {
                wanted.get(&pod.uid).is_some_and(|w| w.addresses == pod.addresses)
                    && inputs.locator.is_there(pod)
            }),
        );
        if snapshot.generation != self.generation {
            self.sync_destinations(snapshot);
        }
        let is_released = self.release_unwanted(&wanted);
        // Before anything is captured: what is strict takes nothing while it is not.
        let captured = &self.captured;
        self.strict.pass(snapshot, &mut self.inputs.locator, |uid| {
            let entry = captured.get(uid).map(|c| c.entry).unwrap_or_default();
            [entry.device_v4, entry.device_v6].into_iter().filter(|port| *port != 0).collect()
        });
        let mut reports = Vec::new();
        let mut settled = true;
        let node = self.inputs.node.clone();
        let mut all: Vec<&Arc<Workload>> = snapshot.workloads_on(&node).collect();
        let first = self.resume.take().and_then(|uid| all.iter().position(|w| w.uid == uid)).unwrap_or(0);
        all.rotate_left(first);
        let until = Instant::now() + BUDGET;
        for workload in all {
            let state = if wanted.contains_key(&workload.uid) {
                if self.captured.contains_key(&workload.uid) || Instant::now() < until {
                    self.ensure(workload)
                } else {
                    self.resume.get_or_insert_with(|| workload.uid.clone());
                    self.awaits_its_turn(workload)
                }
            } else if self.captured.contains_key(&workload.uid) {
                PodState::Releasing
            } else {
                PodState::NotCaptured { why: workload.why_capture() }
            };
            // What waits for its kubelet may do so for as long as an image or a volume is missing.
            settled &= !matches!(state, PodState::Pending { .. }) || self.is_certified(workload);
            let cgroup_id = self.captured.get(&workload.uid).map(|c| c.pod.cgroup.id());
            reports.push(PodReport {
                uid: workload.uid.clone(),
                name: workload.full_name(),
                state,
                cgroup_id,
            });
        }
        reports.rotate_right(first);
        settled &= self.resume.is_none();
        let is_awaited = |r: &&PodReport| r.state.is_missing();
        let awaited = reports.iter().filter(is_awaited).map(|r| r.uid.clone()).collect();
        *locked(&self.reports) = reports;
        let is_written = self.direct.write(snapshot, present(&self.captured));
        self.is_whole = is_written && is_released && self.resume.is_none();
        self.wanted = wanted.into_keys().collect();
        self.follow(began, awaited);
        settled
    }

    /// Has the kernel tell what happens to the wanted pods from now on.
    fn follow(&mut self, began: Duration, awaited: BTreeSet<Arc<str>>) {
        let follow = self.inputs.locator.follow(self.wanted.iter());
        let is_missed = !follow.new.is_disjoint(&awaited);
        self.looks.looked(began, self.started.elapsed(), awaited);
        if is_missed {
            self.looks.told(self.started.elapsed());
        }
        let cause = follow.failed.as_ref().map(|(cause, _)| *cause);
        if let Some((cause, error)) = follow.failed {
            (self.inputs.unwatched)(cause);
            if self.unwatched != Some(cause) {
                tracing::warn!(%cause, error, "pods are found by looking twice a second, not as soon as they are there");
            }
        } else if self.unwatched.is_some() {
            tracing::info!("changes of all pods are told by the kernel again");
        }
        self.unwatched = cause;
    }

    /// What tells, by being readable, that [`Capturer::heed`] has something to take in.
    pub fn told_by(&self) -> Option<BorrowedFd<'_>> {
        self.inputs.locator.told_by()
    }

    /// Takes in what the kernel tells of pods.
    pub fn heed(&mut self) {
        let heard = self.inputs.locator.heard();
        if heard.lost {
            tracing::debug!("the kernel told less than happened to cgroups");
            (self.inputs.unwatched)(Unwatched::Overflow);
        }
        if heard.any || heard.pods.iter().any(|uid| self.wanted.contains(uid.as_str())) {
            self.looks.told(self.started.elapsed());
        }
    }

    /// How long until a pass is due because of what was told.
    pub fn until_look(&self) -> Option<Duration> {
        Some(self.looks.due()?.saturating_sub(self.started.elapsed()))
    }

    /// Whether the last pass did all that there is to do; if not, the next one is due at once.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    fn is_certified(&self, workload: &Workload) -> bool {
        (self.inputs.certificate)(&workload.identity).is_ok()
    }

    fn sync_destinations(&mut self, snapshot: &Arc<Snapshot>) {
        let before = self.synced.take();
        match destinations::sync(&mut locked(&self.kernel), before.as_deref(), snapshot) {
            Ok(synced) => {
                self.generation = snapshot.generation;
                // What did not fit is not in the map, so that the next time all of it is compared.
                self.synced = (synced.left_out == 0).then(|| snapshot.clone());
                if synced.left_out > 0 {
                    tracing::error!(
                        left_out = synced.left_out,
                        "the kernel's map of destinations is full: connects to those left out stay plaintext; start the agent with a larger --destinations-max"
                    );
                }
                tracing::debug!(
                    written = synced.written,
                    removed = synced.removed,
                    "mesh destinations changed"
                );
            }
            Err(error) => tracing::error!(%error, "mesh destinations cannot be written"),
        }
    }

    /// What is said of a pod that is to be captured and was not looked at.
    fn awaits_its_turn(&self, workload: &Workload) -> PodState {
        let reports = locked(&self.reports);
        let before = reports.iter().find(|r| r.uid == workload.uid).map(|r| r.state.clone());
        let why = || "other pods of this node are captured before it".to_owned();
        before.filter(PodState::is_missing).unwrap_or_else(|| PodState::Pending { why: why() })
    }

    fn ensure(&mut self, workload: &Workload) -> PodState {
        if let Some(captured) = self.captured.get_mut(&workload.uid) {
            let is_there = captured.pod.cgroup.is_alive() && self.inputs.locator.is_there(&captured.pod);
            if is_there && captured.pod.addresses == workload.addresses {
                let entry = PodEntry { flags: flags(workload), ..captured.entry };
                if captured.releasing || entry != captured.entry {
                    let is_back = std::mem::take(&mut captured.releasing);
                    captured.entry = entry;
                    let id = captured.pod.cgroup.id();
                    if let Err(error) = locked(&self.kernel).update(id, entry) {
                        captured.releasing = true;
                        return PodState::Failed { why: error.to_string() };
                    }
                    if is_back {
                        tracing::info!(
                            pod = captured.pod.name,
                            "captured again, before its release was over"
                        );
                    }
                }
                return PodState::Captured;
            }
            // The hooks of a strict one stay, and lead to nobody until it is captured anew.
            self.forget(&workload.uid, workload.mode.is_strict());
        }
        match self.capture(workload) {
            Ok(()) => PodState::Captured,
            Err(state) => {
                // Said once, when it changes, not at every pass.
                let before =
                    locked(&self.reports).iter().find(|r| r.uid == workload.uid).map(|r| r.state.clone());
                if before.as_ref() != Some(&state) {
                    let (pod, label, why) = (workload.full_name(), state.label(), state.why());
                    match state {
                        // Each pod waits for something at its beginning.
                        PodState::Pending { .. } | PodState::Waiting { .. } => {
                            tracing::info!(pod, state = label, why, "not captured yet")
                        }
                        _ => tracing::warn!(pod, state = label, why, "not captured"),
                    }
                }
                state
            }
        }
    }

    fn capture(&mut self, workload: &Workload) -> Result<(), PodState> {
        let failed = |why: String| PodState::Failed { why };
        let cgroup = self.inputs.locator.cgroup(workload)?;
        self.holds.hold(workload, &cgroup).map_err(failed)?;
        (self.inputs.certificate)(&workload.identity).map_err(|why| PodState::Pending { why })?;
        let netns = self.inputs.locator.netns(workload)?;
        let age = self.inputs.locator.age(&cgroup);
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let pod = Arc::new(Pod::new(
            workload.uid.clone(),
            id,
            workload.full_name(),
            netns,
            cgroup,
            workload.addresses.clone(),
        ));
        let (listeners, entry) =
            listeners::open(&pod, self.inputs.workers).map_err(|e| failed(e.to_string()))?;
        let entry = PodEntry { flags: flags(workload), ..entry };
        pod.set_listeners(listeners.iter().filter_map(PodListener::port).collect());
        for listener in listeners {
            self.inputs.to_worker.listen(&pod, listener);
        }
        let captured = locked(&self.kernel).capture(&pod.uid, pod.cgroup.as_fd(), pod.cgroup.id(), entry);
        if let Err(error) = captured {
            self.inputs.to_worker.unlisten(&pod.uid);
            return Err(failed(error.to_string()));
        }
        self.holds.captured(&pod.uid);
        pod.set_hooks_live(true);
        self.pods.insert(pod.clone());
        tracing::info!(pod = pod.name, identity = %workload.identity, cgroup = pod.cgroup.id(), "captured");
        // One that was there before the agent, or before its label, is not late by its age.
        let was_unwanted = || {
            let reports = locked(&self.reports);
            let before = reports.iter().find(|r| r.uid == workload.uid);
            before.is_some_and(|r| matches!(r.state, PodState::NotCaptured { .. }))
        };
        if let Some(age) = age.filter(|age| *age <= self.started.elapsed() && !was_unwanted()) {
            (self.inputs.late)(age);
        }
        self.captured.insert(pod.uid.clone(), Captured { pod, entry, releasing: false });
        Ok(())
    }

    /// Lets go of pods that are not wanted any more. Returns whether there was time for all of them.
    fn release_unwanted(&mut self, wanted: &BTreeMap<Arc<str>, Arc<Workload>>) -> bool {
        let until = Instant::now() + BUDGET;
        let unwanted: Vec<Arc<str>> =
            self.captured.keys().filter(|uid| !wanted.contains_key(*uid)).cloned().collect();
        self.holds.let_go_of(|uid| !wanted.contains_key(uid));
        for uid in unwanted {
            let Some(captured) = self.captured.get_mut(&uid) else { continue };
            if !captured.releasing && captured.pod.cgroup.is_alive() {
                captured.releasing = true;
                let inactive = PodEntry { flags: 0, ..captured.entry };
                if let Err(error) = locked(&self.kernel).update(captured.pod.cgroup.id(), inactive) {
                    tracing::error!(pod = captured.pod.name, %error, "release failed; it is tried again");
                    captured.releasing = false;
                    continue;
                }
                tracing::info!(pod = captured.pod.name, open = captured.pod.connections(), "released");
                continue;
            }
            // The hooks stay until the last connection is over, since they tell its names.
            if captured.pod.connections() == 0 || !captured.pod.cgroup.is_alive() {
                self.forget(&uid, false);
                if Instant::now() >= until {
                    return false;
                }
            }
        }
        true
    }

    /// Takes a pod out of everything, but perhaps its hooks: they stay unless its cgroup is known to be gone.
    fn forget(&mut self, uid: &Arc<str>, keeps_hooks: bool) {
        let Some(captured) = self.captured.remove(uid) else { return };
        captured.pod.set_hooks_live(false);
        self.pods.remove(uid);
        let kernel = &mut *locked(&self.kernel);
        let is_held = keeps_hooks && !captured.pod.cgroup.is_gone();
        let told = if is_held {
            let entry =
                PodEntry { flags: PodEntry::STRICT, ..listeners::own_addresses(&captured.pod.addresses) };
            kernel.update(captured.pod.cgroup.id(), entry).map_err(|error| error.to_string())
        } else {
            kernel.release(uid).map_err(|error| error.to_string())
        };
        if let Err(error) = &told {
            tracing::error!(pod = captured.pod.name, error, "what the kernel has of it cannot be changed");
        }
        if is_held || told.is_err() {
            self.holds.keep(uid);
        }
        if !is_held {
            let gone = |source| captured.pod.addresses.iter().any(|own| own.to_canonical() == source);
            kernel.guards().forget_direct(gone);
        }
        self.inputs.to_worker.unlisten(uid);
    }
}

/// The largest number that a pod has in the kernel.
fn largest_id(kernel: &Kernel) -> u32 {
    let cgroups = kernel.pinned().into_iter().filter_map(|pinned| pinned.links.first()?.cgroup_id);
    cgroups.filter_map(|cgroup| Some(kernel.entry(cgroup).ok()?.pod_id)).max().unwrap_or(0)
}

/// The captured pods that are there and not about to be released.
fn present(captured: &BTreeMap<Arc<str>, Captured>) -> impl Iterator<Item = &Arc<Pod>> {
    captured.values().filter(|c| !c.releasing && c.pod.cgroup.is_alive()).map(|c| &c.pod)
}

/// What the hooks of a captured workload are told of it.
fn flags(workload: &Workload) -> u32 {
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    PodEntry::ACTIVE
        | flag(workload.host_network, PodEntry::HOST_NETWORK)
        | flag(workload.mode.is_strict(), PodEntry::STRICT)
}
