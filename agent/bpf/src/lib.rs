//! The kernel side as user space sees it: loading, links, pins, maps with typed keys, and the
//! committed object.

/// Connections between pods of this node that are left to them.
pub mod direct;
/// What the hooks tell of connections that no agent carries.
mod follow;
/// What keeps plaintext from strict pods.
pub mod guard;
/// The programs, in the order in which they are attached to a pod.
pub mod hook;
/// Everything together.
mod kernel;
/// Links: attaching, pinning, adopting, asking.
pub mod link;
/// Loading the object and opening its maps.
mod load;
/// The programs' messages.
mod logs;
/// A map that is made to hold exactly what is wanted.
mod mirror;
/// Typed access to maps on the data path.
pub mod socket_maps;
/// The two raw system calls that aya does not wrap.
mod syscall;

pub use direct::{Directs, OpenDirect};
pub use follow::FollowedEvents;
pub use guard::{Guards, Refusals};
pub use kernel::{Kernel, KernelConfig, MapUsage, PinnedPod, file_name, uninstall};
pub use link::{AttachError, LinkState};
pub use load::{MapError, OpenError};
pub use mirror::Synced;
pub use socket_maps::{Accepted, Claims, Counters, Heartbeat, Loads};
