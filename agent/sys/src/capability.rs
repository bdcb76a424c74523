//! What the process may do.

/// A capability that the agent needs, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    /// Its name.
    pub name: &'static str,
    /// Its bit (include/uapi/linux/capability.h).
    bit: u32,
    /// What does not work without it.
    pub reason: &'static str,
}

impl Capability {
    /// Its number, which is its bit in the masks of /proc/PID/status.
    pub const fn bit(&self) -> u32 {
        self.bit
    }
}

/// All capabilities that the agent needs.
pub const REQUIRED: [Capability; 5] = [
    Capability { name: "CAP_BPF", bit: 39, reason: "load programs and maps" },
    Capability { name: "CAP_NET_ADMIN", bit: 12, reason: "attach networking programs to cgroups" },
    Capability { name: "CAP_SYS_ADMIN", bit: 21, reason: "enter the pods' network namespaces" },
    Capability { name: "CAP_SYS_PTRACE", bit: 19, reason: "open the namespaces of more privileged pods" },
    Capability { name: "CAP_SYS_CHROOT", bit: 18, reason: "mount bpffs on a node that has none" },
];

/// The required capabilities that the process does not have.
///
/// # Errors
/// When /proc cannot be read.
pub fn missing() -> std::io::Result<Vec<Capability>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    Ok(REQUIRED.into_iter().filter(|c| effective & (1 << c.bit) == 0).collect())
}
