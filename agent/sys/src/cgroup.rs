//! Control groups (v2): where they are mounted, their ids, their life.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

/// Why a cgroup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 file system is mounted.
    #[error("no cgroup v2 is mounted (looked in /proc/self/mounts); mount it, for example on /sys/fs/cgroup")]
    NotMounted,
    /// The directory cannot be opened.
    #[error("cgroup {path} cannot be opened: {source}; does the workload still run?")]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory is none of a cgroup2.
    #[error("{path} is not a directory of cgroup v2")]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// What is mounted is not what this process's own cgroup is told by.
    #[error(
        "this process is not in cgroup {path} as it seems: in a container it needs the node's /sys/fs/cgroup and process ids (hostPID)"
    )]
    NotOwn {
        /// The directory.
        path: PathBuf,
    },
    /// /proc could not be read.
    #[error("{path} cannot be read: {source}")]
    Proc {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Magic of cgroup2 (include/uapi/linux/magic.h).
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// An open cgroup directory. Keeping it open does not keep the cgroup alive.
#[derive(Debug)]
pub struct Cgroup {
    directory: File,
    id: u64,
    path: PathBuf,
}

/// Where cgroup2 is mounted: the whole hierarchy (pure) or beside v1 (hybrid).
///
/// # Errors
/// When it is mounted nowhere.
pub fn mount() -> Result<PathBuf, CgroupError> {
    let path = PathBuf::from("/proc/self/mounts");
    let text = std::fs::read_to_string(&path).map_err(|source| CgroupError::Proc { path, source })?;
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(at))
        })
        .next()
        .ok_or(CgroupError::NotMounted)
}

/// The cgroup (v2) of this process.
///
/// In a container /proc tells it relative to a cgroup namespace of its own, while the node's whole tree is
/// mounted; it is then asked from the namespace of process 1, which is the node's with its process ids.
///
/// # Errors
/// When there is no cgroup2 or the process's own is outside of what is mounted.
pub fn own() -> Result<Cgroup, CgroupError> {
    let path = PathBuf::from("/proc/thread-self/cgroup");
    // A thread of its own, since it stays in the namespace that it enters.
    let text = std::thread::spawn(|| {
        enter_first();
        std::fs::read_to_string("/proc/thread-self/cgroup")
    });
    let text = text.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
    let text = text.map_err(|source| CgroupError::Proc { path, source })?;
    let relative = text.lines().find_map(|line| line.strip_prefix("0::/")).ok_or(CgroupError::NotMounted)?;
    let found = Cgroup::open(Path::new(relative))?;
    // What is hooked as the agent's own must be nobody else's. A threaded cgroup does not tell.
    let own = std::process::id().to_string();
    match std::fs::read_to_string(found.path().join("cgroup.procs")) {
        Ok(all) if !all.lines().any(|pid| pid == own) => {
            Err(CgroupError::NotOwn { path: found.path().to_owned() })
        }
        _ => Ok(found),
    }
}

/// Brings the calling thread into the cgroup namespace of process 1, if that is another and may be entered.
fn enter_first() {
    let inode = |path| std::fs::metadata(path).map(|meta| meta.ino()).ok();
    let first = "/proc/1/ns/cgroup";
    if inode(first) != inode("/proc/thread-self/ns/cgroup")
        && let Ok(namespace) = File::open(first)
    {
        // Where it may not, the check of the caller says so.
        let _entered = move_into_thread_name_spaces(namespace.as_fd(), ThreadNameSpaceType::CONTROL_GROUP);
    }
}

impl Cgroup {
    /// Opens a cgroup by its path, absolute or relative to the mount.
    ///
    /// # Errors
    /// When it is not there, or not a cgroup2 directory.
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let mount = mount()?;
        let path = if path.starts_with(&mount) {
            path.to_owned()
        } else {
            mount.join(path.strip_prefix("/").unwrap_or(path))
        };
        let open = |source| CgroupError::Open { path: path.clone(), source };
        let directory = File::open(&path).map_err(open)?;
        let kind = rustix::fs::fstatfs(&directory).map_err(|e| open(e.into()))?;
        if kind.f_type != CGROUP2_SUPER_MAGIC {
            return Err(CgroupError::NotCgroup2 { path });
        }
        // On 64-bit systems the inode number of a kernfs node is its id (fs/kernfs/dir.c).
        let id = directory.metadata().map_err(open)?.ino();
        Ok(Self { directory, id, path })
    }

    /// How many bytes of memory whatever runs in it may have: the least of its own limit and those above it
    /// (`memory.max`, Documentation/admin-guide/cgroup-v2.rst). `None` where none of them limits it, or none
    /// can be read.
    pub fn memory_limit(&self) -> Option<u64> {
        let limit = |directory: &Path| {
            std::fs::read_to_string(directory.join("memory.max")).ok()?.trim().parse().ok()
        };
        self.path.ancestors().filter_map(limit).min()
    }

    /// The id by which the kernel's maps and diagnostics name it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The absolute path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the cgroup still exists and is the same one.
    pub fn is_alive(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|m| m.ino() == self.id)
    }

    /// Whether it is known to be gone. Neither this nor [`Cgroup::is_alive`] holds when the path cannot be looked at.
    pub fn is_gone(&self) -> bool {
        match std::fs::metadata(&self.path) {
            Ok(there) => there.ino() != self.id,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Ids of the cgroup and all below it (bounded to 4096).
    pub fn ids_below(&self) -> Vec<u64> {
        let mut ids = vec![self.id];
        let mut open = vec![self.path.clone()];
        while let Some(path) = open.pop() {
            for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_dir() && ids.len() < 4096 {
                    ids.push(meta.ino());
                    open.push(entry.path());
                }
            }
        }
        ids
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_alive_and_below_the_mount() {
        let own = own().unwrap();
        assert!(own.is_alive());
        assert!(own.path().starts_with(mount().unwrap()));
        assert!(own.ids_below().contains(&own.id()));
    }

    #[test]
    fn what_cannot_be_looked_at_is_neither_alive_nor_gone() {
        let mut own = own().unwrap();
        assert!(!own.is_gone());
        // Something else has the path.
        let path = std::mem::replace(&mut own.path, std::env::current_dir().unwrap());
        assert!(own.is_gone() && !own.is_alive());
        own.path = path.join("no-such-cgroup");
        assert!(own.is_gone() && !own.is_alive());
        // A file on the way is an error that says nothing of the cgroup.
        own.path = path.join("cgroup.procs").join("below");
        assert!(!own.is_gone() && !own.is_alive());
    }

    #[test]
    fn in_a_cgroup_namespace_of_its_own_a_process_still_finds_itself() {
        let outside = own().unwrap();
        let inside = std::thread::spawn(|| {
            // SAFETY: a new cgroup namespace for this thread alone changes no memory.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }.unwrap();
            let told = std::fs::read_to_string("/proc/thread-self/cgroup").unwrap();
            assert!(told.lines().any(|line| line == "0::/"), "{told}");
            own().unwrap()
        });
        assert_eq!(inside.join().unwrap().path(), outside.path());
    }

    #[test]
    fn what_is_no_cgroup_is_said_so() {
        assert!(matches!(Cgroup::open(Path::new("no/such/cgroup")), Err(CgroupError::Open { .. })));
    }
}
