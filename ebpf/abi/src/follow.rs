//! Connections that no agent carries, followed by their pods' hooks from the moment that they are established to
//! their end: those that a verdict leaves to two pods of one node ([`crate::direct`]), and those in plaintext.

use crate::address::{Address, Tuple};

/// What a socket remembers of a connection that is followed (socket storage).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FollowedSocket {
    /// What is dialled.
    pub destination: Address,
    /// From where, once that is known.
    pub source: Address,
    /// The port that is dialled.
    pub port: u16,
    /// The port that it is dialled from, once that is known.
    pub source_port: u16,
    /// The agent's number for the pod, 0 at the end that accepted.
    pub pod: u32,
    /// The namespace ([`crate::direct::acceptor_of`]) that is to accept by a verdict; of plaintext its own.
    pub namespace: u32,
    /// [`FollowedSocket::OPEN`] and others.
    pub seen: u32,
    /// The lower half of what it had received when its own end was acknowledged.
    pub received: u32,
    /// Always zero.
    pub padding: u32,
}

impl FollowedSocket {
    /// It was established, and the right one had accepted.
    pub const OPEN: u32 = 1;
    /// The other end has closed its direction; the kernel counts that as a byte received (RFC 9293, 3.4).
    pub const END_IN: u32 = 2;
    /// This end has closed its direction and that was acknowledged; the kernel counts that as a byte too.
    pub const END_OUT: u32 = 4;
    /// There was no room to record it, so nobody could say that he is the right one.
    pub const UNRECORDED: u32 = 8;
    /// This end has accepted; the kernel counts no SYN among what was acknowledged.
    pub const ACCEPTED: u32 = 16;
    /// By no verdict, but in plaintext: with a peer outside the mesh, or with one that is not captured.
    pub const PLAIN: u32 = 32;
}

/// What becomes of one, told to user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FollowedEvent {
    /// Cookie of the socket that is followed: the one that dialled, or that accepted plaintext.
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
    /// [`FollowedEvent::OPENED`] and others.
    pub kind: u32,
    /// The agent's number for the pod that dials, 0 at the end that accepted. Each agent has numbers of its own.
    pub pod: u32,
    /// The namespace that accepted by a verdict; of plaintext that of the socket.
    pub namespace: u32,
    /// What was seen of its ends, as in [`FollowedSocket`].
    pub seen: u32,
    /// The smoothed round-trip time in microseconds.
    pub rtt_us: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// Always zero.
    pub padding: u32,
}

impl FollowedEvent {
    /// It is established.
    pub const OPENED: u32 = 1;
    /// It has ended.
    pub const CLOSED: u32 = 2;
    /// Whoever answered is not the one that the verdict names; nothing left the pod that dialled.
    pub const UNCONFIRMED: u32 = 3;
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
        (_, CLOSE_WAIT | CLOSING) => seen | FollowedSocket::END_IN,
        (_, FIN_WAIT2) => seen | FollowedSocket::END_OUT,
        (LAST_ACK | CLOSING, CLOSE) if all_acked => seen | FollowedSocket::END_OUT,
        // Into TIME_WAIT, which is another socket's by then.
        (FIN_WAIT2, CLOSE) if grew => seen | FollowedSocket::END_IN,
        _ => seen,
    }
}

/// Payload in both directions, from what the kernel counts: with the SYN of the end that dialled and each end as a
/// byte.
#[inline(always)]
pub fn payload(acked: u64, received: u64, seen: u32) -> (u64, u64) {
    let has = |flag: u32| if seen & flag != 0 { 1 } else { 0 };
    let syn = 1 - has(FollowedSocket::ACCEPTED);
    (
        acked.saturating_sub(syn + has(FollowedSocket::END_OUT)),
        received.saturating_sub(has(FollowedSocket::END_IN)),
    )
}

/// Whether an accepted connection is one of the pod with itself, or with an agent that delivers: those never leave
/// its namespace, and are none with a peer.
#[inline(always)]
pub fn is_within(accepted: &Tuple) -> bool {
    accepted.source.is_loopback()
        || accepted.destination.is_loopback()
        || accepted.source.same(&accepted.destination)
}

/// Whether what is dialled in plaintext leaves the pod: not what is said to nobody's address, which the kernel takes
/// for loopback.
#[inline(always)]
pub fn leaves(destination: &Address) -> bool {
    !destination.is_loopback() && !destination.is_unspecified()
}

const _: () = assert!(size_of::<FollowedSocket>() == 56);
const _: () = assert!(size_of::<FollowedEvent>() == 88);

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    #[test]
    fn ends_are_told_from_payload_whichever_side_is_first() {
        const IN: u32 = FollowedSocket::END_IN;
        const OUT: u32 = FollowedSocket::END_OUT;
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
        assert_eq!(payload(11, 5, IN | OUT | FollowedSocket::ACCEPTED), (10, 4));
        assert_eq!(payload(0, 0, FollowedSocket::ACCEPTED), (0, 0));
    }

    #[test]
    fn what_stays_within_the_pod_is_no_connection_with_a_peer() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        for (source, destination, expected) in [
            ("10.0.0.8", "10.0.0.7", false),
            ("fd00::8", "fd00::7", false),
            ("127.3.0.1", "127.0.0.1", true),
            ("::1", "::1", true),
            ("127.0.0.1", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.7", true),
        ] {
            let tuple =
                Tuple { source: address(source), destination: address(destination), ..Tuple::default() };
            assert_eq!(is_within(&tuple), expected, "{source} {destination}");
        }
        let left =
            ["10.0.0.8", "fd00::8", "127.0.0.1", "::1", "0.0.0.0", "::"].map(|to| leaves(&address(to)));
        assert_eq!(left, [true, true, false, false, false, false]);
    }
}
