//! At which ports the answer of policies may be another than at the rest: what a verdict for all ports of a pod
//! must leave out.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::network::{PortMatch, Ports};
use super::{Direction, PolicyIndex};
use crate::snapshot::Workload;

/// Ports that are told one by one; policies that name more between two pods are asked each time.
pub const PORTS_MAX: usize = 64;

/// Ports that policies of a workload, or of two, look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortsAsked {
    ports: BTreeSet<u16>,
    /// Some are named, and so those that the accepting pod names.
    by_name: bool,
    /// They are more than can be told one by one.
    too_many: bool,
}

impl PortsAsked {
    fn add(&mut self, range: &RangeInclusive<u16>) {
        // A rule for all ports tells none apart. Nobody dials port 0.
        if *range.start() <= 1 && *range.end() == u16::MAX {
            return;
        }
        if range.len() > PORTS_MAX {
            self.too_many = true;
        } else {
            self.ports.extend(range.clone());
        }
    }

    fn add_all(&mut self, ports: &Ports) {
        let Ports::These(ports) = ports else { return };
        for port in ports {
            match port {
                PortMatch::Any => {}
                PortMatch::Range(range) => self.add(range),
                PortMatch::Name(_) => self.by_name = true,
            }
        }
    }

    /// The ports of `destination` that are to be asked about one by one, beside one that stands for all the
    /// others; nothing if they are too many. `self` is what is asked of the source, `inbound` of the destination.
    pub fn between(&self, inbound: &Self, destination: &Workload) -> Option<BTreeSet<u16>> {
        let mut ports: BTreeSet<u16> = self.ports.union(&inbound.ports).copied().collect();
        if self.by_name || inbound.by_name {
            ports.extend(destination.ports.iter().map(|named| named.port));
        }
        ports.remove(&0);
        (!self.too_many && !inbound.too_many && ports.len() <= PORTS_MAX).then_some(ports)
    }
}

impl PolicyIndex {
    /// Ports that policies look at when a workload dials.
    pub fn ports_of_source(&self, workload: &Workload) -> PortsAsked {
        let mut asked = PortsAsked::default();
        let rules = self.network_of(workload).filter_map(|policy| policy.rules(Direction::Egress));
        rules.flatten().for_each(|rule| asked.add_all(&rule.ports));
        asked
    }

    /// Ports that policies look at when a workload is dialled, those under dry run among them.
    pub fn ports_of_destination(&self, workload: &Workload) -> PortsAsked {
        let mut asked = PortsAsked::default();
        let rules = self.network_of(workload).filter_map(|policy| policy.rules(Direction::Ingress));
        rules.flatten().for_each(|rule| asked.add_all(&rule.ports));
        let rules = self.authorization_of(workload).flat_map(|policy| &policy.rules);
        rules.flat_map(|rule| &rule.ports).for_each(|range| asked.add(range));
        asked
    }
}
