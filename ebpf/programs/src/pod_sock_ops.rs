//! sock_ops on the pod's cgroup (Linux 4.13; socket storage from it since 5.10): publishes redirected
//! connects to the agent, takes the source addresses of deliveries over into accepted sockets, confirms direct
//! connections, and follows what no agent carries.

use aya_ebpf::{macros::sock_ops, programs::SockOpsContext};
use lark_abi::{Address, Counter, Flow, FollowedSocket, PeerName, Tuple};

use crate::{
    direct, follow,
    maps::{self, DELIVERIES, FLOWS, SK_FOLLOWED, SK_PEER, count},
    tuple,
};

#[sock_ops]
pub fn lark_pod_sock_ops(ctx: SockOpsContext) -> u32 {
    match tuple::op(&ctx) {
        tuple::TCP_CONNECT => connecting(&ctx),
        // The first callback that a SYN leads to; without an answer of ours the kernel takes its own window.
        tuple::RWND_INIT if tuple::is_request(&ctx) => direct::accepting(&ctx),
        tuple::ACTIVE_ESTABLISHED => dialled(&ctx),
        tuple::PASSIVE_ESTABLISHED => established(&ctx),
        tuple::STATE => state(&ctx),
        _ => {}
    }
    tuple::DONE
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let sk = tuple::socket(ctx);
    if sk.is_null() {
        return;
    }
    let Some(peer) = tuple::storage::<PeerName>(&SK_PEER, sk) else {
        if let Some(socket) = tuple::storage::<FollowedSocket>(&SK_FOLLOWED, sk) {
            follow::connecting(ctx, socket);
        }
        return;
    };
    if peer.role != PeerName::CLIENT {
        return;
    }
    let key = tuple::dialled(ctx);
    // A connect that was turned elsewhere after our hook (another product's) is not ours to claim.
    if key.destination_port != peer.listener_port {
        return;
    }
    peer.source = key.source;
    peer.source_port = key.source_port;
    let flow = Flow {
        cookie: tuple::cookie(ctx),
        address: peer.address,
        source: key.source,
        port: peer.port,
        source_port: key.source_port,
        pod_id: peer.pod_id,
    };
    // If not, the agent finds no flow at its accepted socket and resets it.
    if tuple::publish(ctx, &FLOWS, &flow, Counter::FlowsFull) && maps::add_load(peer.worker, 1) {
        peer.counted = maps::epoch();
    }
}

#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let key = tuple::accepted(ctx);
    // SAFETY: read under RCU and copied before it is removed.
    let flow = unsafe { DELIVERIES.get(&key) };
    let sk = tuple::socket(ctx);
    if sk.is_null() {
        return;
    }
    let Some(flow) = flow else { return follow::accepted(ctx, &key, sk) };
    let mut peer = PeerName {
        address: flow.address,
        own: Address::UNSPECIFIED,
        source: Address::UNSPECIFIED,
        listener: Address::UNSPECIFIED,
        port: flow.port,
        source_port: 0,
        listener_port: 0,
        role: PeerName::ACCEPTED,
        pod_id: 0,
        worker: 0,
        counted: 0,
    };
    let stored = tuple::store(&SK_PEER, sk, &mut peer);
    let _ = DELIVERIES.remove(&key);
    count(if stored { Counter::DeliveryTaken } else { Counter::DeliveryLost });
}

#[inline(always)]
fn dialled(ctx: &SockOpsContext) {
    let sk = tuple::socket(ctx);
    if sk.is_null() {
        return;
    }
    if let Some(socket) = tuple::storage::<FollowedSocket>(&SK_FOLLOWED, sk) {
        follow::established(ctx, socket);
    }
}

#[inline(always)]
fn state(ctx: &SockOpsContext) {
    let sk = tuple::socket(ctx);
    if sk.is_null() {
        return;
    }
    if let Some(socket) = tuple::storage::<FollowedSocket>(&SK_FOLLOWED, sk) {
        return follow::state(ctx, socket);
    }
    if !tuple::closes(ctx) {
        return;
    }
    let Some(peer) = tuple::storage::<PeerName>(&SK_PEER, sk) else { return };
    if peer.role != PeerName::CLIENT {
        return;
    }
    // What an agent before this one counted is in a map of its own.
    if peer.counted != 0 && peer.counted == maps::epoch() {
        maps::add_load(peer.worker, -1);
    }
    peer.counted = 0;
    // The key as it was published: the socket's own addresses may be gone by now.
    let key = Tuple {
        netns: tuple::dialled(ctx).netns,
        source: peer.source,
        destination: peer.listener,
        source_port: peer.source_port,
        destination_port: peer.listener_port,
        padding: 0,
    };
    tuple::take_back(ctx, &FLOWS, &key, Counter::FlowAbandoned);
}
