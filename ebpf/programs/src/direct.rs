//! Connections that a verdict leaves to two pods of one node: what their hooks have in common.
//!
//! The way of one: the connect hook finds the verdict and marks the socket; at TCP_CONNECT_CB, when the
//! four-tuple is complete, it is recorded; while the acceptor answers the SYN its pod's own hook says which
//! namespace that is; once established, the dialling end looks whether that is the one that the verdict names. If
//! not, the address has changed hands: the socket is bound to the loopback device, so that nothing, not even the
//! handshake's last acknowledgement, leaves the pod. User space is told and ends it.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::{bpf_setsockopt, bpf_sk_storage_delete, bpf_sk_storage_get},
    programs::SockOpsContext,
};
use lark_abi::{
    ConnectFacts, Counter, DirectEvent, DirectKey, DirectSocket, DirectValue, Pass, PodEntry, Tuple,
    direct::{acceptor, acceptor_of, ends, payload},
};

use crate::{
    maps::{DIRECT, DIRECT_EVENTS, DIRECT_PASSES, GENERATION, SK_DIRECT, count, raw},
    passes, tuple,
};

/// Who is to accept a connect that the agent would be given; 0 if it is to be given it.
#[inline(always)]
pub fn verdict(pod: &PodEntry, facts: &ConnectFacts) -> u32 {
    let generation = GENERATION.get(0).copied().unwrap_or(0);
    if generation == 0 {
        return 0;
    }
    let mut key =
        DirectKey { address_be: facts.destination.words_be, pod: pod.pod_id, port: facts.port, padding: 0 };
    let exact = look_up(&key);
    key.port = 0;
    let other = look_up(&key);
    acceptor(pod, facts, generation, exact, other)
}

/// The verdict for a key; one of generation 0 if there is none. The fields are read where they are found, or the
/// compiler would join the two look-ups' pointers, which the verifier refuses.
#[inline(always)]
fn look_up(key: &DirectKey) -> DirectValue {
    let Some(found) = DIRECT.get_ptr(key) else { return DirectValue::default() };
    // SAFETY: the entry stays readable until the program ends (RCU); user space replaces it as a whole.
    unsafe {
        DirectValue {
            generation: core::ptr::read_volatile(core::ptr::addr_of!((*found).generation)),
            acceptor: core::ptr::read_volatile(core::ptr::addr_of!((*found).acceptor)),
        }
    }
}

/// Marks the socket of a connect that is left alone; false if the kernel had no memory.
#[inline(always)]
pub fn mark(sk: *mut bpf_sock, pod: &PodEntry, facts: &ConnectFacts, acceptor: u32) -> bool {
    let mut socket = DirectSocket {
        destination: facts.destination,
        port: facts.port,
        pod: pod.pod_id,
        acceptor,
        ..DirectSocket::default()
    };
    // SAFETY: `sk` is the context's socket and the value lives across the call.
    let stored = unsafe {
        bpf_sk_storage_get(
            raw(&SK_DIRECT),
            sk.cast(),
            core::ptr::from_mut(&mut socket).cast(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    };
    !stored.is_null()
}

/// The four-tuple is complete: records it for whoever is asked on its way.
#[inline(always)]
pub fn connecting(ctx: &SockOpsContext, socket: &mut DirectSocket) {
    let key = passes::key(ctx);
    socket.source = key.source;
    socket.source_port = key.source_port;
    // A connect that was turned elsewhere after our hook (another product's) is recorded by nobody, and so cut
    // off once it is established.
    if key.destination.same(&socket.destination) && key.destination_port == socket.port {
        if !passes::record_direct(ctx, &key, socket.acceptor) {
            socket.seen |= DirectSocket::UNRECORDED;
        }
    }
    tuple::ask_for_states(ctx);
}

/// This end answers a SYN: says where it is, if it is meant.
#[inline(always)]
pub fn accepting(ctx: &SockOpsContext) {
    let accepted = tuple::accepted(ctx);
    let key = Tuple { netns: 0, ..accepted };
    let Some(pass) = DIRECT_PASSES.get_ptr_mut(&key) else { return };
    // SAFETY: the entry stays readable until the program ends (RCU); the dialling end writes it once, before
    // its SYN, and removes it as a whole.
    unsafe {
        if (*pass).kind == Pass::DIRECT && (*pass).acceptor == acceptor_of(accepted.netns) {
            (*pass).kind = Pass::CONFIRMED;
        }
    }
}

/// The dialling end is established, and may not have sent anything but its SYN.
#[inline(always)]
pub fn established(ctx: &SockOpsContext, socket: &mut DirectSocket) {
    // SAFETY: read under RCU and copied.
    let pass = unsafe { DIRECT_PASSES.get(&dialled(socket)) }.copied();
    let is_confirmed =
        pass.is_some_and(|pass| pass.kind == Pass::CONFIRMED && pass.cookie == tuple::cookie(ctx));
    if is_confirmed {
        socket.seen |= DirectSocket::OPEN;
        tell(ctx, socket, DirectEvent::OPENED);
    } else {
        count(Counter::DirectUnconfirmed);
        cut_off(ctx);
        tell(ctx, socket, DirectEvent::UNCONFIRMED);
    }
}

/// Nothing more of this socket leaves its namespace, and it ends by itself should nobody be told.
#[inline(always)]
fn cut_off(ctx: &SockOpsContext) {
    const SOL_SOCKET: i32 = 1;
    const SO_BINDTODEVICE: i32 = 25;
    const SOL_TCP: i32 = 6;
    const TCP_USER_TIMEOUT: i32 = 18;
    let mut lo = *b"lo\0\0";
    // It was bound to no device, or there would have been no verdict. Should the kernel refuse, user space still
    // ends the connection.
    // SAFETY: the context is the program's own, and the helper reads four bytes of the array.
    let _ = unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_BINDTODEVICE, lo.as_mut_ptr().cast(), lo.len() as i32)
    };
    let mut limit: u32 = 5_000;
    // SAFETY: as above, of four bytes.
    let _ = unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_TCP, TCP_USER_TIMEOUT, core::ptr::from_mut(&mut limit).cast(), 4)
    };
}

/// The dialling end's state changes.
#[inline(always)]
pub fn state(ctx: &SockOpsContext, socket: &mut DirectSocket) {
    let (old, new) = tuple::states(ctx);
    let received = (tuple::bytes_received(ctx) & 0xffff_ffff) as u32;
    let before = socket.seen;
    socket.seen = ends(before, old, new, tuple::all_acked(ctx), received != socket.received);
    if socket.seen & !before & DirectSocket::END_OUT != 0 {
        socket.received = received;
    }
    if !tuple::closes(ctx) {
        return;
    }
    passes::forget_direct(ctx, &dialled(socket));
    if socket.seen & DirectSocket::OPEN != 0 {
        tell(ctx, socket, DirectEvent::CLOSED);
        socket.seen = 0;
    }
}

/// The tuple as it was recorded: the socket's own addresses may be gone by now.
#[inline(always)]
fn dialled(socket: &DirectSocket) -> Tuple {
    Tuple {
        netns: 0,
        source: socket.source,
        destination: socket.destination,
        source_port: socket.source_port,
        destination_port: socket.port,
        padding: 0,
    }
}

#[inline(always)]
fn tell(ctx: &SockOpsContext, socket: &DirectSocket, kind: u32) {
    let (sent, received) = payload(tuple::bytes_acked(ctx), tuple::bytes_received(ctx), socket.seen);
    let event = DirectEvent {
        cookie: tuple::cookie(ctx),
        sent,
        received,
        source: socket.source,
        destination: socket.destination,
        source_port: socket.source_port,
        port: socket.port,
        kind,
        pod: socket.pod,
        acceptor: socket.acceptor,
        seen: socket.seen,
        rtt_us: tuple::rtt_us(ctx),
        retransmits: tuple::retransmits(ctx),
        padding: 0,
    };
    if DIRECT_EVENTS.output(event, 0).is_err() {
        count(Counter::EventsLost);
    }
}

/// What an earlier connect of a socket left behind must not be taken for this one's.
#[inline(always)]
pub fn clear(sk: *mut bpf_sock) {
    // SAFETY: `sk` is the context's socket.
    unsafe { bpf_sk_storage_delete(raw(&SK_DIRECT), sk.cast()) };
}
