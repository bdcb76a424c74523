//! Controller, CA API and the agents' store over real TLS and gRPC on loopback.

mod controller;
mod issue;
mod renew;
mod trust;
mod world;
