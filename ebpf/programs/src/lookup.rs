//! sk_lookup in the namespace of a strict pod (Linux 5.9): what is not known is dropped before anybody who
//! listens is found, so that no handshake completes and no byte is taken, Fast Open's neither.
//!
//! The program never selects a socket. It runs once a connection, for what no established socket takes.

use aya_ebpf::{
    bindings::{bpf_sk_lookup, sk_action::SK_DROP, sk_action::SK_PASS},
    macros::sk_lookup,
    programs::SkLookupContext,
};
use lark_abi::{
    Address, Admission, DestinationKey, Guard, LookupFacts, Refused, Tuple,
    guard::{admit, is_from_inside},
};

use crate::{
    maps::{GUARDED, count},
    passes,
    told::tell,
};

const IPPROTO_TCP: u32 = 6;
const AF_INET6: u32 = 10;

macro_rules! read {
    ($place:expr) => {
        // SAFETY: the kernel hands a valid context for the whole run; volatile keeps the accesses apart and
        // as wide as the fields are, which is what the verifier allows.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!($place)) }
    };
}

/// As in `tuple.rs`: both families are read before one is chosen.
macro_rules! address {
    ($ctx:ident, $v4:ident, $v6:ident) => {{
        let v4 = read!((*$ctx).$v4);
        let words =
            [read!((*$ctx).$v6[0]), read!((*$ctx).$v6[1]), read!((*$ctx).$v6[2]), read!((*$ctx).$v6[3])];
        if read!((*$ctx).family) == AF_INET6 { Address::v6(words) } else { Address::v4(v4) }
    }};
}

#[sk_lookup]
pub fn lark_lookup(ctx: SkLookupContext) -> u32 {
    match look(ctx.lookup) {
        Admission::Pass(counter) => {
            if let Some(counter) = counter {
                count(counter);
            }
            SK_PASS
        }
        Admission::Drop(counter) => {
            count(counter);
            SK_DROP
        }
    }
}

#[inline(always)]
fn look(ctx: *mut bpf_sk_lookup) -> Admission {
    if read!((*ctx).protocol) != IPPROTO_TCP {
        return Admission::Pass(None);
    }
    let source = address!(ctx, remote_ip4, remote_ip6);
    let destination = address!(ctx, local_ip4, local_ip6);
    if is_from_inside(&source, &destination) {
        return Admission::Pass(None);
    }
    let port = read!((*ctx).local_port) as u16;
    let key = Tuple {
        netns: 0,
        source,
        destination,
        source_port: u16::from_be(read!((*ctx).remote_port)),
        destination_port: port,
        padding: 0,
    };
    let facts = LookupFacts {
        port: guard(&destination, port),
        address: guard(&destination, 0),
        source: guard(&source, 0),
        pass: passes::of(&key),
    };
    let admission = admit(&facts);
    if let Admission::Drop(counter) = admission {
        tell(&Refused {
            source,
            destination,
            source_port: key.source_port,
            destination_port: port,
            counter: counter.index(),
            interface: 0,
        });
    }
    admission
}

/// What reaches an address and port of a guarded pod of this node.
#[inline(always)]
pub fn guard(address: &Address, port: u16) -> Option<Guard> {
    let key = DestinationKey { address_be: address.words_be, port, padding: 0 };
    // SAFETY: user space only ever replaces whole values; read under RCU and copied.
    unsafe { GUARDED.get(&key) }.copied()
}
