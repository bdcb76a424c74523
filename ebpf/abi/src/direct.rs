//! Connections that two pods of one node make without the agent (`sameNode: direct`): what user space has
//! decided of them, and what the kernel remembers and tells of them. A verdict names the network namespace that
//! is to accept; a hook of the pod in there says so while it answers the SYN, and without that nothing of the
//! connection leaves the pod that dials.

use crate::address::Address;
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

/// What a socket that was left alone by a verdict remembers (socket storage).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DirectSocket {
    /// Where it dials.
    pub destination: Address,
    /// From where, once that is known.
    pub source: Address,
    /// The port that it dials.
    pub port: u16,
    /// Its own port, once that is known.
    pub source_port: u16,
    /// The agent's number for the pod.
    pub pod: u32,
    /// Who is to accept.
    pub acceptor: u32,
    /// [`DirectSocket::OPEN`] and others.
    pub seen: u32,
    /// The lower half of what it had received when its own end was acknowledged.
    pub received: u32,
    /// Always zero.
    pub padding: u32,
}

impl DirectSocket {
    /// It was established, and the right one had accepted.
    pub const OPEN: u32 = 1;
    /// The other end has closed its direction; the kernel counts that as a byte received (RFC 9293, 3.4).
    pub const END_IN: u32 = 2;
    /// This end has closed its direction and that was acknowledged; the kernel counts that as a byte too.
    pub const END_OUT: u32 = 4;
    /// There was no room to record it, so nobody could say that he is the right one.
    pub const UNRECORDED: u32 = 8;
}

/// What becomes of a direct connection, told to user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct DirectEvent {
    /// Cookie of the socket that dials.
    pub cookie: u64,
    /// Payload that the other end has acknowledged.
    pub sent: u64,
    /// Payload that was received.
    pub received: u64,
    /// From where.
    pub source: Address,
    /// Where to.
    pub destination: Address,
    /// The port of the source, host byte order.
    pub source_port: u16,
    /// The port that is dialled.
    pub port: u16,
    /// [`DirectEvent::OPENED`] and others.
    pub kind: u32,
    /// The agent's number for the pod that dials.
    pub pod: u32,
    /// Who accepted.
    pub acceptor: u32,
    /// What was seen of its ends, as in [`DirectSocket`].
    pub seen: u32,
    /// The smoothed round-trip time in microseconds.
    pub rtt_us: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// Always zero.
    pub padding: u32,
}

impl DirectEvent {
    /// It is established.
    pub const OPENED: u32 = 1;
    /// It has ended.
    pub const CLOSED: u32 = 2;
    /// Whoever answered is not the one that the verdict names; nothing left the pod that dialled.
    pub const UNCONFIRMED: u32 = 3;
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

/// What has been seen of a socket's ends once it goes from one state to another. `all_acked`: everything that
/// was sent is acknowledged; `grew`: more was received since its own end was acknowledged.
#[inline(always)]
pub fn ends(seen: u32, old: u32, new: u32, all_acked: bool, grew: bool) -> u32 {
    // include/net/tcp_states.h
    const FIN_WAIT2: u32 = 5;
    const CLOSE: u32 = 7;
    const CLOSE_WAIT: u32 = 8;
    const LAST_ACK: u32 = 9;
    const CLOSING: u32 = 11;
    match (old, new) {
        (_, CLOSE_WAIT | CLOSING) => seen | DirectSocket::END_IN,
        (_, FIN_WAIT2) => seen | DirectSocket::END_OUT,
        (LAST_ACK | CLOSING, CLOSE) if all_acked => seen | DirectSocket::END_OUT,
        // Into TIME_WAIT, which is another socket's by then.
        (FIN_WAIT2, CLOSE) if grew => seen | DirectSocket::END_IN,
        _ => seen,
    }
}

/// Payload in both directions, from what the kernel counts: with the SYN and each end as a byte.
#[inline(always)]
pub fn payload(acked: u64, received: u64, seen: u32) -> (u64, u64) {
    let end = |flag: u32| if seen & flag != 0 { 1 } else { 0 };
    (acked.saturating_sub(1 + end(DirectSocket::END_OUT)), received.saturating_sub(end(DirectSocket::END_IN)))
}

const _: () = assert!(size_of::<DirectKey>() == 24);
const _: () = assert!(size_of::<DirectValue>() == 8);
const _: () = assert!(size_of::<DirectSocket>() == 56);
const _: () = assert!(size_of::<DirectEvent>() == 88);

#[cfg(test)]
mod tests {
    use super::*;
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
            spread: 0,
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

    #[test]
    fn ends_are_told_from_payload_whichever_side_is_first() {
        const IN: u32 = DirectSocket::END_IN;
        const OUT: u32 = DirectSocket::END_OUT;
        // ESTABLISHED 1, FIN_WAIT1 4, FIN_WAIT2 5, CLOSE 7, CLOSE_WAIT 8, LAST_ACK 9, CLOSING 11.
        for (way, all_acked, grew, expected) in [
            (&[(1, 4), (4, 5), (5, 7)][..], true, true, IN | OUT),
            (&[(1, 4), (4, 5), (5, 7)], true, false, OUT),
            (&[(1, 4), (4, 11), (11, 7)], true, false, IN | OUT),
            (&[(1, 8), (8, 9), (9, 7)], true, false, IN | OUT),
            // Reset in between.
            (&[(1, 8), (8, 9), (9, 7)], false, false, IN),
            (&[(1, 8), (8, 7)], true, false, IN),
            (&[(1, 4), (4, 7)], false, false, 0),
            (&[(1, 7)], true, true, 0),
        ] {
            let seen = way.iter().fold(0, |seen, (old, new)| ends(seen, *old, *new, all_acked, grew));
            assert_eq!(seen, expected, "{way:?}");
        }
        assert_eq!(payload(1, 0, 0), (0, 0));
        assert_eq!(payload(12, 5, IN | OUT), (10, 4));
        assert_eq!(payload(0, 0, IN | OUT), (0, 0));
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
