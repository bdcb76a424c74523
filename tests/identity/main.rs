//! Controller, CA API and the agents' store over real TLS and gRPC on loopback.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod controller;
mod issue;
mod renew;
mod trust;
mod world;
