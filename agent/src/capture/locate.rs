//! Where a workload of this node is: said by discovery, or found by its pod's UID in the cgroup tree and
//! verified by the processes in it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lark_core::capture::PodState;
use lark_core::explain::Unwatched;
use lark_core::place::{self, Candidate, Directory, NamespaceError};
use lark_core::snapshot::{Place, Snapshot, Workload};
use lark_sys::cgroup::{Cgroup, CgroupError};
use lark_sys::netns::NetNs;
use lark_sys::pods::{self, Meaning, PodTree, PodWatch, WatchError};

use super::pod::Pod;

/// How workloads are found.
#[derive(Debug)]
pub enum Locator {
    /// Discovery says so.
    Told,
    /// As pods of this node.
    Pods(Box<NodePods>),
}

impl Locator {
    /// A workload's cgroup.
    ///
    /// # Errors
    /// As the state of its capture, with the reason.
    pub(super) fn cgroup(&mut self, workload: &Workload) -> Result<Cgroup, PodState> {
        match self {
            Self::Told => Cgroup::open(&told(workload)?.cgroup).map_err(|e| failed(&e)),
            Self::Pods(pods) => pods.cgroup(workload),
        }
    }

    /// A workload's network namespace.
    ///
    /// # Errors
    /// As the state of its capture, with the reason.
    pub(super) fn netns(&mut self, workload: &Workload) -> Result<NetNs, PodState> {
        match self {
            Self::Told => NetNs::open(&told(workload)?.netns).map_err(|e| failed(&e)),
            Self::Pods(pods) => pods.netns(workload),
        }
    }

    /// How long the oldest process of a pod has been running.
    pub(super) fn age(&self, cgroup: &Cgroup) -> Option<Duration> {
        match self {
            Self::Told => None,
            Self::Pods(_) => {
                let all = pods::processes(cgroup.path(), place::is_runtimes_own);
                all.into_iter().filter_map(|pid| pods::age(pid).ok()).max()
            }
        }
    }

    /// Whether a captured pod is still where it was: a sandbox that was made anew has another namespace in
    /// the same cgroup.
    pub(super) fn is_there(&mut self, pod: &Pod) -> bool {
        match self {
            Self::Told => true,
            Self::Pods(pods) => pods.is_there(pod),
        }
    }

    /// Where the workloads of a node are, or what is above all of them.
    pub(super) fn cgroups(&mut self, snapshot: &Snapshot, node: &str) -> Vec<(String, PathBuf)> {
        match self {
            Self::Told => {
                let path =
                    |w: &Workload| Some(Cgroup::open(&w.place.as_ref()?.cgroup).ok()?.path().to_owned());
                snapshot.workloads_on(node).filter_map(|w| Some((w.full_name(), path(w)?))).collect()
            }
            Self::Pods(pods) => {
                let parents = pods.tree.parents();
                parents.iter().map(|path| ("of this node".to_owned(), path.clone())).collect()
            }
        }
    }

    /// Begins a pass: what was found may have changed, and other pods are of no interest any more.
    pub(super) fn look_anew(&mut self, of: impl Fn(&str) -> bool) {
        if let Self::Pods(pods) = self {
            pods.tree.look_anew();
            pods.found.retain(|uid, _| of(uid));
            if let Some(watch) = &mut pods.watch {
                watch.keep(of);
            }
        }
    }

    /// Has the kernel tell of these pods from now on.
    pub(super) fn follow<'a>(&mut self, pods: impl Iterator<Item = &'a Arc<str>>) -> Follow {
        match self {
            Self::Told => Follow::default(),
            Self::Pods(node) => node.follow(pods),
        }
    }

    /// What the kernel told since it was asked last.
    pub(super) fn heard(&mut self) -> Heard {
        match self {
            Self::Told => Heard::default(),
            Self::Pods(pods) => pods.heard(),
        }
    }

    /// Readable when the kernel tells something; nothing while it tells nothing.
    pub(super) fn told_by(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Told => None,
            Self::Pods(pods) => pods.watch.as_ref().map(AsFd::as_fd),
        }
    }
}

/// What came of [`Locator::follow`].
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// Those of whom something is followed that was not before: what changed meanwhile was not told.
    pub(super) new: BTreeSet<Arc<str>>,
    /// Why not everything is followed.
    pub(super) failed: Option<(Unwatched, String)>,
}

/// What the kernel told.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The UIDs of pods of whom something changed.
    pub(super) pods: BTreeSet<String>,
    /// It may be any pod.
    pub(super) any: bool,
    /// Some of it was lost.
    pub(super) lost: bool,
}

fn failed(error: &dyn std::error::Error) -> PodState {
    PodState::Failed { why: error.to_string() }
}

fn waiting(why: impl Into<String>) -> PodState {
    PodState::Waiting { why: why.into() }
}

fn pending(why: impl Into<String>) -> PodState {
    PodState::Pending { why: why.into() }
}

fn told(workload: &Workload) -> Result<&Place, PodState> {
    workload.place.as_deref().ok_or_else(|| PodState::Failed {
        why: "discovery gives no cgroup and network namespace for it".to_owned(),
    })
}

/// The pods of this node.
#[derive(Debug)]
pub struct NodePods {
    tree: PodTree,
    /// The node's own network namespace.
    host: u64,
    /// Tells what changes; nothing as long as there is no instance of inotify to be had.
    watch: Option<PodWatch>,
    /// Of each pod that was found a process in its namespace: one look at it tells that nothing has changed.
    found: HashMap<Arc<str>, Found>,
}

/// Where a pod was found.
#[derive(Debug)]
struct Found {
    pid: u32,
    inode: u64,
    /// What was found to be the namespace's.
    addresses: Box<[IpAddr]>,
}

fn names(path: &str) -> Option<Meaning> {
    match place::directory(path)? {
        Directory::Pods => Some(Meaning::Pods),
        Directory::Pod { uid, .. } => Some(Meaning::Pod(uid)),
    }
}

impl NodePods {
    /// The pods of the node whose network this process is on.
    ///
    /// # Errors
    /// When there is no cgroup2 or no /proc.
    pub fn open() -> Result<Self, CgroupError> {
        let tree = PodTree::open(names)?;
        let path = Path::new("/proc/self/ns/net").to_owned();
        let own = NetNs::current().map_err(std::io::Error::other).and_then(|n| n.inode());
        let host = own.map_err(|source| CgroupError::Proc { path, source })?;
        // It is tried again with each pass, and said then.
        let watch = tree.watch().ok();
        Ok(Self { tree, host, watch, found: HashMap::new() })
    }

    fn follow<'a>(&mut self, pods: impl Iterator<Item = &'a Arc<str>>) -> Follow {
        let mut follow = Follow::default();
        let mut failed = |error: WatchError| {
            let cause = match &error {
                WatchError::Exhausted(_) => Unwatched::Exhausted,
                WatchError::Failed(_) => Unwatched::Refused,
            };
            follow.failed = Some((cause, error.to_string()));
        };
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => match self.tree.watch() {
                Ok(watch) => none.insert(watch),
                Err(error) => {
                    failed(error);
                    return follow;
                }
            },
        };
        let is_new = watch.above(self.tree.parents()).unwrap_or_else(|error| {
            failed(error);
            false
        });
        for uid in pods {
            if watch.is_followed(uid) {
                continue;
            }
            let is_followed = match self.tree.find(uid) {
                Some(path) => watch.follow(uid, &path).unwrap_or_else(|error| {
                    failed(error);
                    false
                }),
                // Its directory may have come before its parent was watched.
                None => is_new,
            };
            if is_followed {
                follow.new.insert(uid.clone());
            }
        }
        follow
    }

    fn heard(&mut self) -> Heard {
        let Some(watch) = &mut self.watch else { return Heard::default() };
        let news = watch.news();
        let any = news.lost || !news.parents.is_empty();
        if news.lost {
            self.tree.search_anew();
        }
        self.tree.add(news.parents);
        Heard { pods: news.pods, any, lost: news.lost }
    }

    fn cgroup(&mut self, workload: &Workload) -> Result<Cgroup, PodState> {
        let path = self.tree.find(&workload.uid);
        // Whose address is told has a sandbox: its cgroup should be there.
        let state = if workload.addresses.is_empty() { waiting } else { pending };
        let path =
            path.ok_or_else(|| state("the kubelet has made no cgroup (v2) for it on this node yet"))?;
        Cgroup::open(&path).map_err(|e| failed(&e))
    }

    fn netns(&mut self, workload: &Workload) -> Result<NetNs, PodState> {
        if let Some(found) = self.found.get(&workload.uid)
            && found.addresses == workload.addresses
            && let Ok(netns) = NetNs::open(Path::new(&format!("/proc/{}/ns/net", found.pid)))
            // The process may have ended and its number be another's.
            && netns.inode().is_ok_and(|inode| inode == found.inode)
        {
            return Ok(netns);
        }
        let cgroup = self.cgroup(workload)?;
        let mut found = pods::namespaces(cgroup.path(), place::is_runtimes_own, &workload.addresses);
        let candidates: Vec<Candidate> =
            found.iter().map(|n| Candidate { inode: n.inode, addresses: n.addresses.clone() }).collect();
        let inode = place::namespace(&candidates, self.host, workload.host_network, &workload.addresses)
            .map_err(|error| match error {
                NamespaceError::NoProcess => waiting(error.to_string()),
                NamespaceError::NotInSandbox | NamespaceError::NoAddress => pending(error.to_string()),
                NamespaceError::Foreign { .. }
                | NamespaceError::Ambiguous { .. }
                | NamespaceError::Unread { .. }
                | NamespaceError::NotOnHost => failed(&error),
            })?;
        let chosen = found.iter().position(|n| n.inode == inode).map(|at| found.swap_remove(at));
        let chosen = chosen.ok_or_else(|| failed(&NamespaceError::NoProcess))?;
        let addresses = workload.addresses.clone();
        self.found.insert(workload.uid.clone(), Found { pid: chosen.pid, inode, addresses });
        Ok(chosen.netns)
    }

    fn is_there(&mut self, pod: &Pod) -> bool {
        let Ok(inode) = pod.netns.inode() else { return false };
        let known = self.found.get(&pod.uid).map(|found| found.pid);
        if known.and_then(pods::netns_of) == Some(inode) {
            return true;
        }
        let found = pods::namespaces(pod.cgroup.path(), place::is_runtimes_own, &[]);
        if let Some(same) = found.iter().find(|n| n.inode == inode) {
            let addresses = pod.addresses.clone();
            self.found.insert(pod.uid.clone(), Found { pid: same.pid, inode, addresses });
            return true;
        }
        // Between two sandboxes there is no process; what was is kept until it is known to be another.
        found.is_empty()
    }
}
