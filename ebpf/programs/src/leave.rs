//! tc on the host's end of a strict pod's interface (tcx, Linux 6.6): what leaves the pod for the cluster
//! without having come through the connect hook is dropped, whoever made it. It runs for every packet that a
//! strict pod sends, which is little: what agents carry never comes this way.

use aya_ebpf::{
    bindings::{
        __sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{bpf_sk_fullsock, bpf_sk_release, bpf_skb_load_bytes, bpf_skc_lookup_tcp},
    macros::classifier,
    programs::TcContext,
};
use lark_abi::{
    Address, Refused, Tuple,
    wire::{Next, SegmentFacts, Sender, has_payload, may_leave, next_v4, next_v6},
};

use crate::{
    connect::{is_in_ranges, look_up},
    lookup::guard,
    maps::count,
    passes,
    told::tell,
};

/// Where the network header begins: what arrives by an Ethernet device is shown from its own header on.
const ETH_HLEN: u32 = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;

macro_rules! read {
    ($place:expr) => {
        // SAFETY: the kernel hands a valid context for the whole run; volatile keeps the accesses apart and
        // as wide as the fields are, which is what the verifier allows.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!($place)) }
    };
}

#[classifier]
pub fn lark_leave(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    match judge(skb) {
        None => TC_ACT_UNSPEC,
        Some(ends) => {
            let counter = sender(skb).counter();
            count(counter);
            tell(&Refused { counter: counter.index(), interface: read!((*skb).ifindex), ..ends });
            TC_ACT_SHOT as i32
        }
    }
}

/// What is to be told of the packet if it is dropped.
#[inline(always)]
fn judge(skb: *mut __sk_buff) -> Option<Refused> {
    let nothing = Refused::default();
    match u16::from_be(read!((*skb).protocol) as u16) {
        ETH_P_IP => {
            let Some(header) = load::<20>(skb, 0) else { return Some(nothing) };
            let ends = Refused { source: v4(&header, 12), destination: v4(&header, 16), ..nothing };
            follow(skb, ends, next_v4(&header))
        }
        ETH_P_IPV6 => {
            let Some(header) = load::<40>(skb, 0) else { return Some(nothing) };
            let ends = Refused { source: v6(&header, 8), destination: v6(&header, 24), ..nothing };
            follow(skb, ends, next_v6(&header, &load::<8>(skb, 40).unwrap_or_default()))
        }
        ETH_P_ARP => None,
        // Frames that no pod sends but by hand, and that could carry anything.
        _ => Some(nothing),
    }
}

/// Goes on behind the IP header.
#[inline(always)]
fn follow(skb: *mut __sk_buff, ends: Refused, next: Next) -> Option<Refused> {
    let (offset, packet) = match next {
        Next::Other => return None,
        Next::Broken => return Some(ends),
        Next::Hidden => return is_in_ranges(&ends.destination).then_some(ends),
        Next::Tcp { header, packet } => (header, packet),
    };
    // One that is cut short says nothing of itself.
    let Some(header) = load::<20>(skb, offset) else {
        return is_in_ranges(&ends.destination).then_some(ends);
    };
    let ends = Refused {
        source_port: u16::from_be_bytes([header[0], header[1]]),
        destination_port: u16::from_be_bytes([header[2], header[3]]),
        ..ends
    };
    let in_ranges = is_in_ranges(&ends.destination);
    if !in_ranges && look_up(&ends.destination, ends.destination_port).is_none() {
        return None;
    }
    let end = offset + u32::from(header[12] >> 4) * 4;
    let frame = read!((*skb).len).saturating_sub(ETH_HLEN);
    let facts = SegmentFacts {
        flags: header[13],
        // Outside the ranges a connection may be older than what is captured there, and goes on.
        has_payload: in_ranges && has_payload(end, packet, frame),
        port: guard(&ends.source, ends.source_port),
        dialled: passes::of_dialled(&Tuple {
            netns: 0,
            source: ends.source,
            destination: ends.destination,
            source_port: ends.source_port,
            destination_port: ends.destination_port,
            padding: 0,
        }),
        accepted: passes::of(&Tuple {
            netns: 0,
            source: ends.destination,
            destination: ends.source,
            source_port: ends.destination_port,
            destination_port: ends.source_port,
            padding: 0,
        }),
    };
    // The second is asked of the few that are to be dropped.
    if may_leave(&facts) || !facts.opens() && is_over(skb, &ends) { None } else { Some(ends) }
}

/// Whether the receiver is a socket of the node's own namespace that has closed (TIME_WAIT): a probe's, for
/// whatever else is dialled from there at a strict pod is never established. Nobody vouches for it any more, and
/// nobody reads what it is sent: the kernel answers with the reset that ends it at the pod.
#[inline(always)]
fn is_over(skb: *mut __sk_buff, ends: &Refused) -> bool {
    const TIME_WAIT: u32 = 6;
    /// The interface's own (`BPF_F_CURRENT_NETNS`).
    const HERE: u64 = u64::MAX;
    let (sport, dport) = (ends.source_port.to_be(), ends.destination_port.to_be());
    let (saddr, daddr) = (ends.source.words_be, ends.destination.words_be);
    let v6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 { saddr, daddr, sport, dport };
    let mut tuple = bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6: v6 } };
    let mut size = size_of_val(&v6);
    if ends.source.is_v4() {
        let v4 =
            bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 { saddr: saddr[3], daddr: daddr[3], sport, dport };
        tuple.__bindgen_anon_1.ipv4 = v4;
        size = size_of_val(&v4);
    }
    // SAFETY: the tuple is initialised as far as `size` says and lives across the call (Linux 5.2).
    let sock = unsafe { bpf_skc_lookup_tcp(skb.cast(), &raw mut tuple, size as u32, HERE, 0) };
    if sock.is_null() {
        return false;
    }
    let state = read!((*sock).state);
    // SAFETY: the helper has given a reference, which is given back once.
    unsafe { bpf_sk_release(sock.cast()) };
    state == TIME_WAIT
}

/// Who made the packet; the kernel keeps that across the pod's interface (`skb_scrub_packet`,
/// net/core/skbuff.c).
#[inline(always)]
fn sender(skb: *mut __sk_buff) -> Sender {
    let sk = read!((*skb).__bindgen_anon_2.sk);
    if sk.is_null() {
        return Sender::NOBODY;
    }
    // SAFETY: `sk` is the context's socket and not null.
    let full = unsafe { bpf_sk_fullsock(sk) };
    if full.is_null() {
        return Sender::NOBODY;
    }
    Sender { family: read!((*full).family), kind: read!((*full).type_), device: read!((*full).bound_dev_if) }
}

/// Bytes at an offset from the network header; nothing if the packet ends before. They may lie anywhere: the
/// linear part of a segment that the kernel made is its headers, and of one made by hand not even these need be in it.
#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the helper writes exactly `N` bytes into the array, or refuses.
    let failed =
        unsafe { bpf_skb_load_bytes(skb.cast(), ETH_HLEN + offset, bytes.as_mut_ptr().cast(), N as u32) };
    if failed == 0 { Some(bytes) } else { None }
}

#[inline(always)]
fn v4(header: &[u8; 20], at: usize) -> Address {
    Address::v4(u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
}

#[inline(always)]
fn v6(header: &[u8; 40], at: usize) -> Address {
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Address::v6([word(at), word(at + 4), word(at + 8), word(at + 12)])
}
