//! What the kernel offers. Features are probed, versions are not compared.

use std::path::{Path, PathBuf};

/// What is missing for Lark to run here.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No BTF.
    #[error("the kernel has no BTF at /sys/kernel/btf/vmlinux; it must be built with CONFIG_DEBUG_INFO_BTF")]
    NoBtf,
    /// bpffs can neither be found nor mounted.
    #[error(
        "no bpf file system at or above {path}, and mounting one failed: {source}; mount it with `mount -t bpf bpf /sys/fs/bpf`"
    )]
    NoBpffs {
        /// Where it is wanted.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory cannot be made there.
    #[error(
        "{path} cannot be made on the bpf file system: {source}; it must be writable for this process, which a hardened unit or container may keep it from"
    )]
    NoDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Magic of bpffs (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Checks what cannot be seen from a failing load.
///
/// # Errors
/// Names what is missing.
pub fn probe() -> Result<(), KernelError> {
    if Path::new("/sys/kernel/btf/vmlinux").exists() { Ok(()) } else { Err(KernelError::NoBtf) }
}

/// Makes sure that `directory` exists on a bpf file system, mounting one on /sys/fs/bpf if need be.
///
/// # Errors
/// When there is none and none can be mounted.
pub fn ensure_bpffs(directory: &Path) -> Result<(), KernelError> {
    let failed = |source: std::io::Error| KernelError::NoBpffs { path: directory.to_owned(), source };
    let base = Path::new("/sys/fs/bpf");
    if directory.starts_with(base) && !is_bpffs(base) {
        rustix::mount::mount("bpf", base, "bpf", rustix::mount::MountFlags::empty(), None)
            .map_err(|e| failed(e.into()))?;
    }
    std::fs::create_dir_all(directory)
        .map_err(|source| KernelError::NoDirectory { path: directory.to_owned(), source })?;
    if is_bpffs(directory) {
        Ok(())
    } else {
        Err(failed(std::io::Error::other("the directory is on another file system")))
    }
}

fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == BPF_FS_MAGIC)
}
