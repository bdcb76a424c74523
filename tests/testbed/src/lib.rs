//! Nodes and pods out of network namespaces and cgroups, on this machine: for tests, demo and bench.
//!
//! A bed has a wire (a bridge in a namespace of its own), nodes on it, and pods behind their nodes,
//! routed, so that traffic between pods of two nodes crosses the wire. Addresses are the same in every
//! bed; namespaces keep beds apart, so many run side by side. Everything is taken down by a process of
//! its own when the bed is dropped or its owner dies, however it dies.

#![forbid(unsafe_code)]

mod agents;
mod bed;
mod checked;
pub mod faults;
mod host;
/// A peer that breaks the rules.
pub mod hostile;
mod mesh;
mod place;
mod pure;
mod reaper;
mod servers;
mod two_nodes;
mod wire;

pub use agents::{Agent, Controller, lark_binary};
pub use bed::{Node, Pod, Testbed};
pub use checked::{Checked, Echo, Load, Seen};
pub use faults::{Fault, Record};
pub use host::Host;
pub use lark_core::constants::LABEL_CAPTURE;
pub use mesh::Mesh;
pub use place::{Place, Running, eventually};
pub use pure::on_pure_cgroup_v2;
pub use reaper::Reaper;
pub use servers::{Nginx, Postgres, Redis, Requests, Served, need};
pub use two_nodes::TwoNodes;
pub use wire::{Wire, occurrences};
