//! Types and verdicts shared by the kernel and the user side: what lies in the maps, and the
//! decisions of the hooks as pure functions over facts. Programs read the context, ask here for the
//! verdict and act; nothing here does I/O or follows a pointer.

#![cfg_attr(not(test), no_std)]

/// Addresses and tuples as they lie in keys.
pub mod address;
/// Why a hook did what it did; the index of a per-CPU counter.
pub mod counter;
/// Connections that two pods of one node make without the agent.
pub mod direct;
/// Values and keys of the maps.
pub mod entry;
/// Connections that no agent carries.
pub mod follow;
/// What reaches a strict pod.
pub mod guard;
/// Which worker carries what a pod dials.
pub mod load;
/// What a connect hook decides.
pub mod verdict;
/// What leaves a strict pod.
pub mod wire;

#[cfg(feature = "user")]
mod pod;

pub use address::{Address, Tuple};
pub use counter::Counter;
pub use direct::{DirectKey, DirectValue};
pub use entry::{
    Config, DestinationKey, DestinationValue, Flow, Guard, LAYOUT_VERSION, Pass, PeerName, PodEntry, Refused,
    WORKERS_MAX,
};
pub use follow::{FollowedEvent, FollowedSocket};
pub use guard::{Admission, LookupFacts};
pub use verdict::{ConnectFacts, Gate, Verdict};
