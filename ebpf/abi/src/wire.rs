//! What leaves a strict pod by its wire, as a pure function over facts. The connect hook takes what the pod's
//! own sockets dial in the cluster, so that none of it is ever seen here; what is seen came past the hook, or
//! is an answer.

use crate::counter::Counter;
use crate::entry::{Guard, Pass};

/// Who made a packet, as far as the kernel still knows when it leaves the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// `AF_INET` and so on, 0 for nobody: what the pod forwards, and answers of no socket.
    pub family: u32,
    /// `SOCK_STREAM` and so on.
    pub kind: u32,
    /// The device that the socket is bound to, 0 for none.
    pub device: u32,
}

impl Sender {
    /// Nobody.
    pub const NOBODY: Self = Self { family: 0, kind: 0, device: 0 };

    /// What is counted if its packet is dropped.
    #[inline(always)]
    pub fn counter(&self) -> Counter {
        const AF_INET: u32 = 2;
        const AF_INET6: u32 = 10;
        const SOCK_STREAM: u32 = 1;
        match *self {
            Self { family: 0, .. } => Counter::PastHookForwarded,
            Self { family: AF_INET | AF_INET6, kind: SOCK_STREAM, device: 0 } => Counter::PastHookSocket,
            Self { family: AF_INET | AF_INET6, kind: SOCK_STREAM, .. } => Counter::PastHookDevice,
            Self { family: AF_INET | AF_INET6, .. } => Counter::PastHookRaw,
            _ => Counter::PastHookPacket,
        }
    }
}

/// What the program knows of a TCP segment to an address of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct SegmentFacts {
    /// The header's flags.
    pub flags: u8,
    /// Whether anything follows the header.
    pub has_payload: bool,
    /// The guard of the address and port that it says it comes from.
    pub port: Option<Guard>,
    /// What was recorded of a connection that this end dials.
    pub dialled: Option<Pass>,
    /// What was recorded of a connection that the other end dials.
    pub accepted: Option<Pass>,
}

impl SegmentFacts {
    /// The flag that opens a connection (RFC 9293, section 3.1).
    pub const SYN: u8 = 0x02;
    /// The flag of every segment but the first.
    pub const ACK: u8 = 0x10;
}

/// Whether a segment to the cluster may leave. What neither opens a connection nor carries a byte may always:
/// refusals are such.
#[inline(always)]
pub fn may_leave(facts: &SegmentFacts) -> bool {
    let opens = facts.flags & SegmentFacts::SYN != 0;
    if !opens && !facts.has_payload {
        return true;
    }
    // Answers of a port that takes plaintext; nothing is dialled from it.
    let answers = !opens || facts.flags & SegmentFacts::ACK != 0;
    let is_exempt = facts.port.is_some_and(|guard| guard.action == Guard::PASS);
    let is_dialled = match facts.dialled {
        Some(Pass { kind: Pass::AGENT | Pass::CONFIRMED, .. }) => true,
        // Before the right one has seen it, it may only be opened.
        Some(Pass { kind: Pass::DIRECT, .. }) => opens,
        _ => false,
    };
    let is_accepted = matches!(facts.accepted, Some(Pass { kind: Pass::PROBE | Pass::CONFIRMED, .. }));
    answers && is_exempt || is_dialled || answers && is_accepted
}

/// The first bytes of an IP header, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A TCP header follows at this offset.
    Tcp(u32),
    /// TCP perhaps, but its header is in another packet, or behind headers that no kernel puts there.
    Hidden,
    /// Another protocol, which is none of ours.
    Other,
    /// Nothing that a kernel sends: made by hand.
    Broken,
}

const TCP: u8 = 6;

/// Reads an IPv4 header (RFC 791, section 3.1).
#[inline(always)]
pub fn next_v4(header: &[u8; 20]) -> Next {
    let length = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return Next::Broken;
    }
    let is_part = header[6] & 0x1f != 0 || header[7] != 0;
    match header[9] {
        TCP if is_part => Next::Hidden,
        TCP => Next::Tcp(length),
        _ => Next::Other,
    }
}

/// Reads an IPv6 header, and what follows it if that is a fragment's (RFC 8200, sections 3 and 4.5). No kernel
/// puts another extension header before TCP unless a process with CAP_NET_RAW asks it to.
#[inline(always)]
pub fn next_v6(header: &[u8; 40], following: &[u8; 8]) -> Next {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    if header[0] >> 4 != 6 {
        return Next::Broken;
    }
    match header[6] {
        TCP => Next::Tcp(40),
        FRAGMENT => match following[0] {
            TCP if following[2] == 0 && following[3] & 0xf8 == 0 => Next::Tcp(48),
            TCP => Next::Hidden,
            HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION => Next::Hidden,
            _ => Next::Other,
        },
        HOP_BY_HOP | ROUTING | DESTINATION => Next::Hidden,
        _ => Next::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SYN: u8 = SegmentFacts::SYN;
    const ACK: u8 = SegmentFacts::ACK;
    const BARE: SegmentFacts =
        SegmentFacts { flags: ACK, has_payload: false, port: None, dialled: None, accepted: None };

    fn pass(kind: u32) -> Option<Pass> {
        Some(Pass { cookie: 1, kind, acceptor: 0 })
    }

    #[test]
    fn what_opens_or_carries_something_must_be_known() {
        let data = SegmentFacts { has_payload: true, ..BARE };
        let opens = SegmentFacts { flags: SYN, ..BARE };
        let answers = SegmentFacts { flags: SYN | ACK, ..BARE };
        let exempt = Some(Guard { pod: 1, action: Guard::PASS });
        for (facts, leaves) in [
            (BARE, true),
            (data, false),
            (opens, false),
            (answers, false),
            (SegmentFacts { dialled: pass(Pass::AGENT), ..opens }, true),
            (SegmentFacts { dialled: pass(Pass::AGENT), ..data }, true),
            (SegmentFacts { dialled: pass(Pass::PROBE), ..opens }, false),
            (SegmentFacts { accepted: pass(Pass::PROBE), ..opens }, false),
            (SegmentFacts { accepted: pass(Pass::PROBE), ..answers }, true),
            (SegmentFacts { accepted: pass(Pass::PROBE), ..data }, true),
            (SegmentFacts { accepted: pass(Pass::AGENT), ..data }, false),
            (SegmentFacts { dialled: pass(Pass::DIRECT), ..opens }, true),
            (SegmentFacts { dialled: pass(Pass::DIRECT), ..data }, false),
            (SegmentFacts { dialled: pass(Pass::CONFIRMED), ..data }, true),
            (SegmentFacts { accepted: pass(Pass::DIRECT), ..answers }, false),
            (SegmentFacts { accepted: pass(Pass::CONFIRMED), ..answers }, true),
            (SegmentFacts { accepted: pass(Pass::CONFIRMED), ..data }, true),
            (SegmentFacts { accepted: pass(Pass::CONFIRMED), ..opens }, false),
            (SegmentFacts { port: exempt, ..opens }, false),
            (SegmentFacts { port: exempt, ..answers }, true),
            (SegmentFacts { port: exempt, ..data }, true),
            (SegmentFacts { port: Some(Guard { pod: 1, action: Guard::REFUSE }), ..data }, false),
        ] {
            assert_eq!(may_leave(&facts), leaves, "{facts:?}");
        }
    }

    #[test]
    fn whoever_sends_is_told_apart() {
        for (family, kind, device, counter) in [
            (0, 0, 0, Counter::PastHookForwarded),
            (2, 1, 0, Counter::PastHookSocket),
            (10, 1, 0, Counter::PastHookSocket),
            (10, 1, 7, Counter::PastHookDevice),
            (2, 3, 7, Counter::PastHookRaw),
            (17, 3, 7, Counter::PastHookPacket),
            (17, 2, 0, Counter::PastHookPacket),
            (44, 3, 0, Counter::PastHookPacket),
        ] {
            assert_eq!(Sender { family, kind, device }.counter(), counter);
        }
    }

    #[test]
    fn tcp_is_found_behind_options_and_in_fragments() {
        let v4 = |first: u8, fragment: [u8; 2], protocol: u8| {
            let mut header = [0; 20];
            (header[0], header[6], header[7], header[9]) = (first, fragment[0], fragment[1], protocol);
            next_v4(&header)
        };
        assert_eq!(v4(0x45, [0x40, 0], 6), Next::Tcp(20));
        assert_eq!(v4(0x4f, [0, 0], 6), Next::Tcp(60));
        assert_eq!(v4(0x45, [0x20, 0], 6), Next::Tcp(20));
        assert_eq!(v4(0x45, [0x20, 1], 6), Next::Hidden);
        assert_eq!(v4(0x45, [0x01, 0], 6), Next::Hidden);
        assert_eq!(v4(0x45, [0x20, 1], 17), Next::Other);
        assert_eq!((v4(0x44, [0, 0], 6), v4(0x65, [0, 0], 6)), (Next::Broken, Next::Broken));
        let v6 = |first: u8, next: u8, following: [u8; 4]| {
            let (mut header, mut more) = ([0; 40], [0; 8]);
            (header[0], header[6]) = (first, next);
            more[..4].copy_from_slice(&following);
            next_v6(&header, &more)
        };
        assert_eq!(v6(0x60, 6, [0; 4]), Next::Tcp(40));
        assert_eq!(v6(0x60, 17, [0; 4]), Next::Other);
        assert_eq!(v6(0x60, 44, [6, 0, 0, 1]), Next::Tcp(48));
        assert_eq!(v6(0x60, 44, [6, 0, 0, 9]), Next::Hidden);
        assert_eq!(v6(0x60, 44, [17, 0, 1, 1]), Next::Other);
        for (next, following) in [(43, 6), (0, 6), (60, 6), (44, 60)] {
            assert_eq!(v6(0x60, next, [following, 0, 0, 0]), Next::Hidden);
        }
        assert_eq!(v6(0x40, 6, [0; 4]), Next::Broken);
    }

    proptest! {
        #[test]
        fn what_nobody_recorded_neither_opens_nor_carries(flags: u8, has_payload: bool, refused: bool) {
            let port = refused.then_some(Guard { pod: 1, action: Guard::REFUSE });
            let facts = SegmentFacts { flags, has_payload, port, dialled: None, accepted: None };
            let harmless = flags & SYN == 0 && !has_payload;
            prop_assert_eq!(may_leave(&facts), harmless);
        }
    }
}
