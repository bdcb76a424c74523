//! Workload mTLS between two agents, and the bytes of local connections.
//!
//! A tunnel is one TLS 1.3 connection under a pair of workload identities; many streams share it.
//! A tunnel lives on one worker thread: a worker has its own tunnels, and no lock lies on the way of a
//! byte. Only between its handshake and its first stream may an accepted one change the worker.

#![forbid(unsafe_code)]

/// The accepting end.
pub mod acceptor;
/// What arrived for a pod that does not take it now.
mod backlog;
/// The ciphers, and which first.
pub mod cipher;
/// The dialling end, with the worker's pool of tunnels.
pub mod dialer;
/// What a stream's end means.
pub mod ended;
/// One tunnel: the task that moves its bytes.
mod engine;
/// What becomes of a stream, told to whoever carries the connection.
mod fate;
/// Reaching the end of a handshake, and why one failed.
mod handshake;
/// Bytes that wait for applications, and their limit.
mod held;
/// Two local sockets joined.
mod join;
/// What an accepting end has on its hands, and its limits.
mod load;
/// The TLS server name of an identity.
pub mod name;
/// Pipes for bytes that are not looked at.
mod pipes;
/// A pod's socket.
mod pod;
/// For how long a handshake counts.
mod proof;
/// Which streams have something to do.
mod ready;
/// TLS records in and out of the node's socket.
mod record;
/// How tunnels behave, and who watches them.
pub mod settings;
/// A worker's spin before it sleeps.
mod spin;
/// One stream: a pod's socket at the end of a tunnel.
mod stream;
/// TLS configurations and the certificate verifiers.
pub mod tls;
/// What passes on one connection: counted and recognised.
mod traffic;

pub use acceptor::{Acceptor, Deliver, Delivery, Inbound, LocalIdentities, Proved, ServeError};
pub use dialer::{Carrying, Dialer};
pub use ended::{End, Ended, Refusal};
pub use engine::TunnelError;
pub use handshake::HandshakeError;
pub use held::{Holding, PodShare};
pub use join::join;
pub use lark_core::pool::PoolKey;
pub use pod::{PodSocket, PodSocketListener};
pub use record::RecordError;
#[cfg(any(test, feature = "fuzzing"))]
pub use record::replay;
pub use settings::{Observer, Side, TunnelSettings};
pub use spin::{moved, spin};
pub use stream::Carried;
pub use traffic::Traffic;

/// An error of the system, with what to do about it.
fn told(error: &std::io::Error) -> String {
    lark_core::explain::told(error, error.raw_os_error())
}
