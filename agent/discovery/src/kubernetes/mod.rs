//! The API of a cluster, watched: `--discovery kubernetes`.
//!
//! `object` and `fact` reduce what the API sends while it is parsed, `store` and `world` make the snapshot of
//! it (pure), `watch` does the I/O.

mod client;
mod fact;
mod failure;
mod object;
mod store;
mod watch;
mod world;

pub use client::{Access, ConnectError};
pub use watch::{Mesh, watch};
