//! What a worker does with a connection: outbound, from a pod's listener to its way; inbound, from a
//! tunnel to the pod. Joins capture, route, tunnel, deliver and observe; decides nothing itself.

mod clients;
mod inbound;
mod outbound;
mod standing;
mod tunnels;

pub use clients::Clients;
pub use inbound::{Identities, Inbound, Known};
pub use outbound::Outbound;
pub use standing::Standing;
pub use tunnels::Tunnels;
