//! Links: attaching, pinning, adopting, asking.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::hook::Hook;
use crate::syscall;

/// Why a program is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The program is not in the object.
    #[error("program {0} is missing from the object; rebuild it with `cargo xtask ebpf`")]
    NoProgram(&'static str),
    /// The kernel refused.
    #[error("attaching {program} failed: {source}{hint}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What the system said.
        source: io::Error,
        /// What it may mean.
        hint: &'static str,
    },
    /// The link could not be pinned.
    #[error("pinning {path} failed: {source}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The pod's entry could not be written.
    #[error("writing the entry of pod {pod} failed: {source}")]
    Entry {
        /// Name of the pod's pins.
        pod: String,
        /// What went wrong.
        source: crate::MapError,
    },
}

/// What the kernel says of one pinned link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Name of the pin.
    pub hook: String,
    /// The link's id.
    pub link_id: u32,
    /// The program's id.
    pub program_id: u32,
    /// The cgroup it is attached to; `None` once that is gone.
    pub cgroup_id: Option<u64>,
    /// Inode of the network namespace it is attached to, if it is of that kind.
    pub netns: Option<u64>,
    /// Index of the interface it is attached to, if it is of that kind.
    pub interface: Option<u32>,
}

const EPERM_HINT: &str = "; an ancestor cgroup has a program that was attached without BPF_F_ALLOW_MULTI and forbids others (see `bpftool cgroup tree`), or CAP_NET_ADMIN is missing";

const OLD_HINT: &str =
    "; this kernel does not offer such links: Lark needs Linux 5.18 or later with CONFIG_CGROUP_BPF";

/// Attaches `program` to `cgroup` and pins the link, or replaces the program of the link that is
/// pinned there already and attached to the same cgroup.
pub(crate) fn attach(
    program: BorrowedFd<'_>,
    name: &'static str,
    attach_type: u32,
    cgroup: BorrowedFd<'_>,
    cgroup_id: u64,
    pin: &Path,
) -> Result<(), AttachError> {
    if let Ok(link) = syscall::open_pin(pin) {
        if state(link.as_fd(), "").is_ok_and(|s| s.cgroup_id == Some(cgroup_id)) {
            return syscall::link_update(link.as_fd(), program).map_err(|e| refused(name, e));
        }
        // The cgroup of that pin is gone (or another): nothing is attached that could be kept.
        remove(pin)?;
    }
    let fd = syscall::link_create(program, cgroup, attach_type).map_err(|e| refused(name, e))?;
    syscall::pin(fd.as_fd(), pin).map_err(|source| AttachError::Pin { path: pin.to_owned(), source })
}

/// The same for a network namespace, known by the inode of its file.
pub(crate) fn attach_netns(
    program: BorrowedFd<'_>,
    name: &'static str,
    attach_type: u32,
    netns: BorrowedFd<'_>,
    inode: u64,
    pin: &Path,
) -> Result<(), AttachError> {
    if let Ok(link) = syscall::open_pin(pin) {
        if syscall::link_info(link.as_fd()).is_ok_and(|info| info.netns() == Some(inode)) {
            return syscall::link_update(link.as_fd(), program).map_err(|e| refused(name, e));
        }
        remove(pin)?;
    }
    let fd = syscall::link_create(program, netns, attach_type).map_err(|e| refused(name, e))?;
    syscall::pin(fd.as_fd(), pin).map_err(|source| AttachError::Pin { path: pin.to_owned(), source })
}

/// The same for an interface of the calling thread's namespace, known by its index; before all other programs
/// there, for one of those may let a packet pass for good.
pub(crate) fn attach_interface(
    program: BorrowedFd<'_>,
    name: &'static str,
    attach_type: u32,
    interface: u32,
    pin: &Path,
) -> Result<(), AttachError> {
    if let Ok(link) = syscall::open_pin(pin) {
        if syscall::link_info(link.as_fd()).is_ok_and(|info| info.interface() == Some(interface)) {
            return syscall::link_update(link.as_fd(), program).map_err(|e| refused(name, e));
        }
        remove(pin)?;
    }
    let fd = syscall::link_create_first(program, interface, attach_type).map_err(|source| {
        AttachError::Refused { program: name, source, hint: "; tcx links need Linux 6.6" }
    })?;
    syscall::pin(fd.as_fd(), pin).map_err(|source| AttachError::Pin { path: pin.to_owned(), source })
}

/// The index of the interface that a pinned link is attached to; nothing if there is no such link, or its
/// interface is gone.
pub(crate) fn pinned_interface(pin: &Path) -> Option<u32> {
    let link = syscall::open_pin(pin).ok()?;
    syscall::link_info(link.as_fd()).ok()?.interface()
}

/// The inode of the namespace that a pinned link is attached to; nothing if there is no such link, or its
/// namespace is gone.
pub(crate) fn pinned_netns(pin: &Path) -> Option<u64> {
    let link = syscall::open_pin(pin).ok()?;
    syscall::link_info(link.as_fd()).ok()?.netns()
}

fn refused(program: &'static str, source: io::Error) -> AttachError {
    let hint = match source.raw_os_error() {
        Some(libc::EPERM) => EPERM_HINT,
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => OLD_HINT,
        _ => "",
    };
    AttachError::Refused { program, source, hint }
}

/// Detaches the link that is pinned there and removes the pin.
pub(crate) fn remove(pin: &Path) -> Result<(), AttachError> {
    if let Ok(link) = syscall::open_pin(pin) {
        // One whose cgroup is gone is detached already.
        let _ = syscall::link_detach(link.as_fd());
    }
    match std::fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(AttachError::Pin { path: pin.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// What the kernel says of an open link.
pub(crate) fn state(link: BorrowedFd<'_>, hook: &str) -> io::Result<LinkState> {
    let info = syscall::link_info(link)?;
    Ok(LinkState {
        hook: hook.to_owned(),
        link_id: info.id,
        program_id: info.program_id,
        cgroup_id: info.cgroup(),
        netns: info.netns(),
        interface: info.interface(),
    })
}

/// The links pinned in a directory, by what the kernel says of them.
pub(crate) fn pinned(directory: &Path) -> Vec<LinkState> {
    Hook::ALL
        .iter()
        .filter_map(|hook| {
            let link = syscall::open_pin(&directory.join(hook.name())).ok()?;
            state(link.as_fd(), hook.name()).ok()
        })
        .collect()
}
