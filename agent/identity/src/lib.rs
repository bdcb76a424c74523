//! Workload identities as certificates: who has which, how they are renewed, who issues them and how
//! they are proved. Keys live in memory only.

#![forbid(unsafe_code)]

/// The roots of a mesh on disk, while one takes the place of another.
pub mod authority;
/// The certificate authority itself.
pub mod ca;
/// Asking a CA over the network.
pub mod client;
/// What a node shows its CA.
pub mod credential;
/// The agent's end of the stream that it keeps to the controller.
pub mod follow;
/// A CA in files of somebody else's.
pub mod given;
mod kept;
/// The CA's TLS listener, and its own certificate.
pub mod listener;
/// The nodes of the mesh, by token and credential.
pub mod members;
/// The controller's end of the agents' streams.
pub mod nodes;
/// The CA API's messages.
pub mod protocol;
/// What the controller refused, by reason.
pub mod refusals;
/// The roots that an agent trusts, from files.
pub mod roots;
/// The CA API's accepting end: who asks, and may he have it?
pub mod service;
/// The SVIDs of a node, kept valid.
pub mod store;
/// An identity with its certificate and key, and the roots that are accepted.
pub mod svid;
/// Join tokens of nodes.
pub mod token;
/// The chain and the one SPIFFE ID of a certificate.
pub mod verify;

pub use store::{SvidState, SvidStatus, SvidStore};
pub use svid::{Svid, TrustBundle};
