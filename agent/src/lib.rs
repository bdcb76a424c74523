//! Lark's agent and controller, in the order in which a connection meets them.

#![forbid(unsafe_code)]

/// The admin API and metrics over HTTP.
pub mod admin;
/// Wiring.
pub mod app;
/// Pods of this node: captured and released, and their listeners.
pub mod capture;
/// The command line.
pub mod cli;
/// The CA API for the mesh.
pub mod controller;
/// The last step: into the destination pod.
pub mod deliver;
/// Live table, edges, metrics, access log.
pub mod observe;
/// What a worker does with a connection.
pub mod proxy;
