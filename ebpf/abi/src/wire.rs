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

    /// Whether it is one of the two that open a connection.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & Self::SYN != 0
    }
}

/// Whether a segment to the cluster may leave. What neither opens a connection nor carries a byte may always:
/// refusals are such.
#[inline(always)]
pub fn may_leave(facts: &SegmentFacts) -> bool {
    let opens = facts.opens();
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

/// Whether a segment carries anything. All three are counted from the beginning of the IP header: where the TCP
/// header ends, where the packet ends by what its IP header says ([`Next::Tcp`]), and where the frame ends.
///
/// What fills a short frame up is nobody's payload; what is behind the packet in any other is, though a receiver
/// would throw it away: somebody has put it there.
#[inline(always)]
pub fn has_payload(header: u32, packet: u32, frame: u32) -> bool {
    /// Frames are filled up to this (`ETH_ZLEN`, include/uapi/linux/if_ether.h), less the Ethernet header.
    const FILLED_UP: u32 = 60 - 14;
    let packet = if packet == 0 { frame } else { packet };
    packet > header || frame > packet && frame > FILLED_UP
}

/// The first bytes of an IP header, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A TCP header follows.
    Tcp {
        /// Where, from the beginning of the IP header.
        header: u32,
        /// Where the packet ends by what the IP header says, 0 if it is too large for that: the kernel makes such
        /// ones (BIG TCP, Linux 5.19 for IPv6 and 6.3 for IPv4) where the interface allows it.
        packet: u32,
    },
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
        TCP => Next::Tcp { header: length, packet: u32::from(u16::from_be_bytes([header[2], header[3]])) },
        _ => Next::Other,
    }
}

/// Reads an IPv6 header, and what follows it if that is a fragment's (RFC 8200, sections 3 and 4.5) or says that
/// the packet is a jumbogram (RFC 2675, section 2), as `ip6_xmit` puts it before BIG TCP. No kernel puts another
/// extension header before TCP unless a process with CAP_NET_RAW asks it to.
#[inline(always)]
pub fn next_v6(header: &[u8; 40], following: &[u8; 8]) -> Next {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    /// A hop-by-hop header of eight bytes with that option of four.
    const JUMBO: [u8; 3] = [0, 0xc2, 4];
    if header[0] >> 4 != 6 {
        return Next::Broken;
    }
    let length = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let packet = if length == 0 { 0 } else { 40 + length };
    let is_jumbo = following[0] == TCP && [following[1], following[2], following[3]] == JUMBO;
    match header[6] {
        TCP => Next::Tcp { header: 40, packet },
        HOP_BY_HOP if is_jumbo => Next::Tcp { header: 48, packet },
        FRAGMENT => match following[0] {
            TCP if following[2] == 0 && following[3] & 0xf8 == 0 => Next::Tcp { header: 48, packet },
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
        let tcp = |header: u32, packet: u32| Next::Tcp { header, packet };
        let v4 = |first: u8, length: u16, fragment: [u8; 2], protocol: u8| {
            let mut header = [0; 20];
            (header[0], header[6], header[7], header[9]) = (first, fragment[0], fragment[1], protocol);
            header[2..4].copy_from_slice(&length.to_be_bytes());
            next_v4(&header)
        };
        assert_eq!(v4(0x45, 40, [0x40, 0], 6), tcp(20, 40));
        assert_eq!(v4(0x4f, 1500, [0, 0], 6), tcp(60, 1500));
        assert_eq!(v4(0x45, 0, [0x40, 0], 6), tcp(20, 0));
        assert_eq!(v4(0x45, 1500, [0x20, 0], 6), tcp(20, 1500));
        assert_eq!(v4(0x45, 1500, [0x20, 1], 6), Next::Hidden);
        assert_eq!(v4(0x45, 1500, [0x01, 0], 6), Next::Hidden);
        assert_eq!(v4(0x45, 1500, [0x20, 1], 17), Next::Other);
        assert_eq!((v4(0x44, 40, [0, 0], 6), v4(0x65, 40, [0, 0], 6)), (Next::Broken, Next::Broken));
        let v6 = |first: u8, next: u8, length: u16, following: [u8; 4]| {
            let (mut header, mut more) = ([0; 40], [0; 8]);
            (header[0], header[6]) = (first, next);
            header[4..6].copy_from_slice(&length.to_be_bytes());
            more[..4].copy_from_slice(&following);
            next_v6(&header, &more)
        };
        assert_eq!(v6(0x60, 6, 20, [0; 4]), tcp(40, 60));
        assert_eq!(v6(0x60, 6, 0, [0; 4]), tcp(40, 0));
        assert_eq!(v6(0x60, 6, u16::MAX, [0; 4]), tcp(40, 65_575));
        assert_eq!(v6(0x60, 17, 20, [0; 4]), Next::Other);
        assert_eq!(v6(0x60, 44, 28, [6, 0, 0, 1]), tcp(48, 68));
        assert_eq!(v6(0x60, 44, 28, [6, 0, 0, 9]), Next::Hidden);
        assert_eq!(v6(0x60, 44, 28, [17, 0, 1, 1]), Next::Other);
        // A jumbogram of the kernel's, and what only looks like one.
        assert_eq!(v6(0x60, 0, 0, [6, 0, 0xc2, 4]), tcp(48, 0));
        for following in [[17, 0, 0xc2, 4], [6, 1, 0xc2, 4], [6, 0, 0xc3, 4], [6, 0, 0xc2, 5]] {
            assert_eq!(v6(0x60, 0, 0, following), Next::Hidden);
        }
        for (next, following) in [(43, 6), (0, 6), (60, 6), (44, 60)] {
            assert_eq!(v6(0x60, next, 28, [following, 0, 0, 0]), Next::Hidden);
        }
        assert_eq!(v6(0x40, 6, 20, [0; 4]), Next::Broken);
    }

    #[test]
    fn payload_is_what_the_ip_header_says_and_filling_up_is_none() {
        for (header, packet, frame, expected) in [
            // A bare segment, filled up to the shortest frame.
            (40, 40, 40, false),
            (40, 40, 46, false),
            // A byte, and the same in a frame that is filled up.
            (40, 41, 41, true),
            (40, 41, 46, true),
            // More behind the packet than filling up.
            (40, 40, 47, true),
            (60, 60, 61, true),
            (60, 60, 60, false),
            // As large as they get, and too large for the IP header.
            (52, 65_535, 65_535, true),
            (52, 0, 200_000, true),
            (52, 0, 52, false),
            // An IP header that says less than there is, or more.
            (40, 20, 46, false),
            (40, 20, 1500, true),
            (40, 1500, 40, true),
        ] {
            assert_eq!(has_payload(header, packet, frame), expected, "{header} {packet} {frame}");
        }
    }

    proptest! {
        #[test]
        fn what_nobody_recorded_neither_opens_nor_carries(flags: u8, has_payload: bool, refused: bool) {
            let port = refused.then_some(Guard { pod: 1, action: Guard::REFUSE });
            let facts = SegmentFacts { flags, has_payload, port, dialled: None, accepted: None };
            let harmless = flags & SYN == 0 && !has_payload;
            prop_assert_eq!(may_leave(&facts), harmless);
        }

        /// Whatever the IP header says, every byte that a receiver would take is payload, and so is more than the
        /// shortest frame holds.
        #[test]
        fn no_byte_behind_the_header_is_overlooked(
            header in 40_u32..120,
            packet in 0_u32..70_000,
            frame in 40_u32..300_000,
        ) {
            let taken = if packet == 0 { frame } else { packet.min(frame) };
            if taken > header || frame > header.max(46) {
                prop_assert!(has_payload(header, packet, frame));
            }
            // And a segment that ends with its header is none, however its frame is filled up.
            prop_assert!(!has_payload(header, header, header.max(46)));
        }
    }
}
