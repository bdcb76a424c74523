//! Which connections two pods of one node may make without the agent (`sameNode: direct`). Decided ahead for each
//! pair by the policies that an agent would ask, so that the kernel only looks up; what it cannot decide so goes
//! through the agent.

use std::net::{IpAddr, SocketAddr};

use crate::policy::{At, Passage, PortsAsked};
use crate::snapshot::{Snapshot, Workload};

/// What the kernel is told of connects from one pod to an address of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The address.
    pub address: IpAddr,
    /// The port; `None` for all that have no verdict of their own.
    pub port: Option<u16>,
    /// Whether they are left to the two pods; if not, the agent is asked.
    pub is_direct: bool,
}

/// A pod of this node with the ports at which its policies differ.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    workload: &'a Workload,
    dials: PortsAsked,
    accepts: PortsAsked,
}

impl<'a> Subject<'a> {
    /// Of a captured workload of this node.
    pub fn of(snapshot: &Snapshot, workload: &'a Workload) -> Self {
        let policies = snapshot.policies();
        Self {
            workload,
            dials: policies.ports_of_source(workload),
            accepts: policies.ports_of_destination(workload),
        }
    }
}

/// Whether a workload has an address and a namespace of its own, as both ends of a direct connection must.
pub fn may_be(workload: &Workload) -> bool {
    workload.capture.is_wanted() && !workload.host_network
}

/// The verdicts about connects from one pod to another, none where the agent decides everything. What a policy
/// under dry run would deny goes through the agent, which says so.
pub fn verdicts(snapshot: &Snapshot, source: &Subject<'_>, destination: &Subject<'_>) -> Vec<Verdict> {
    let (from, to) = (source.workload, destination.workload);
    if from.uid == to.uid || from.node != to.node || !may_be(from) || !may_be(to) {
        return Vec::new();
    }
    let Some(ports) = source.dials.between(&destination.accepts, to) else { return Vec::new() };
    // One that stands for all that nobody names; with at most a few dozen of these there always is one.
    let Some(other) = (1..=u16::MAX).find(|port| !ports.contains(port)) else { return Vec::new() };
    let mut verdicts = Vec::new();
    for address in to.identifying_addresses() {
        // It dials from its own address of that family, or from none that is its own.
        let mut own = from.identifying_addresses().filter(|own| own.is_ipv4() == address.is_ipv4());
        let (Some(own), None) = (own.next(), own.next()) else { continue };
        let is_direct = |port: u16| {
            let passage = Passage::new(from, own, Some(to), SocketAddr::new(address, port), At::Both);
            let verdict = passage.judge(snapshot);
            verdict.denied.is_none() && verdict.dry_run.is_empty()
        };
        let rest = is_direct(other);
        let single = ports.iter().map(|port| (*port, is_direct(*port))).filter(|(_, own)| *own != rest);
        verdicts.extend(single.map(|(port, is_direct)| Verdict { address, port: Some(port), is_direct }));
        if rest {
            verdicts.push(Verdict { address, port: None, is_direct: true });
        }
    }
    verdicts
}

#[cfg(test)]
mod tests;
