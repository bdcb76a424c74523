//! What connect4 and connect6 have in common.

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::lpm_trie::Key,
    helpers::{bpf_ktime_get_boot_ns, bpf_set_retval, bpf_sk_storage_delete, bpf_sk_storage_get},
    programs::SockAddrContext,
};
use lark_abi::{
    Address, ConnectFacts, Counter, DestinationKey, DestinationValue, Gate, PeerName, PodEntry, Verdict,
    load::{DEVICE_WORKER, least_loaded},
    verdict::{decide, gate, is_waited_for},
};

use crate::{
    direct, follow,
    maps::{self, CONFIG, DESTINATIONS, HEARTBEAT, POD, RANGES, SK_PEER, count, raw},
    sock_addr,
};

/// The hook's return value for "go on".
pub const PROCEED: i32 = 1;
/// The hook's return value for "fail the call".
const FAIL: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// Decides one connect. `Some` is where to point the socket; `None` with the return value else.
#[inline(always)]
pub fn hook(
    ctx: &SockAddrContext,
    destination: Address,
    bound: fn(*mut bpf_sock) -> Address,
) -> Result<(Address, u16), i32> {
    if !sock_addr::is_tcp(ctx) {
        count(Counter::NotTcp);
        return Err(PROCEED);
    }
    let sk = sock_addr::socket(ctx);
    // What an earlier connect of this socket left behind must not name a peer of this one.
    // SAFETY: `sk` is the context's socket.
    unsafe { bpf_sk_storage_delete(raw(&SK_PEER), sk.cast()) };
    follow::clear(sk);

    // SAFETY: the kernel's pointer to this attachment's storage; user space replaces the value as a
    // whole, under RCU.
    let pod: &PodEntry = unsafe { &*POD.get_ptr_mut() };
    let mut facts = ConnectFacts {
        destination,
        port: sock_addr::port(ctx),
        device: 0,
        source: Address::UNSPECIFIED,
        worker: 0,
        heartbeat_age_ns: 0,
    };
    match gate(pod, &facts) {
        Gate::Untouched(counter) => return untouched(counter),
        Gate::Refuse(counter) => return refuse(counter),
        Gate::LookUp => {}
    }
    let found = match look_up(&facts.destination, facts.port) {
        Some(found) => found,
        None if is_waited_for(pod, is_in_cluster(pod, &destination)) => {
            count(Counter::UnknownTaken);
            &UNKNOWN
        }
        None => {
            follow::mark_plain(sk, pod, &facts);
            return untouched(Counter::NotMesh);
        }
    };
    let Some(config) = CONFIG.get(0) else { return untouched(Counter::PodInactive) };
    facts.device = sock_addr::device(sk);
    facts.source = bound(sk);
    facts.worker = if facts.device == 0 {
        let listeners = if destination.is_v4() { &pod.loopback_v4 } else { &pod.loopback_v6 };
        least_loaded(listeners, pod.workers, maps::load)
    } else {
        DEVICE_WORKER
    };
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    facts.heartbeat_age_ns = now.saturating_sub(HEARTBEAT.get(0).copied().unwrap_or(0));
    match decide(pod, config, &facts, found) {
        Verdict::Untouched(counter) => {
            follow::mark_plain(sk, pod, &facts);
            untouched(counter)
        }
        Verdict::Refuse(counter) => refuse(counter),
        Verdict::Redirect { address, port } => {
            let acceptor = direct::verdict(pod, &facts);
            if acceptor != 0 {
                if !follow::mark_direct(sk, pod, &facts, acceptor) {
                    return refuse(Counter::StorageFailed);
                }
                return untouched(Counter::Direct);
            }
            let own = if destination.is_v4() { pod.own_v4 } else { pod.own_v6 };
            let mut peer = PeerName {
                address: destination,
                own,
                source: Address::UNSPECIFIED,
                listener: address,
                port: facts.port,
                source_port: 0,
                listener_port: port,
                role: PeerName::CLIENT,
                pod_id: pod.pod_id,
                worker: facts.worker as u16,
                counted: 0,
            };
            // SAFETY: `sk` is the context's socket and the value lives across the call.
            let stored = unsafe {
                bpf_sk_storage_get(
                    raw(&SK_PEER),
                    sk.cast(),
                    core::ptr::from_mut(&mut peer).cast(),
                    BPF_SK_STORAGE_GET_F_CREATE.into(),
                )
            };
            if stored.is_null() {
                return refuse(Counter::StorageFailed);
            }
            count(Counter::Redirected);
            Ok((address, port))
        }
    }
}

/// What a mesh destination is, if it is one.
#[inline(always)]
pub fn look_up(destination: &Address, port: u16) -> Option<&'static DestinationValue> {
    let mut key = DestinationKey { address_be: destination.words_be, port, padding: 0 };
    // SAFETY: user space only ever replaces whole values; an entry freed meanwhile stays readable
    // until the program ends (RCU).
    if let Some(found) = unsafe { DESTINATIONS.get(&key) } {
        return Some(found);
    }
    key.port = 0;
    // SAFETY: as above.
    unsafe { DESTINATIONS.get(&key) }
}

/// What is not known yet is taken like what is: the agent decides.
static UNKNOWN: DestinationValue = DestinationValue { action: DestinationValue::REDIRECT };

/// Whether an address is one of the cluster's own; asked for strict pods alone.
#[inline(always)]
fn is_in_cluster(pod: &PodEntry, destination: &Address) -> bool {
    pod.flags & PodEntry::STRICT != 0 && is_in_ranges(destination)
}

/// Whether an address is in the cluster's own ranges.
#[inline(always)]
pub fn is_in_ranges(address: &Address) -> bool {
    RANGES.get(&Key::new(128, address.words_be)).is_some()
}

#[inline(always)]
fn untouched<T>(counter: Counter) -> Result<T, i32> {
    count(counter);
    Err(PROCEED)
}

#[inline(always)]
fn refuse<T>(counter: Counter) -> Result<T, i32> {
    count(counter);
    // SAFETY: a plain helper call (since Linux 5.18). Without it the application would see EPERM.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    Err(FAIL)
}
