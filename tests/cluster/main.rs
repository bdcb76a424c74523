//! Discovery from a cluster's API, against an API server over real TLS.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod chart;
mod discover;
mod documented;
mod held;
mod laptop;
mod lives;
mod manifests;
mod node;
mod rbac;
mod real;
mod replicas;
mod reviews;
mod sight;
mod world;
