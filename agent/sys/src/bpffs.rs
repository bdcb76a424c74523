//! The bpf file system that pins are on. It has to be the node's own: one that only a container sees ends with the
//! container and the pins with it, so that a dead agent would leave its pods in plaintext, strict ones too.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces, unshare_unsafe};

/// Why there is no place for pins.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// None can be found or mounted.
    #[error(
        "no bpf file system at or above {path}, and mounting one on the node failed: {source}; mount it there with `mount -t bpf bpf /sys/fs/bpf`"
    )]
    NotMounted {
        /// Where it is wanted.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory cannot be made there.
    #[error(
        "{path} cannot be made on the bpf file system: {source}; it must be writable for this process, which a hardened unit or container may keep it from"
    )]
    NoDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Magic of bpffs (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Where it is on every system that has it: the kernel makes this directory.
const BASE: &str = "/sys/fs/bpf";
/// A process in the node's mount namespace, for whoever sees the node's process ids.
const NODE: &str = "/proc/1";

/// Makes sure that `directory` exists on a bpf file system. If it is to be below /sys/fs/bpf and none is there, one is
/// mounted: systemd does so on hosts, but not in nodes that are containers themselves (kind, minikube).
///
/// # Errors
/// When there is none and none can be mounted.
pub fn ensure(directory: &Path) -> Result<(), BpffsError> {
    let failed = |source: io::Error| BpffsError::NotMounted { path: directory.to_owned(), source };
    let base = Path::new(BASE);
    if directory.starts_with(base) && !is_bpffs(base) {
        provide(base, Path::new(NODE)).map_err(failed)?;
    }
    std::fs::create_dir_all(directory)
        .map_err(|source| BpffsError::NoDirectory { path: directory.to_owned(), source })?;
    if is_bpffs(directory) {
        Ok(())
    } else {
        Err(failed(io::Error::other("the directory is on another file system")))
    }
}

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == BPF_FS_MAGIC)
}

/// Brings the node's bpf file system to `base`, where this process sees none; the node gets one first if it has none.
fn provide(base: &Path, node: &Path) -> io::Result<()> {
    // Each mount is in one namespace and has a number of its own. The namespace's inode, which would tell too, may be
    // hidden on a host whose first process may do more than this one.
    if !mounts(node)?.is_disjoint(&mounts(Path::new("/proc/thread-self"))?) {
        return make(base);
    }
    let namespace = File::open(node.join("ns/mnt"))?;
    let of_node = base.to_owned();
    // A thread of its own, since it stays in the namespace that it enters.
    let taken = std::thread::spawn(move || take(&of_node, &namespace));
    let taken = taken.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
    Ok(move_mount(taken, "", CWD, base, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// The numbers of the mounts that a process sees: the first field of each line (proc(5)).
fn mounts(process: &Path) -> io::Result<BTreeSet<u64>> {
    let text = std::fs::read_to_string(process.join("mountinfo"))?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect())
}

/// The node's, as a mount that is nowhere yet. The calling thread stays with the node.
fn take(base: &Path, node: &File) -> io::Result<OwnedFd> {
    // SAFETY: this thread alone gets a root and a working directory of its own, without which no thread may enter
    // another mount namespace (setns(2)); no memory and no descriptor changes.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    move_into_thread_name_spaces(node.as_fd(), ThreadNameSpaceType::MOUNT)?;
    if !is_bpffs(base) {
        make(base)?;
    }
    // open_tree(2), Linux 5.2.
    Ok(open_tree(CWD, base, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

fn make(base: &Path) -> io::Result<()> {
    Ok(mount("bpf", base, "bpf", MountFlags::empty(), None)?)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use rustix::mount::{MountPropagationFlags, mount_change};

    use super::*;

    /// A process in a mount namespace of its own.
    struct Node(Child);

    impl Node {
        fn new() -> Self {
            let mut unshare = Command::new("unshare");
            let child = unshare.args(["--mount", "--propagation=private", "sleep", "600"]).spawn().unwrap();
            let node = Self(child);
            let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
            while std::fs::read_link(node.path("ns/mnt")).unwrap() == own
                || !std::fs::read_to_string(node.path("comm")).unwrap().starts_with("sleep")
            {
                std::thread::yield_now();
            }
            node
        }

        fn path(&self, file: &str) -> PathBuf {
            PathBuf::from(format!("/proc/{}/{file}", self.0.id()))
        }

        /// A path as the node sees it.
        fn sees(&self, path: &Path) -> PathBuf {
            self.path("root").join(path.strip_prefix("/").unwrap())
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Runs `work` as a container does: what it mounts nobody else sees, and it sees nothing that others mount.
    fn contained(work: impl FnOnce() + Send) {
        let alone = || {
            // SAFETY: a mount namespace for this thread alone, with a root and a working directory of its own, changes
            // no memory.
            unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }.unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            work();
        };
        std::thread::scope(|scope| scope.spawn(alone).join().unwrap());
    }

    #[test]
    fn what_one_container_makes_on_the_nodes_outlives_it_and_the_next_one_finds_it() {
        let home = tempfile::tempdir().unwrap();
        let base = home.path();
        let node = Node::new();
        contained(|| {
            provide(base, &node.path("")).unwrap();
            assert!(is_bpffs(base));
            std::fs::create_dir(base.join("pins")).unwrap();
        });
        // The container is gone with all its mounts.
        assert!(!is_bpffs(base));
        assert!(is_bpffs(&node.sees(base)) && node.sees(base).join("pins").is_dir());
        contained(|| {
            provide(base, &node.path("")).unwrap();
            assert!(base.join("pins").is_dir());
        });
        let mounts = std::fs::read_to_string(node.path("mounts")).unwrap();
        assert_eq!(mounts.matches(base.to_str().unwrap()).count(), 1, "{mounts}");
    }

    #[test]
    fn where_the_node_is_not_to_be_entered_nothing_is_mounted_and_it_is_said() {
        let home = tempfile::tempdir().unwrap();
        contained(|| {
            // A process of other mounts, whose namespace is none of mounts.
            let process = home.path().join("process");
            std::fs::create_dir_all(process.join("ns")).unwrap();
            std::fs::write(process.join("mountinfo"), "").unwrap();
            std::os::unix::fs::symlink("/proc/self/ns/net", process.join("ns/mnt")).unwrap();
            assert!(provide(home.path(), &process).is_err());
            assert!(!is_bpffs(home.path()));
        });
    }

    #[test]
    fn on_a_host_it_is_simply_mounted() {
        let home = tempfile::tempdir().unwrap();
        contained(|| {
            provide(home.path(), Path::new("/proc/thread-self")).unwrap();
            assert!(is_bpffs(home.path()));
        });
    }
}
