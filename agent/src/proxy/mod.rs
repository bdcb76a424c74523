//! What a worker does with a connection: outbound, from a pod's listener to its way; inbound, from a
//! tunnel to the pod; and follows those that the kernel left to two pods. Joins capture, route, tunnel, deliver and observe; decides nothing itself.

mod clients;
mod direct;
mod inbound;
mod outbound;
mod standing;
mod tunnels;

pub use clients::Clients;
pub use direct::Direct;
pub use inbound::{Identities, Inbound, Known};
pub use outbound::Outbound;
pub use standing::Standing;
pub use tunnels::Tunnels;
