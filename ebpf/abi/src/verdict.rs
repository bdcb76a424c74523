//! What the connect hooks decide, as pure functions over facts.
//!
//! In two steps, so that the common case (a destination outside the mesh) costs one look-up and
//! nothing else: [`gate`] before the look-up, [`decide`] after a hit.

use crate::address::Address;
use crate::counter::Counter;
use crate::entry::{Config, DestinationValue, PodEntry, WORKERS_MAX};

/// What the hook knows of a connect before it looks anything up.
#[derive(Debug, Clone, Copy)]
pub struct ConnectFacts {
    /// Where the application wants to go.
    pub destination: Address,
    /// The port, host byte order.
    pub port: u16,
    /// Index of the device the socket is bound to, 0 for none.
    pub device: u32,
    /// Address the socket is bound to, `::` for none.
    pub source: Address,
    /// The worker that is to carry it, below [`PodEntry::workers`].
    pub worker: u32,
    /// Age of the agent's heartbeat in nanoseconds.
    pub heartbeat_age_ns: u64,
}

/// The answer before the look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Leave the connect alone.
    Untouched(Counter),
    /// Refuse it with ECONNREFUSED.
    Refuse(Counter),
    /// Look the destination up; a miss leaves it alone as [`Counter::NotMesh`].
    LookUp,
}

/// The answer for a mesh destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Leave the connect alone.
    Untouched(Counter),
    /// Refuse it with ECONNREFUSED.
    Refuse(Counter),
    /// Point the socket at this listener of the pod's own namespace.
    Redirect {
        /// Address of the listener.
        address: Address,
        /// Port of the listener.
        port: u16,
    },
}

/// Before the look-up: what concerns the pod itself.
#[inline(always)]
pub fn gate(pod: &PodEntry, facts: &ConnectFacts) -> Gate {
    let own = facts.destination.same(&pod.own_v4) || facts.destination.same(&pod.own_v6);
    // Also while the pod is inactive: nobody but the hook may send to a listener.
    if (own || facts.destination.is_loopback() || facts.destination.is_unspecified())
        && pod.listens_on(facts.port)
    {
        return Gate::Refuse(Counter::ListenerDialled);
    }
    if pod.flags & (PodEntry::ACTIVE | PodEntry::STRICT | PodEntry::ORPHANED) == 0 {
        return Gate::Untouched(Counter::PodInactive);
    }
    // A pod that talks to itself never leaves its namespace; for a host-network pod the own
    // addresses are the node's and no mesh destination either.
    if own {
        return Gate::Untouched(Counter::OwnAddress);
    }
    Gate::LookUp
}

/// After a miss among the mesh destinations: what a strict pod dials inside the cluster's own ranges is a
/// destination that discovery may still hear of, so the agent decides.
#[inline(always)]
pub fn is_waited_for(pod: &PodEntry, in_cluster: bool) -> bool {
    in_cluster && pod.flags & PodEntry::STRICT != 0
}

/// After a hit among the mesh destinations, or for what [`is_waited_for`].
#[inline(always)]
pub fn decide(pod: &PodEntry, config: &Config, facts: &ConnectFacts, found: &DestinationValue) -> Verdict {
    let strict = pod.flags & PodEntry::STRICT != 0;
    let active = pod.flags & PodEntry::ACTIVE != 0;
    // It has no certificate, and what it dials is not left alone.
    if strict && !active {
        return Verdict::Refuse(Counter::PendingRefused);
    }
    // Without being active otherwise only what another agent captured comes here.
    if !active || facts.heartbeat_age_ns > config.heartbeat_stale_ns {
        return if strict || config.flags & Config::REFUSE_WHEN_DOWN != 0 {
            Verdict::Refuse(Counter::AgentDownRefused)
        } else {
            Verdict::Untouched(Counter::AgentDownUntouched)
        };
    }
    if found.action != DestinationValue::REDIRECT {
        return Verdict::Refuse(Counter::NoReadyEndpoint);
    }
    let own = if facts.destination.is_v4() { pod.own_v4 } else { pod.own_v6 };
    let source_known = facts.source.is_unspecified()
        || facts.source.is_loopback()
        || facts.source.same(&own)
        || pod.flags & PodEntry::HOST_NETWORK != 0;
    if !source_known {
        return Verdict::Refuse(Counter::OddSource);
    }
    let (address, port) = if facts.device == 0 {
        (facts.destination.loopback_of_family(), loopback_port(pod, facts))
    } else {
        // Loopback would put the SYN on the bound device's wire; the pod's own address does not.
        (own, if facts.destination.is_v4() { pod.device_v4 } else { pod.device_v6 })
    };
    if port == 0 || address.is_unspecified() {
        return Verdict::Refuse(Counter::NoListener);
    }
    Verdict::Redirect { address, port }
}

#[inline(always)]
fn loopback_port(pod: &PodEntry, facts: &ConnectFacts) -> u16 {
    if facts.worker >= pod.workers {
        return 0;
    }
    // The mask repeats what is so already, for the verifier.
    let index = facts.worker as usize & (WORKERS_MAX - 1);
    if facts.destination.is_v4() { pod.loopback_v4[index] } else { pod.loopback_v6[index] }
}

#[cfg(test)]
mod tests;
