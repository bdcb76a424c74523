//! Workload mTLS between two agents, and the bytes of local connections.
//!
//! A tunnel is one TLS 1.3 connection under a pair of workload identities; many streams share it.
//! Everything here lives on one worker thread: a worker has its own tunnels, and no lock lies on the
//! way of a byte.

#![forbid(unsafe_code)]

/// The accepting end.
pub mod acceptor;
/// The dialling end, with the worker's pool of tunnels.
pub mod dialer;
/// What a stream's end means.
pub mod ended;
/// One tunnel: the task that moves its bytes.
mod engine;
/// Reaching the end of a handshake.
mod handshake;
/// Two local sockets joined.
mod join;
/// The TLS server name of an identity.
pub mod name;
/// Which streams have something to do.
mod ready;
/// TLS records in and out of the node's socket.
mod record;
/// How tunnels behave.
pub mod settings;
/// One stream: a pod's socket at the end of a tunnel.
mod stream;
/// TLS configurations and the certificate verifiers.
pub mod tls;

pub use acceptor::{Acceptor, Deliver, Delivery, Inbound, LocalIdentities, ServeError};
pub use dialer::Dialer;
pub use ended::{End, Ended, Refusal};
pub use join::join;
pub use lark_core::pool::PoolKey;
pub use settings::{Observer, Side, TunnelSettings};
