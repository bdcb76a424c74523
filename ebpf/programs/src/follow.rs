//! Following what no agent carries, from the moment that it is established to its end: connections that a verdict
//! left to two pods (`direct.rs`), and those in plaintext, of which user space would else hear only while they are
//! open. The dialling end is marked by the connect hook, which knows the pod; the accepting end is known by its namespace.

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{bpf_sk_storage_delete, bpf_sk_storage_get},
    programs::SockOpsContext,
};
use lark_abi::{
    ConnectFacts, Counter, FollowedEvent, FollowedSocket, PodEntry, Tuple,
    direct::acceptor_of,
    follow::{ends, is_within, leaves, payload},
};

use crate::{
    direct,
    maps::{DIRECT_EVENTS, PLAIN_EVENTS, SK_FOLLOWED, count, raw},
    passes, tuple,
};

/// Marks the socket of a connect that is left alone by a verdict; false if the kernel had no memory.
#[inline(always)]
pub fn mark_direct(sk: *mut bpf_sock, pod: &PodEntry, facts: &ConnectFacts, acceptor: u32) -> bool {
    mark(sk, pod, facts, acceptor, 0)
}

/// Marks the socket of a connect that is left alone as plaintext. Without memory it is not followed, and counted.
#[inline(always)]
pub fn mark_plain(sk: *mut bpf_sock, pod: &PodEntry, facts: &ConnectFacts) {
    if leaves(&facts.destination) && !mark(sk, pod, facts, 0, FollowedSocket::PLAIN) {
        count(Counter::EventsLost);
    }
}

#[inline(always)]
fn mark(sk: *mut bpf_sock, pod: &PodEntry, facts: &ConnectFacts, acceptor: u32, seen: u32) -> bool {
    let mut socket = FollowedSocket {
        destination: facts.destination,
        port: facts.port,
        pod: pod.pod_id,
        namespace: acceptor,
        seen,
        ..FollowedSocket::default()
    };
    // SAFETY: `sk` is the context's socket and the value lives across the call.
    let stored = unsafe {
        bpf_sk_storage_get(
            raw(&SK_FOLLOWED),
            sk.cast(),
            core::ptr::from_mut(&mut socket).cast(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    };
    !stored.is_null()
}

/// What an earlier connect of a socket left behind must not be taken for this one's.
#[inline(always)]
pub fn clear(sk: *mut bpf_sock) {
    // SAFETY: `sk` is the context's socket.
    unsafe { bpf_sk_storage_delete(raw(&SK_FOLLOWED), sk.cast()) };
}

/// The dialling end's four-tuple is complete.
#[inline(always)]
pub fn connecting(ctx: &SockOpsContext, socket: &mut FollowedSocket) {
    let key = tuple::dialled(ctx);
    socket.source = key.source;
    socket.source_port = key.source_port;
    if socket.seen & FollowedSocket::PLAIN != 0 {
        socket.namespace = acceptor_of(key.netns);
    } else {
        direct::connecting(ctx, socket);
    }
    tuple::ask_for_states(ctx);
}

/// The dialling end is established.
#[inline(always)]
pub fn established(ctx: &SockOpsContext, socket: &mut FollowedSocket) {
    if socket.seen & FollowedSocket::PLAIN == 0 {
        return direct::established(ctx, socket);
    }
    socket.seen |= FollowedSocket::OPEN;
    tell(ctx, socket, FollowedEvent::OPENED);
}

/// The pod has accepted what no agent delivered.
#[inline(always)]
pub fn accepted(ctx: &SockOpsContext, key: &Tuple, sk: *mut bpf_sock) {
    // What a verdict left to this pod is followed at the end that dialled.
    if is_within(key) || passes::is_direct(&Tuple { netns: 0, ..*key }) {
        return;
    }
    let mut socket = FollowedSocket {
        destination: key.destination,
        source: key.source,
        port: key.destination_port,
        source_port: key.source_port,
        namespace: acceptor_of(key.netns),
        seen: FollowedSocket::OPEN | FollowedSocket::ACCEPTED | FollowedSocket::PLAIN,
        ..FollowedSocket::default()
    };
    if !tuple::store(&SK_FOLLOWED, sk, &mut socket) {
        return count(Counter::EventsLost);
    }
    tuple::ask_for_states(ctx);
    tell(ctx, &socket, FollowedEvent::OPENED);
}

/// The followed end's state changes.
#[inline(always)]
pub fn state(ctx: &SockOpsContext, socket: &mut FollowedSocket) {
    let (old, new) = tuple::states(ctx);
    let received = (tuple::bytes_received(ctx) & 0xffff_ffff) as u32;
    let before = socket.seen;
    socket.seen = ends(before, old, new, tuple::all_acked(ctx), received != socket.received);
    if socket.seen & !before & FollowedSocket::END_OUT != 0 {
        socket.received = received;
    }
    if !tuple::closes(ctx) {
        return;
    }
    if socket.seen & FollowedSocket::PLAIN == 0 {
        passes::forget_direct(ctx, &direct::dialled(socket));
    }
    if socket.seen & FollowedSocket::OPEN != 0 {
        tell(ctx, socket, FollowedEvent::CLOSED);
        socket.seen = 0;
    }
}

/// Tells user space, each kind by a buffer of its own: plaintext must not keep anybody from hearing of the others.
#[inline(always)]
pub fn tell(ctx: &SockOpsContext, socket: &FollowedSocket, kind: u32) {
    let (sent, received) = payload(tuple::bytes_acked(ctx), tuple::bytes_received(ctx), socket.seen);
    let event = FollowedEvent {
        cookie: tuple::cookie(ctx),
        sent,
        received,
        source: socket.source,
        destination: socket.destination,
        source_port: socket.source_port,
        port: socket.port,
        kind,
        pod: socket.pod,
        namespace: socket.namespace,
        seen: socket.seen,
        rtt_us: tuple::rtt_us(ctx),
        retransmits: tuple::retransmits(ctx),
        padding: 0,
    };
    let is_told = if socket.seen & FollowedSocket::PLAIN != 0 {
        PLAIN_EVENTS.output(event, 0).is_ok()
    } else {
        DIRECT_EVENTS.output(event, 0).is_ok()
    };
    if !is_told {
        count(Counter::EventsLost);
    }
}
