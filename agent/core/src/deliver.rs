//! The checks before a stream is delivered to its pod (DESIGN: "deliver, inbound").

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::identity::SpiffeId;
use crate::reason::Reason;
use crate::snapshot::{Snapshot, Workload};

/// What a stream claims, and what its tunnel proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Identity that the dialling agent proved.
    pub client: &'a SpiffeId,
    /// Identity that this agent proved to it.
    pub server: &'a SpiffeId,
    /// Address that the tunnel came from.
    pub peer: IpAddr,
    /// Pod and port to deliver to.
    pub authority: SocketAddr,
    /// Whose connection it is said to be.
    pub source: SocketAddr,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Everything agrees.
    Deliver {
        /// The destination, of this node.
        destination: Arc<Workload>,
        /// The source, of the peer's node.
        source: Arc<Workload>,
    },
    /// Discovery may not have heard of it yet: ask again with a newer snapshot, for a second at most,
    /// then refuse with this.
    Wait(Refused),
    /// No.
    Refuse(Refused),
}

/// Why not, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub reason: Reason,
    /// What was expected and what was found.
    pub detail: String,
}

/// Decides whether a stream that reached `node` may be delivered.
pub fn admit(snapshot: &Snapshot, node: &str, claim: &Claim<'_>) -> Admission {
    let authority = claim.authority.ip().to_canonical();
    if claim.authority.port() == 0 {
        return refuse(Reason::AuthorityPortZero, "port 0 is no application's".to_owned());
    }
    let expected = || format!("expected a captured pod of node {node} at {authority}");
    if is_local(authority) {
        return refuse(Reason::AuthorityLocal, format!("{}, which is no pod's address", expected()));
    }
    let Some(destination) = snapshot.workload_by_address(authority) else {
        if let Some(service) = snapshot.service_by_address(authority) {
            return refuse(
                Reason::AuthorityService,
                format!("{}, found Service {}", expected(), service.full_name()),
            );
        }
        if let Some(found) = snapshot.nodes_by_address(authority).first() {
            return refuse(
                Reason::AuthorityAgent,
                format!("{}, found node {} itself", expected(), found.name),
            );
        }
        return wait(Reason::NotMyWorkload, expected());
    };
    let found = || format!("{}, found {} on {}", expected(), destination.full_name(), destination.node);
    if &*destination.node != node {
        return wait(Reason::NotMyNode, found());
    }
    if !destination.capture.is_wanted() {
        return wait(Reason::NotMyWorkload, found());
    }
    if destination.identity != *claim.server {
        return refuse(
            Reason::DestinationIdentityMismatch,
            format!(
                "the tunnel was accepted as {}, but {authority} is {}",
                claim.server, destination.identity
            ),
        );
    }
    match source(snapshot, claim) {
        Ok(source) => Admission::Deliver { destination: destination.clone(), source },
        Err(detail) => wait(Reason::SourceUnknown, detail),
    }
}

/// An address that means something else on each machine, or nothing.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || match address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
}

/// The workload whose connection this is: of the proved identity, with the claimed address, on the
/// node that the tunnel comes from.
fn source(snapshot: &Snapshot, claim: &Claim<'_>) -> Result<Arc<Workload>, String> {
    let peer = claim.peer.to_canonical();
    let nodes = snapshot.nodes_by_address(peer);
    let Some(node) = nodes.first() else {
        return Err(format!("the tunnel comes from {peer}, which is no node's address"));
    };
    let claimed = claim.source.ip().to_canonical();
    let matches = |w: &Arc<Workload>| nodes.iter().any(|n| n.name == w.node) && w.identity == *claim.client;
    if let Some(workload) = snapshot.workload_by_address(claimed) {
        return if matches(workload) {
            Ok(workload.clone())
        } else {
            Err(format!(
                "{claimed} is {} ({}) on node {}, but the tunnel from node {} proved {}",
                workload.full_name(),
                workload.identity,
                workload.node,
                node.name,
                claim.client
            ))
        };
    }
    // A host-network workload calls from its node's address.
    let at_claimed = nodes.iter().filter(|n| n.addresses.iter().any(|a| a.to_canonical() == claimed));
    let mut on_host = at_claimed.flat_map(|n| snapshot.workloads_on(&n.name)).filter(|w| w.host_network);
    if let Some(workload) = on_host.find(|w| matches(w)) {
        return Ok(workload.clone());
    }
    Err(format!("no workload of {} with address {claimed} is known on node {}", claim.client, node.name))
}

fn wait(reason: Reason, detail: String) -> Admission {
    Admission::Wait(Refused { reason, detail })
}

fn refuse(reason: Reason, detail: String) -> Admission {
    Admission::Refuse(Refused { reason, detail })
}

#[cfg(test)]
mod tests;
