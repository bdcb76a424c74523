//! Connections that two pods of one node make without the agent (`sameNode: direct`): what user space has
//! decided of them, and what the kernel remembers and tells of them. A verdict names the network namespace that
//! is to accept; a hook of the pod in there says so while it answers the SYN, and without that nothing of the
//! connection leaves the pod that dials.

use crate::entry::PodEntry;
use crate::verdict::ConnectFacts;

/// Key of a verdict. Looked up first with the port, then with port 0 (any other).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct DirectKey {
    /// The address that is dialled, words in network byte order (see [`Address`]).
    pub address_be: [u32; 4],
    /// The agent's number for the pod that dials.
    pub pod: u32,
    /// The port that is dialled, 0 for any.
    pub port: u16,
    /// Always zero.
    pub padding: u16,
}

/// What user space has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DirectValue {
    /// When: a verdict of another generation than the current one says nothing. None is of generation 0, which
    /// stands for no verdict.
    pub generation: u32,
    /// Who is to accept, see [`acceptor_of`]; 0 if the agent is to be asked.
    pub acceptor: u32,
}

/// The number of a network namespace in verdicts, from its cookie (`SO_NETNS_COOKIE`, Linux 5.14): the kernel
/// counts these upwards and gives none twice, so the lower half tells four thousand million of them apart.
#[inline(always)]
pub const fn acceptor_of(cookie: u64) -> u32 {
    (cookie & 0xffff_ffff) as u32
}

/// Who is to accept a connect that would be taken to the agent; 0 if it is to be taken. `exact` is the verdict
/// for the very port, which beats the one for all others even if it is of another generation.
#[inline(always)]
pub fn acceptor(
    pod: &PodEntry,
    facts: &ConnectFacts,
    generation: u32,
    exact: DirectValue,
    other: DirectValue,
) -> u32 {
    let own = if facts.destination.is_v4() { pod.own_v4 } else { pod.own_v6 };
    // A socket that is bound to something may leave by another way than the verdict was made for.
    let is_plain = facts.device == 0 && (facts.source.is_unspecified() || facts.source.same(&own));
    if generation == 0 || !is_plain || pod.flags & PodEntry::HOST_NETWORK != 0 {
        return 0;
    }
    let found = if exact.generation != 0 { exact } else { other };
    if found.generation == generation { found.acceptor } else { 0 }
}

const _: () = assert!(size_of::<DirectKey>() == 24);
const _: () = assert!(size_of::<DirectValue>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use core::net::IpAddr;
    use proptest::prelude::*;

    fn address(text: &str) -> Address {
        Address::from(text.parse::<IpAddr>().unwrap())
    }

    fn pod() -> PodEntry {
        PodEntry {
            pod_id: 7,
            flags: PodEntry::ACTIVE,
            own_v4: address("10.0.0.7"),
            own_v6: address("fd00::7"),
            ..PodEntry::default()
        }
    }

    fn facts() -> ConnectFacts {
        ConnectFacts {
            destination: address("10.0.0.8"),
            port: 80,
            device: 0,
            source: Address::UNSPECIFIED,
            worker: 0,
            heartbeat_age_ns: 0,
        }
    }

    const NONE: DirectValue = DirectValue { generation: 0, acceptor: 0 };

    const fn value(generation: u32, acceptor: u32) -> DirectValue {
        DirectValue { generation, acceptor }
    }

    #[test]
    fn a_verdict_counts_in_its_own_generation_and_the_ports_own_comes_first() {
        for (generation, exact, other, expected) in [
            (3, NONE, NONE, 0),
            (3, value(3, 9), NONE, 9),
            (3, NONE, value(3, 9), 9),
            (3, value(2, 9), NONE, 0),
            // One that is stale or says no is not passed by.
            (3, value(2, 0), value(3, 9), 0),
            (3, value(3, 0), value(3, 9), 0),
            (3, value(3, 9), value(2, 0), 9),
            (0, value(0, 9), value(0, 9), 0),
        ] {
            assert_eq!(acceptor(&pod(), &facts(), generation, exact, other), expected, "{exact:?} {other:?}");
        }
    }

    #[test]
    fn what_is_bound_elsewhere_or_on_the_host_network_goes_to_the_agent() {
        let asked = |pod: &PodEntry, facts: &ConnectFacts| acceptor(pod, facts, 3, value(3, 9), NONE);
        let own = ConnectFacts { source: address("10.0.0.7"), ..facts() };
        assert_eq!(asked(&pod(), &own), 9);
        for facts in [
            ConnectFacts { device: 2, ..facts() },
            ConnectFacts { source: address("127.0.0.1"), ..facts() },
            ConnectFacts { source: address("10.0.0.9"), ..facts() },
        ] {
            assert_eq!(asked(&pod(), &facts), 0, "{facts:?}");
        }
        let host = PodEntry { flags: PodEntry::ACTIVE | PodEntry::HOST_NETWORK, ..pod() };
        assert_eq!(asked(&host, &facts()), 0);
    }

    proptest! {
        #[test]
        fn no_verdict_of_another_generation_leads_anywhere(
            generation: u32, exact: (u32, u32), other: (u32, u32),
        ) {
            let stale = |(of, acceptor): (u32, u32)| {
                if of == generation { NONE } else { value(of, acceptor) }
            };
            prop_assert_eq!(acceptor(&pod(), &facts(), generation, stale(exact), stale(other)), 0);
        }
    }
}
