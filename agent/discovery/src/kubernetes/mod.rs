//! The API of a cluster, watched: `--discovery kubernetes`.
//!
//! `object` and `fact` reduce what the API sends while it is parsed, `store` and `world` make the snapshot of
//! it (pure), `watch` does the I/O; `token` asks whose a token is, `access` what somebody may see; `reach` is the way to
//! the controller for people; `shared` is what replicas of the controller share; `events` tells people of pods that
//! are not captured; `crd` is the schema of the kind that Lark brings along.

mod access;
mod client;
mod crd;
mod events;
mod fact;
mod failure;
/// A set that is small in nearly all cases.
mod few;
mod object;
mod reach;
mod shared;
mod store;
mod token;
mod watch;
mod world;

pub use access::{AccessError, AccessReviews, User};
pub use client::{Access, ConnectError};
pub use crd::authorization_schema;
pub use events::{About, Events};
pub use reach::{Forwarded, Reach, ReachError, Where};
pub use shared::{Files, Found, Held, Shared, SharedError, Texts};
pub use token::{Bearer, ReviewError, TokenReviews};
pub use watch::{Mesh, watch};
