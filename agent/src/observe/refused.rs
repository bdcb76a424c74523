//! What the kernel refused to or of a strict pod, before there was a connection.

use std::net::{IpAddr, SocketAddr};

use lark_core::explain::Ending;
use lark_core::reason::Reason;
use lark_core::snapshot::Snapshot;
use lark_core::strict;
use lark_core::view::Party;

use super::{Direction, Observer, Opening};

impl Observer {
    /// Somebody was refused; `hosts`: the addresses of this node's host; `to_listener`: at a listener of the
    /// agent's own.
    pub fn refused_by_strict(
        &self,
        snapshot: &Snapshot,
        node: &str,
        hosts: &[IpAddr],
        source: SocketAddr,
        destination: SocketAddr,
        to_listener: bool,
    ) {
        let refusal = strict::refusal(snapshot, node, hosts, source.ip(), destination.ip(), to_listener);
        let connection = self.open(Opening {
            direction: Direction::Inbound,
            source: Party::at(source.ip(), snapshot),
            destination: Party::at(destination.ip(), snapshot),
            service: None,
            source_address: source,
            destination_address: destination,
            peer: None,
        });
        connection.ended(Ending::Refused, Some((refusal.reason, &refusal.detail)));
    }

    /// Something left a strict pod past its hooks and was dropped. Which pod is known by the interface where
    /// that happened, whatever address was written as the source's.
    pub fn past_hook(
        &self,
        snapshot: &Snapshot,
        uid: Option<&str>,
        source: SocketAddr,
        destination: SocketAddr,
        refusal: (Reason, &str),
    ) {
        let pod = uid.and_then(|uid| snapshot.workload(uid));
        let connection = self.open(Opening {
            direction: Direction::Outbound,
            source: pod.map_or_else(|| Party::at(source.ip(), snapshot), |pod| Party::of(pod).unproved()),
            destination: Party::at(destination.ip(), snapshot),
            service: None,
            source_address: source,
            destination_address: destination,
            peer: None,
        });
        connection.ended(Ending::Refused, Some(refusal));
    }
}
