//! Pods of this node as the kernel has them: their cgroups, the processes in these, and the processes'
//! network namespaces. What a directory's name means is the caller's knowledge.

mod watch;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cgroup::{self, CgroupError};
use crate::links;
use crate::netns::{NetNs, NetNsError};
pub use watch::{News, PodWatch, WatchError};

/// What a directory's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Pods' directories are, or come to be, below it.
    Pods,
    /// The pod of that UID.
    Pod(String),
}

/// Reads a path below the tree's root.
pub type Names = fn(&str) -> Option<Meaning>;

/// Directories looked at in one search, and how deep: what is beside pods may be large.
const SEARCH: usize = 16_384;
const DEPTH: usize = 8;
/// Directories looked at below one pod.
const BELOW: usize = 1024;
/// Processes of one pod whose namespaces are looked at.
const PROCESSES: usize = 256;
/// The tree is searched for parents of pods at most this often.
const AGAIN: Duration = Duration::from_secs(1);

/// Where pods' directories are found.
#[derive(Debug)]
pub struct PodTree {
    root: PathBuf,
    names: Names,
    /// Those below which pods are.
    parents: BTreeSet<PathBuf>,
    searched: Option<Instant>,
    /// The pods in them, as they were when one was looked for since [`PodTree::look_anew`].
    pods: Option<HashMap<String, PathBuf>>,
}

impl PodTree {
    /// The tree of cgroup v2, pure or beside v1.
    ///
    /// # Errors
    /// When no cgroup2 is mounted.
    pub fn open(names: Names) -> Result<Self, CgroupError> {
        Ok(Self::at(cgroup::mount()?, names))
    }

    /// A tree at another place.
    pub fn at(root: PathBuf, names: Names) -> Self {
        Self { root, names, parents: BTreeSet::new(), searched: None, pods: None }
    }

    /// Watches nothing yet of this tree.
    ///
    /// # Errors
    /// When there is no instance of inotify to be had.
    pub fn watch(&self) -> Result<PodWatch, WatchError> {
        PodWatch::new(self.root.clone(), self.names)
    }

    /// What was found may have changed: the next one who is looked for is looked for in the tree.
    pub fn look_anew(&mut self) {
        self.pods = None;
    }

    /// Below these pods are, or come to be, too.
    pub fn add(&mut self, parents: BTreeSet<PathBuf>) {
        self.parents.extend(parents);
        self.pods = None;
    }

    /// Anything may have changed: the next one who is not found is searched for at once.
    pub fn search_anew(&mut self) {
        (self.pods, self.searched) = (None, None);
    }

    /// The directory of a pod: by one look into each parent of pods that is known, for all who are looked for; if it
    /// is in none, the tree is searched for further parents, at most once a second.
    pub fn find(&mut self, uid: &str) -> Option<PathBuf> {
        if let Some(found) = self.look(uid) {
            return Some(found);
        }
        if self.searched.is_some_and(|at| at.elapsed() < AGAIN) {
            return None;
        }
        self.searched = Some(Instant::now());
        self.search();
        self.look(uid)
    }

    /// The directories below which pods are.
    pub fn parents(&mut self) -> &BTreeSet<PathBuf> {
        if self.searched.is_none() {
            self.searched = Some(Instant::now());
            self.search();
        }
        &self.parents
    }

    fn meaning(&self, path: &Path) -> Option<Meaning> {
        (self.names)(path.strip_prefix(&self.root).ok()?.to_str()?)
    }

    fn look(&mut self, uid: &str) -> Option<PathBuf> {
        if self.pods.is_none() {
            let mut pods = HashMap::new();
            for path in self.parents.iter().flat_map(|parent| directories(parent)) {
                if let Some(Meaning::Pod(uid)) = self.meaning(&path) {
                    // Of two the first, as long as it is there.
                    pods.entry(uid).or_insert(path);
                }
            }
            self.pods = Some(pods);
        }
        self.pods.as_ref()?.get(uid).cloned()
    }

    fn search(&mut self) {
        self.pods = None;
        self.parents.clear();
        let mut open = vec![(self.root.clone(), 0)];
        let mut seen = 0;
        while let Some((path, depth)) = open.pop() {
            match self.meaning(&path) {
                // What is inside of a pod is its own business, and may be named like anything.
                Some(Meaning::Pod(_)) => continue,
                Some(Meaning::Pods) => {
                    self.parents.insert(path.clone());
                }
                None => {}
            }
            if depth == DEPTH {
                continue;
            }
            for inner in directories(&path) {
                seen += 1;
                if seen > SEARCH {
                    return;
                }
                open.push((inner, depth + 1));
            }
        }
    }
}

fn directories(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// A network namespace that processes of a pod are in.
#[derive(Debug)]
pub struct PodNetNs {
    /// The namespace.
    pub netns: NetNs,
    /// A process in it.
    pub pid: u32,
    /// What tells it from others.
    pub inode: u64,
    /// Those of the addresses asked for that it has; `None` if that could not be read.
    pub addresses: Option<Vec<IpAddr>>,
}

/// The network namespaces of the processes in a cgroup and below it, each once, and which of these addresses they
/// have. `skip` names directories whose processes are not the pod's.
pub fn namespaces(cgroup: &Path, skip: fn(&str) -> bool, addresses: &[IpAddr]) -> Vec<PodNetNs> {
    let mut found: Vec<PodNetNs> = Vec::new();
    for pid in processes(cgroup, skip) {
        if let Ok(Some(next)) = namespace(cgroup, pid, skip, addresses, &found) {
            found.push(next);
        }
    }
    found
}

fn namespace(
    cgroup: &Path,
    pid: u32,
    skip: fn(&str) -> bool,
    addresses: &[IpAddr],
    known: &[PodNetNs],
) -> Result<Option<PodNetNs>, NetNsError> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let netns = NetNs::open(&path)?;
    let inode = netns.inode().map_err(|source| NetNsError::Open { path, source })?;
    if known.iter().any(|k| k.inode == inode) {
        return Ok(None);
    }
    // The process may have ended and its number may be another's by now: then it is not in here any more.
    if !processes(cgroup, skip).contains(&pid) {
        return Ok(None);
    }
    let addresses = netns.within(|| links::has_of(addresses)).ok().and_then(Result::ok);
    Ok(Some(PodNetNs { netns, pid, inode, addresses }))
}

/// What tells a process's network namespace from others; `None` once the process has ended.
pub fn netns_of(pid: u32) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|m| m.ino())
}

/// The processes in a cgroup and below it, the lowest numbers first (bounded).
pub fn processes(cgroup: &Path, skip: fn(&str) -> bool) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut open = vec![cgroup.to_owned()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        // Nothing can be read of a threaded cgroup or of one that is just going; its parent tells the former.
        let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.trim().parse::<u32>().ok()).filter(|pid| *pid > 0));
        for inner in directories(&path) {
            seen += 1;
            let is_skipped = inner.file_name().and_then(|n| n.to_str()).is_some_and(skip);
            if seen <= BELOW && !is_skipped {
                open.push(inner);
            }
        }
    }
    while found.len() > PROCESSES {
        found.pop_last();
    }
    found
}

/// How long ago a process began.
///
/// # Errors
/// When there is no such process, or /proc says something else than it should.
pub fn age(pid: u32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat has no start time");
    // proc(5): the name, in parentheses, may have spaces; `starttime` is the 22nd field, in clock ticks.
    let ticks: u64 = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(odd)?;
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let began = Duration::from_millis(ticks.saturating_mul(1000) / per_second);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).map_err(|_| odd())?;
    let nanos = u32::try_from(now.tv_nsec).map_err(|_| odd())?;
    Ok(Duration::new(seconds, nanos).saturating_sub(began))
}

#[cfg(test)]
mod tests;
