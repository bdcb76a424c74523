//! Sockets, network namespaces, cgroups and capabilities: the privileged and unsafe user code
//! outside eBPF. Nothing here decides anything.

/// The bpf file system that pins are on.
pub mod bpffs;
/// What the process may do.
pub mod capability;
/// Control groups (v2): where they are mounted, their ids, their life.
pub mod cgroup;
/// Established TCP connections of a namespace, from sock_diag.
pub mod connections;
/// CPU time.
pub mod cpu;
/// Descriptors from one process to another.
pub mod handover;
/// What the kernel offers.
pub mod kernel;
/// TLS 1.3 records that the kernel carries.
pub mod ktls;
/// Interfaces of a namespace, and which of them are the two ends of one wire.
pub mod links;
/// What others can get of this process's memory.
pub mod memory;
mod netlink;
/// Network namespaces.
pub mod netns;
/// Pods of this node as the kernel has them.
pub mod pods;
/// What a service manager wants to be told.
pub mod service;
/// Listeners and dialling sockets as the data path needs them.
pub mod socket;
/// Bytes between two sockets that never come into this process's memory.
pub mod splice;
