//! Fills the snapshot of workloads, Services and nodes
