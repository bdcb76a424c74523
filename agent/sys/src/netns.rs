//! Network namespaces.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetNsError {
    /// The file cannot be opened.
    #[error("network namespace {path} cannot be opened: {source}; does the workload still run?")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread could not enter it.
    #[error(
        "network namespace {path} cannot be entered: {source}; it must be a network namespace, and entering needs CAP_SYS_ADMIN"
    )]
    Enter {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// An open network namespace. Keeping it open keeps the namespace alive, so a pod's is dropped as
/// soon as the pod is gone.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
    home: File,
}

impl NetNs {
    /// Opens a namespace by its file, for example `/run/netns/web` or `/proc/42/ns/net`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, NetNsError> {
        let open = |path: &Path| {
            File::open(path).map_err(|source| NetNsError::Open { path: path.to_owned(), source })
        };
        // The process's own namespace, not the calling thread's, which may just be elsewhere.
        Ok(Self { file: open(path)?, path: path.to_owned(), home: open(Path::new("/proc/self/ns/net"))? })
    }

    /// The namespace of this process.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn current() -> Result<Self, NetNsError> {
        Self::open(Path::new("/proc/self/ns/net"))
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells namespaces apart: the inode on nsfs.
    ///
    /// # Errors
    /// When the file cannot be asked.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// By what the kernel's hooks know it: its cookie, never given twice while the system runs (SO_NETNS_COOKIE,
    /// Linux 5.14).
    ///
    /// # Errors
    /// When it cannot be entered or asked.
    pub fn cookie(&self) -> io::Result<u64> {
        self.within(cookie_here).map_err(io::Error::other)?
    }

    /// Runs `work` with the calling thread inside the namespace: sockets made there belong to it
    /// for ever. `work` must not hand control to an async runtime.
    ///
    /// # Errors
    /// When the namespace cannot be entered; then `work` did not run.
    ///
    /// Ends the process if the thread cannot return: a thread that goes on in a pod's namespace
    /// would mix up tenants.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetNsError> {
        let enter = |file: &File| move_into_thread_name_spaces(file.as_fd(), ThreadNameSpaceType::NETWORK);
        enter(&self.file).map_err(|e| NetNsError::Enter { path: self.path.clone(), source: e.into() })?;
        // Returns also when `work` panics.
        let guard = Return(&self.home);
        let result = work();
        drop(guard);
        Ok(result)
    }
}

/// The cookie of the calling thread's namespace.
fn cookie_here() -> io::Result<u64> {
    /// include/uapi/asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(0);
    // SAFETY: the pointers are to locals that outlive the call, and `length` is the first one's size.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

struct Return<'a>(&'a File);

impl Drop for Return<'_> {
    fn drop(&mut self) {
        if move_into_thread_name_spaces(self.0.as_fd(), ThreadNameSpaceType::NETWORK).is_err() {
            std::process::abort();
        }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_inside_and_the_thread_comes_home() {
        let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        // Another namespace, made and left by a thread of its own.
        let path = std::thread::spawn(|| {
            // SAFETY: a new network namespace for this thread alone changes no memory.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), {
                use std::os::fd::IntoRawFd;
                File::open("/proc/thread-self/ns/net").unwrap().into_raw_fd()
            }))
        })
        .join()
        .unwrap();
        let other = NetNs::open(&path).unwrap();
        let there = other.within(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
        assert_ne!(here, there);
        assert_eq!(here, std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused_with_a_sentence() {
        let file = NetNs::open(Path::new("/proc/self/status")).unwrap();
        assert!(matches!(file.within(|| ()), Err(NetNsError::Enter { .. })));
    }
}
