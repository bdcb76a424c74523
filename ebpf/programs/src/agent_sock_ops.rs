//! sock_ops on the agent's cgroup: takes flows over into accepted sockets, publishes the source addresses of
//! deliveries, vouches for what the agent dials on behalf of strict pods, and ends what nobody has any more.

use aya_ebpf::{EbpfContext as _, helpers::bpf_setsockopt, macros::sock_ops, programs::SockOpsContext};
use lark_abi::{Counter, Flow};

use crate::{
    maps::{DELIVERIES, FLOWS, SK_ACCEPTED, SK_CLAIM, count},
    passes, tuple,
};

#[sock_ops]
pub fn lark_agent_sock_ops(ctx: SockOpsContext) -> u32 {
    match tuple::op(&ctx) {
        tuple::TCP_CONNECT => connecting(&ctx),
        tuple::PASSIVE_ESTABLISHED => established(&ctx),
        tuple::STATE => state(&ctx),
        tuple::RTO => unanswered(&ctx),
        _ => {}
    }
    tuple::DONE
}

#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let key = tuple::accepted(ctx);
    // Most sockets that the agent accepts are no flows (tunnels, scrapes); user space knows which
    // listener it accepts from, so a miss is counted there.
    // SAFETY: read under RCU and copied before it is removed.
    let Some(flow) = (unsafe { FLOWS.get(&key) }) else { return };
    let mut flow = *flow;
    let sk = tuple::socket(ctx);
    if sk.is_null() {
        return;
    }
    let stored = tuple::store(&SK_ACCEPTED, sk, &mut flow);
    let _ = FLOWS.remove(&key);
    if key.destination.loses_resets_of(&key.source) {
        tuple::ask_for_time_outs(ctx);
    }
    count(if stored { Counter::FlowTaken } else { Counter::FlowLost });
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let key = passes::key(ctx);
    // What the agent dials from inside a strict pod's namespace leaves by the pod's own wire.
    if passes::is_guarded(&key.source) {
        passes::vouch_agent(ctx, &key);
    }
    let sk = tuple::socket(ctx);
    if sk.is_null() {
        return;
    }
    let Some(claim) = tuple::storage::<Flow>(&SK_CLAIM, sk) else { return };
    claim.cookie = tuple::cookie(ctx);
    let flow = *claim;
    if !tuple::publish(ctx, &DELIVERIES, &flow, Counter::DeliveriesFull) {
        // User space asks after its connect and resets what the application could not be told of.
        claim.cookie = 0;
    } else if key.source.loses_resets_of(&key.destination) {
        tuple::ask_for_time_outs(ctx);
    }
}

/// What was sent is sent again. Within a namespace nothing is lost, so after some times the application, which has
/// closed, has not half closed: its socket is gone, and the reset that would say so does not arrive.
#[inline(always)]
fn unanswered(ctx: &SockOpsContext) {
    const SOL_TCP: i32 = 6;
    const TCP_USER_TIMEOUT: i32 = 18;
    /// The time-outs before this one, in a row: by then it is more than a second.
    const ENOUGH: u32 = 2;
    if !tuple::other_end_closed(ctx) || tuple::time_outs(ctx) < ENOUGH || tuple::gives_up(ctx) {
        return;
    }
    // Less than has gone by, so that the kernel ends the connection when it sets its timer anew, with ETIMEDOUT
    // (`tcp_clamp_rto_to_user_timeout`, net/ipv4/tcp_timer.c; settable here since Linux 5.9).
    let mut limit: u32 = 1;
    // SAFETY: the context is the program's own, and the helper reads four bytes.
    let set = unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_TCP, TCP_USER_TIMEOUT, core::ptr::from_mut(&mut limit).cast(), 4)
    };
    if set == 0 {
        count(Counter::ResetLost);
    }
}

#[inline(always)]
fn state(ctx: &SockOpsContext) {
    if !tuple::closes(ctx) {
        return;
    }
    passes::forget_agent(ctx);
    let sk = tuple::socket(ctx);
    if sk.is_null() || tuple::storage::<Flow>(&SK_CLAIM, sk).is_none() {
        return;
    }
    tuple::take_back(ctx, &DELIVERIES, &tuple::dialled(ctx), Counter::DeliveryAbandoned);
}
