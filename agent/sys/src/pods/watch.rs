//! What the kernel tells of pods' cgroups by inotify(7), so that nobody has to look at all of them.
//!
//! That directories are made and removed is told as of any file system. That there are processes in a cgroup is told
//! by its file `cgroup.events`, whose `populated` is about all below it too (Documentation/admin-guide/cgroup-v2.rst);
//! and to those alone who watch the very file, since the kernel looks for nobody else's inode (`kernfs_notify_workfn`
//! in fs/kernfs/file.c, 6.1 and later). Nothing is told of a watched directory's own end, its parent tells that:
//! its watches would stay until they are taken away here. The watches of the `notify` crate would also tell of each
//! file that is opened, which on cgroups are the kubelet's looks, and our own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::{Meaning, Names, directories};

/// Containers of one pod that are watched. More than that a pod has if it makes cgroups itself.
const CONTAINERS: usize = 64;
/// Watches in all; the kernel has about a kilobyte for each.
const WATCHES: usize = 16_384;
/// What the kernel tells at once.
const BUFFER: usize = 16 * 1024;

/// Why changes of a pod are not told.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// There are no more watches, or instances of inotify, for this user or this agent.
    #[error(
        "there are too many watches ({0}): root's programs share those of fs.inotify.max_user_watches and max_user_instances"
    )]
    Exhausted(#[source] io::Error),
    /// Anything else.
    #[error("changes of cgroups cannot be watched: {0}")]
    Failed(#[source] io::Error),
}

impl From<Errno> for WatchError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOSPC | Errno::MFILE | Errno::NFILE | Errno::NOMEM => Self::Exhausted(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}

/// What happened since it was asked last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// UIDs of pods whose cgroup came or went, or in whose cgroups something did.
    pub pods: BTreeSet<String>,
    /// Directories that came, below which pods are or come to be.
    pub parents: BTreeSet<PathBuf>,
    /// More happened than the kernel kept: it may have been anything.
    pub lost: bool,
}

/// What one watch is for.
#[derive(Debug, Clone)]
enum Of {
    /// A directory above pods.
    Above(PathBuf),
    /// Something of a pod's.
    Pod(Arc<str>),
}

/// The watches of one pod: on its directory, on its `cgroup.events`, and on those of its containers.
#[derive(Debug)]
struct Followed {
    path: PathBuf,
    watches: BTreeSet<i32>,
    /// Something changed since these watches were placed.
    is_stale: bool,
}

/// Watches on cgroups.
#[derive(Debug)]
pub struct PodWatch {
    inotify: OwnedFd,
    root: PathBuf,
    names: Names,
    of: HashMap<i32, Of>,
    above: BTreeMap<PathBuf, i32>,
    pods: HashMap<Arc<str>, Followed>,
}

impl PodWatch {
    /// Watches nothing yet of the tree at that root.
    ///
    /// # Errors
    /// When there is no instance of inotify to be had.
    pub fn new(root: PathBuf, names: Names) -> Result<Self, WatchError> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let (of, above, pods) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        Ok(Self { inotify, root, names, of, above, pods })
    }

    /// Watches these directories below which pods are, and all above them. Returns whether any is new: what came in
    /// it before is not told.
    ///
    /// # Errors
    /// When one cannot be watched; the others are.
    pub fn above(&mut self, parents: &BTreeSet<PathBuf>) -> Result<bool, WatchError> {
        let all: BTreeSet<&Path> = parents
            .iter()
            .flat_map(|parent| parent.ancestors().take_while(|path| path.starts_with(&self.root)))
            .collect();
        let gone: Vec<PathBuf> =
            self.above.keys().filter(|path| !all.contains(path.as_path())).cloned().collect();
        for path in gone {
            if let Some(watch) = self.above.remove(&path) {
                self.forget(watch);
            }
        }
        let (mut is_new, mut result) = (false, Ok(()));
        for path in all {
            // Placed again on each call: a directory that was removed and made anew is another.
            match self.place(path, true, Of::Above(path.to_owned())) {
                Ok(Some(watch)) => {
                    let before = self.above.insert(path.to_owned(), watch);
                    is_new |= before != Some(watch);
                    if let Some(before) = before.filter(|before| *before != watch) {
                        self.forget(before);
                    }
                }
                Ok(None) => {}
                Err(error) => result = Err(error),
            }
        }
        result.map(|()| is_new)
    }

    /// Whether everything of a pod at this place is watched.
    pub fn follows(&self, uid: &str, path: &Path) -> bool {
        self.pods.get(uid).is_some_and(|pod| !pod.is_stale && pod.path == path)
    }

    /// Whether everything of a pod is watched, wherever it is.
    pub fn is_followed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|pod| !pod.is_stale)
    }

    /// Watches the pod of that directory. Returns whether anything is new: what came before is not told.
    ///
    /// # Errors
    /// When something of it cannot be watched. The next call tries again.
    pub fn follow(&mut self, uid: &Arc<str>, path: &Path) -> Result<bool, WatchError> {
        if self.follows(uid, path) {
            return Ok(false);
        }
        let mut watches = BTreeSet::new();
        let placed = self.place_pod(uid, path, &mut watches);
        let before = self.pods.remove(uid).map(|pod| pod.watches).unwrap_or_default();
        for gone in before.difference(&watches) {
            self.forget(*gone);
        }
        let is_new = !watches.is_subset(&before);
        let (path, is_stale) = (path.to_owned(), placed.is_err());
        self.pods.insert(uid.clone(), Followed { path, watches, is_stale });
        placed.map(|()| is_new)
    }

    fn place_pod(
        &mut self,
        uid: &Arc<str>,
        path: &Path,
        watches: &mut BTreeSet<i32>,
    ) -> Result<(), WatchError> {
        let of = Of::Pod(uid.clone());
        watches.extend(self.place(path, true, of.clone())?);
        watches.extend(self.place(&path.join("cgroup.events"), false, of.clone())?);
        for container in directories(path).take(CONTAINERS) {
            watches.extend(self.place(&container.join("cgroup.events"), false, of.clone())?);
        }
        Ok(())
    }

    /// Other pods are of no interest any more.
    pub fn keep(&mut self, of: impl Fn(&str) -> bool) {
        let gone: Vec<Arc<str>> = self.pods.keys().filter(|uid| !of(uid)).cloned().collect();
        for pod in gone.iter().filter_map(|uid| self.pods.remove(uid)).collect::<Vec<_>>() {
            for watch in pod.watches {
                self.forget(watch);
            }
        }
    }

    /// Nothing if there is nothing of that name (any more).
    fn place(&mut self, path: &Path, is_directory: bool, of: Of) -> Result<Option<i32>, WatchError> {
        let flags = if is_directory {
            WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW
        } else {
            WatchFlags::MODIFY | WatchFlags::DONT_FOLLOW
        };
        if self.of.len() >= WATCHES {
            return Err(Errno::NOSPC.into());
        }
        match inotify::add_watch(&self.inotify, path, flags) {
            Ok(watch) => {
                self.of.insert(watch, of);
                Ok(Some(watch))
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn forget(&mut self, watch: i32) {
        self.of.remove(&watch);
        // One that the kernel has dropped by itself is gone too.
        let _dropped = inotify::remove_watch(&self.inotify, watch);
    }

    /// What happened since the last call.
    pub fn news(&mut self) -> News {
        let mut news = News::default();
        for (watch, kind, name) in self.read() {
            if kind.contains(ReadFlags::QUEUE_OVERFLOW) {
                news.lost = true;
            }
            match self.of.get(&watch) {
                Some(Of::Above(above)) if kind.contains(ReadFlags::ISDIR) => {
                    let path = above.join(name);
                    match self.meaning(&path) {
                        Some(Meaning::Pod(uid)) => drop(news.pods.insert(uid)),
                        Some(Meaning::Pods) if kind.contains(ReadFlags::CREATE) => {
                            news.parents.insert(path);
                        }
                        Some(Meaning::Pods) | None => {}
                    }
                }
                Some(Of::Pod(uid)) => drop(news.pods.insert(uid.to_string())),
                // One that was taken away meanwhile.
                Some(Of::Above(_)) | None => {}
            }
        }
        for (uid, pod) in &mut self.pods {
            pod.is_stale |= news.lost || news.pods.contains(&**uid);
        }
        news
    }

    fn meaning(&self, path: &Path) -> Option<Meaning> {
        (self.names)(path.strip_prefix(&self.root).ok()?.to_str()?)
    }

    /// All that the kernel has to tell, or a bounded part of it: the rest is told by the next call.
    fn read(&self) -> Vec<(i32, ReadFlags, OsString)> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut all = Vec::new();
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| std::ffi::OsStr::from_bytes(name.to_bytes()).to_owned());
            all.push((event.wd(), event.events(), name.unwrap_or_default()));
            if all.len() >= WATCHES && reader.is_buffer_empty() {
                break;
            }
        }
        all
    }
}

impl AsFd for PodWatch {
    /// Readable when there is news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
