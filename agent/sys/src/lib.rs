//! Sockets, network namespaces, cgroups and capabilities: the privileged and unsafe user code
//! outside eBPF. Nothing here decides anything.

/// What the process may do.
pub mod capability;
/// Control groups (v2): where they are mounted, their ids, their life.
pub mod cgroup;
/// Established TCP connections of a namespace, from sock_diag.
pub mod connections;
/// Descriptors from one process to another.
pub mod handover;
/// What the kernel offers.
pub mod kernel;
/// Network namespaces.
pub mod netns;
/// Listeners and dialling sockets as the data path needs them.
pub mod socket;
