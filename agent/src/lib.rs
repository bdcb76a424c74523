//! Lark's agent and controller, in the order in which a connection meets them.

#![forbid(unsafe_code)]

/// Pods of this node: captured and released, and their listeners.
pub mod capture;
/// What a worker does with a connection.
pub mod proxy;
/// The last step: into the destination pod.
pub mod deliver;
/// Live table, edges, metrics, access log.
pub mod observe;
/// The admin API and metrics over HTTP.
pub mod admin;
/// The CA API for the mesh.
pub mod controller;
/// From where people are to the controller of a cluster.
pub mod reach;
/// The command line.
pub mod cli;
/// The web page, relayed to a loopback port.
pub mod dashboard;
/// Wiring.
pub mod app;
