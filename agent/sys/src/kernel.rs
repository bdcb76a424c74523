//! What the kernel offers. Features are probed, versions are not compared.

use std::path::Path;

/// What is missing for Lark to run here.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No BTF.
    #[error("the kernel has no BTF at /sys/kernel/btf/vmlinux; it must be built with CONFIG_DEBUG_INFO_BTF")]
    NoBtf,
}

/// Checks what cannot be seen from a failing load.
///
/// # Errors
/// Names what is missing.
pub fn probe() -> Result<(), KernelError> {
    if Path::new("/sys/kernel/btf/vmlinux").exists() { Ok(()) } else { Err(KernelError::NoBtf) }
}
