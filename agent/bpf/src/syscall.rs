//! The raw system calls that aya does not wrap: creating and replacing cgroup links, and asking them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_LINK_UPDATE: libc::c_int = 29;

/// Fields of `union bpf_attr` for the commands below; the kernel takes shorter structures and
/// requires that what it does not know is zero.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    new_program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
struct Pin {
    path: u64,
    descriptor: u32,
    flags: u32,
}

#[repr(C)]
struct InfoByFd {
    descriptor: u32,
    length: u32,
    pointer: u64,
}

/// The head of `struct bpf_link_info` and its cgroup part.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct LinkInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) program_id: u32,
    padding: u32,
    pub(crate) cgroup_id: u64,
    pub(crate) attach_type: u32,
    padding2: u32,
}

impl LinkInfo {
    /// Id of the cgroup of a link of that kind; nothing if that is gone.
    pub(crate) fn cgroup(&self) -> Option<u64> {
        const BPF_LINK_TYPE_CGROUP: u32 = 3;
        (self.kind == BPF_LINK_TYPE_CGROUP && self.cgroup_id != 0).then_some(self.cgroup_id)
    }

    /// Index of the interface of a link of that kind; nothing if that is gone.
    pub(crate) fn interface(&self) -> Option<u32> {
        const BPF_LINK_TYPE_TCX: u32 = 11;
        let index = self.first_word();
        (self.kind == BPF_LINK_TYPE_TCX && index != 0).then_some(index)
    }

    /// Inode of the network namespace of a link of that kind (the union's part for it has the inode and the
    /// attach type, 32 bits each); nothing if that is gone.
    pub(crate) fn netns(&self) -> Option<u64> {
        const BPF_LINK_TYPE_NETNS: u32 = 5;
        let inode = u64::from(self.first_word());
        (self.kind == BPF_LINK_TYPE_NETNS && inode != 0).then_some(inode)
    }

    /// The first word of the union that differs by the link's kind.
    fn first_word(&self) -> u32 {
        let [a, b, c, d, ..] = self.cgroup_id.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// The head of the query's part of `union bpf_attr`.
#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    program_count: u32,
    padding: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the pointer and size describe `attributes`, a `repr(C)` prefix of `union bpf_attr` for
    // this command, alive and exclusively borrowed for the call; descriptors in it are open.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(0)) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// Attaches a program to a cgroup (Linux 5.7) or a network namespace (5.8). Links are always of the kind that
/// allows others.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    create(&mut LinkCreate { program: number(program), target: number(target), attach_type, flags: 0 })
}

/// Attaches a program to an interface of the calling thread's namespace, before all that are there (Linux 6.6).
pub(crate) fn link_create_first(
    program: BorrowedFd<'_>,
    interface: u32,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    const BPF_F_BEFORE: u32 = 1 << 3;
    create(&mut LinkCreate { program: number(program), target: interface, attach_type, flags: BPF_F_BEFORE })
}

fn create(attributes: &mut LinkCreate) -> io::Result<OwnedFd> {
    let fd = bpf(BPF_LINK_CREATE, attributes)?;
    // SAFETY: the kernel just made this descriptor for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link in one step: no connect goes without a hook meanwhile.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes =
        LinkUpdate { link: number(link), new_program: number(program), flags: 0, old_program: 0 };
    bpf(BPF_LINK_UPDATE, &mut attributes).map(|_| ())
}

/// Detaches a link at once (Linux 5.9). Removing its last pin detaches it too, but later.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut descriptor = number(link);
    bpf(BPF_LINK_DETACH, &mut descriptor).map(|_| ())
}

/// Pins an object under a path on bpffs.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Pin {
        path: u64::try_from(path.as_ptr().expose_provenance()).unwrap_or(0),
        descriptor: number(object),
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut attributes).map(|_| ())
}

/// Opens what is pinned under a path on bpffs.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes =
        Pin { path: u64::try_from(path.as_ptr().expose_provenance()).unwrap_or(0), descriptor: 0, flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: the kernel just made this descriptor for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel says of a link.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attributes = InfoByFd {
        descriptor: number(link),
        length: u32::try_from(size_of::<LinkInfo>()).unwrap_or(0),
        pointer: u64::try_from(std::ptr::from_mut(&mut info).expose_provenance()).unwrap_or(0),
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info)
}

/// Ids of the programs that are attached to a target, at most 64 (the kernel's own limit for one namespace).
pub(crate) fn attached(target: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    let mut query = Query {
        target: number(target),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        program_ids: u64::try_from(ids.as_mut_ptr().expose_provenance()).unwrap_or(0),
        program_count: 64,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut query)?;
    let count = usize::try_from(query.program_count).unwrap_or(0);
    Ok(ids.into_iter().take(count).collect())
}
