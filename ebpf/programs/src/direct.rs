//! Connections that a verdict leaves to two pods of one node: what their hooks have in common.
//!
//! The way of one: the connect hook finds the verdict and marks the socket; at TCP_CONNECT_CB, when the
//! four-tuple is complete, it is recorded; while the acceptor answers the SYN its pod's own hook says which
//! namespace that is; once established, the dialling end looks whether that is the one that the verdict names. If
//! not, the address has changed hands: the socket is bound to the loopback device, so that nothing, not even the
//! handshake's last acknowledgement, leaves the pod. User space is told and ends it.

use aya_ebpf::{EbpfContext as _, helpers::bpf_setsockopt, programs::SockOpsContext};
use lark_abi::{
    ConnectFacts, Counter, DirectKey, DirectValue, FollowedEvent, FollowedSocket, Pass, PodEntry, Tuple,
    direct::{acceptor, acceptor_of},
};

use crate::{
    follow,
    maps::{DIRECT, DIRECT_PASSES, GENERATION, count},
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

/// The four-tuple is complete: records it for whoever is asked on its way.
#[inline(always)]
pub fn connecting(ctx: &SockOpsContext, socket: &mut FollowedSocket) {
    let key = passes::key(ctx);
    // A connect that was turned elsewhere after our hook (another product's) is recorded by nobody, and so cut
    // off once it is established.
    if key.destination.same(&socket.destination) && key.destination_port == socket.port {
        if !passes::record_direct(ctx, &key, socket.namespace) {
            socket.seen |= FollowedSocket::UNRECORDED;
        }
    }
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
pub fn established(ctx: &SockOpsContext, socket: &mut FollowedSocket) {
    // SAFETY: read under RCU and copied.
    let pass = unsafe { DIRECT_PASSES.get(&dialled(socket)) }.copied();
    let is_confirmed =
        pass.is_some_and(|pass| pass.kind == Pass::CONFIRMED && pass.cookie == tuple::cookie(ctx));
    if is_confirmed {
        socket.seen |= FollowedSocket::OPEN;
        follow::tell(ctx, socket, FollowedEvent::OPENED);
    } else {
        count(Counter::DirectUnconfirmed);
        cut_off(ctx);
        follow::tell(ctx, socket, FollowedEvent::UNCONFIRMED);
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

/// The tuple as it was recorded: the socket's own addresses may be gone by now.
#[inline(always)]
pub fn dialled(socket: &FollowedSocket) -> Tuple {
    Tuple {
        netns: 0,
        source: socket.source,
        destination: socket.destination,
        source_port: socket.source_port,
        destination_port: socket.port,
        padding: 0,
    }
}
