//! What a worker does with a connection: outbound, from a pod's listener to its way; inbound, from a
//! tunnel to the pod; and follows those that no agent carries. Joins capture, route, tunnel, deliver and observe;
//! decides nothing itself.

mod clients;
mod direct;
mod follow;
mod inbound;
mod outbound;
mod plain;
mod standing;
mod tunnels;

/// How often who waits for a pod of this node to be captured looks again.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

pub use clients::Clients;
pub use direct::Direct;
pub use inbound::{Identities, Inbound, Known};
pub use outbound::Outbound;
pub use plain::Plain;
pub use standing::Standing;
pub use tunnels::Tunnels;
