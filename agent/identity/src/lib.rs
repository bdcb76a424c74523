//! Workload identities as certificates: who has which, how they are renewed, who issues them and how
//! they are proved. Keys live in memory only.

#![forbid(unsafe_code)]

/// The certificate authority itself.
pub mod ca;
/// Asking a CA over the network.
pub mod client;
/// The CA's TLS listener, and its own certificate.
pub mod listener;
/// The CA API's messages.
pub mod protocol;
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
