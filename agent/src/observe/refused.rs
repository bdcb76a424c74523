//! Connections that the kernel refused to a strict pod, before there was one.

use std::net::SocketAddr;

use lark_core::explain::Ending;
use lark_core::snapshot::Snapshot;
use lark_core::strict;
use lark_core::view::Party;

use super::{Direction, Observer, Opening};

impl Observer {
    /// Somebody was refused; `to_listener`: at a listener of the agent's own.
    pub fn refused_by_strict(
        &self,
        snapshot: &Snapshot,
        node: &str,
        source: SocketAddr,
        destination: SocketAddr,
        to_listener: bool,
    ) {
        let refusal = strict::refusal(snapshot, node, source.ip(), destination.ip(), to_listener);
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
}
