//! Controller, CA API and the agents' store over real TLS and gRPC on loopback.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod agent;
mod attacks;
mod controller;
mod foreign;
mod given;
mod issue;
mod join;
mod logs;
mod renew;
mod rotate;
mod skew;
mod trust;
mod world;
