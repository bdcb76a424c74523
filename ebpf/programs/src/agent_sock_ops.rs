//! sock_ops on the agent's cgroup: takes flows over into accepted sockets, publishes the source addresses of
//! deliveries, and vouches for what the agent dials on behalf of strict pods.

use aya_ebpf::{macros::sock_ops, programs::SockOpsContext};
use lark_abi::{Counter, Flow, Pass};

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
    count(if stored { Counter::FlowTaken } else { Counter::FlowLost });
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let key = passes::key(ctx);
    // What the agent dials from inside a strict pod's namespace leaves by the pod's own wire.
    if passes::is_guarded(&key.source) {
        passes::vouch(ctx, &key, Pass::AGENT);
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
    }
}

#[inline(always)]
fn state(ctx: &SockOpsContext) {
    if !tuple::closes(ctx) {
        return;
    }
    passes::forget(ctx);
    let sk = tuple::socket(ctx);
    if sk.is_null() || tuple::storage::<Flow>(&SK_CLAIM, sk).is_none() {
        return;
    }
    tuple::take_back(ctx, &DELIVERIES, &tuple::dialled(ctx), Counter::DeliveryAbandoned);
}
