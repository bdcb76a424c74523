//! What reaches a pod whose namespace has the look-up hook, as a pure function over facts. It is asked for
//! whoever listens, so once a connection, before the first byte: for a SYN, and for what comes out of nowhere.

use crate::address::Address;
use crate::counter::Counter;
use crate::entry::{Guard, Pass};

/// What the hook knows of a look-up that is not the pod's own.
#[derive(Debug, Clone, Copy)]
pub struct LookupFacts {
    /// The guard of the address and port that is dialled.
    pub port: Option<Guard>,
    /// The guard of the address that is dialled.
    pub address: Option<Guard>,
    /// The guard of the address that dials: one, if that is a guarded pod's of this node.
    pub source: Option<Guard>,
    /// What was recorded of the connection.
    pub pass: Option<Pass>,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Whoever listens there gets it; counted if there is something to count.
    Pass(Option<Counter>),
    /// The kernel behaves as if nobody listened: a reset, and not one byte was taken.
    Drop(Counter),
}

/// Whether it comes from inside the namespace, which needs no look-up: an agent's delivery has a loopback
/// source, and a pod that dials its own address has that very one. From a wire, the kernel drops ::1
/// (`ipv6_rcv`), IPv4 sources that are its own address (`__fib_validate_source`), and 127.0.0.0/8
/// (`ip_route_input_slow`) unless `route_localnet` is set there. Whatever it lets in, the answer never leaves
/// the namespace, so that no handshake completes. The interface is no help: a local connection arrives by the
/// device that has the address.
#[inline(always)]
pub fn is_from_inside(source: &Address, destination: &Address) -> bool {
    source.is_loopback() || source.same(destination)
}

/// Decides a look-up that is not [`is_from_inside`].
#[inline(always)]
pub fn admit(facts: &LookupFacts) -> Admission {
    match facts.port {
        Some(Guard { action: Guard::PASS, .. }) => return Admission::Pass(Some(Counter::PortExempt)),
        Some(Guard { action: Guard::LISTENER, .. }) => return Admission::Drop(Counter::ListenerRefused),
        _ => {}
    }
    // An address that user space does not list is refused: the hook is there, so the pod is guarded.
    let Some(address) = facts.address else { return Admission::Drop(Counter::PlaintextRefused) };
    if let Some(source) = facts.source
        && source.pod == address.pod
    {
        return Admission::Pass(None);
    }
    // A port of its own that is strict beats an address that is not.
    if facts.port.is_none() && address.action == Guard::PASS {
        return Admission::Pass(None);
    }
    match facts.pass {
        Some(Pass { kind: Pass::PROBE, .. }) => Admission::Pass(Some(Counter::ProbePassed)),
        // A SYN that is sent again finds it confirmed.
        Some(Pass { kind: Pass::DIRECT | Pass::CONFIRMED, .. }) => {
            Admission::Pass(Some(Counter::DirectPassed))
        }
        _ => Admission::Drop(Counter::PlaintextRefused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use proptest::prelude::*;

    const NOBODY: LookupFacts = LookupFacts { port: None, address: None, source: None, pass: None };

    fn guard(pod: u32, action: u32) -> Option<Guard> {
        Some(Guard { pod, action })
    }

    #[test]
    fn only_what_is_known_reaches_a_strict_pod() {
        let strict = LookupFacts { address: guard(7, Guard::REFUSE), ..NOBODY };
        let pass = |kind: u32| Some(Pass { cookie: 1, kind, acceptor: 0 });
        let probe = pass(Pass::PROBE);
        let refused = Admission::Drop(Counter::PlaintextRefused);
        for (facts, expected) in [
            (NOBODY, refused),
            (strict, refused),
            (LookupFacts { source: guard(8, Guard::REFUSE), ..strict }, refused),
            (LookupFacts { source: guard(7, Guard::REFUSE), ..strict }, Admission::Pass(None)),
            (LookupFacts { pass: probe, ..strict }, Admission::Pass(Some(Counter::ProbePassed))),
            (LookupFacts { pass: Some(Pass::default()), ..strict }, refused),
            (LookupFacts { pass: pass(Pass::AGENT), ..strict }, refused),
            (
                LookupFacts { pass: pass(Pass::DIRECT), ..strict },
                Admission::Pass(Some(Counter::DirectPassed)),
            ),
            (
                LookupFacts { port: guard(7, Guard::LISTENER), pass: pass(Pass::DIRECT), ..strict },
                Admission::Drop(Counter::ListenerRefused),
            ),
            (
                LookupFacts { port: guard(7, Guard::PASS), ..strict },
                Admission::Pass(Some(Counter::PortExempt)),
            ),
            (
                LookupFacts { port: guard(7, Guard::LISTENER), pass: probe, ..strict },
                Admission::Drop(Counter::ListenerRefused),
            ),
            // A permissive pod with a strict port.
            (LookupFacts { address: guard(7, Guard::PASS), ..NOBODY }, Admission::Pass(None)),
            (
                LookupFacts { address: guard(7, Guard::PASS), port: guard(7, Guard::REFUSE), ..NOBODY },
                refused,
            ),
        ] {
            assert_eq!(admit(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn the_pod_itself_and_deliveries_come_from_inside() {
        let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        for (source, destination, inside) in [
            ("127.9.9.9", "10.0.0.7", true),
            ("::1", "fd00::7", true),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.8", "10.0.0.7", false),
            ("fd00::8", "fd00::7", false),
            ("::", "fd00::7", false),
            ("10.0.0.8", "127.0.0.1", false),
        ] {
            assert_eq!(is_from_inside(&address(source), &address(destination)), inside, "{source}");
        }
    }

    proptest! {
        #[test]
        fn what_nothing_vouches_for_is_dropped(pod: u32, other: u32, port in 0_u32..2, source: bool) {
            prop_assume!(pod != other);
            let facts = LookupFacts {
                port: (port == 1).then_some(Guard { pod, action: Guard::REFUSE }),
                address: guard(pod, Guard::REFUSE),
                source: source.then_some(Guard { pod: other, action: Guard::PASS }),
                pass: None,
            };
            prop_assert_eq!(admit(&facts), Admission::Drop(Counter::PlaintextRefused));
        }
    }
}
