//! What a worker does with a connection: outbound, from a pod's listener to its way; inbound, from a
//! tunnel to the pod. Joins capture, route, tunnel, deliver and observe; decides nothing itself.

mod inbound;
mod outbound;

pub use inbound::{Identities, Inbound};
pub use outbound::Outbound;
