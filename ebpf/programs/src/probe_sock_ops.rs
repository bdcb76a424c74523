//! sock_ops on the kubelet's cgroup: records what it dials at guarded pods, so that their look-up hook knows
//! a probe by the socket that dials it and never by an address. An entry lives from before the SYN until the
//! socket closes, so its four-tuple is this socket's own for as long.

use aya_ebpf::{macros::sock_ops, programs::SockOpsContext};
use lark_abi::{Counter, DestinationKey, Pass, Tuple};

use crate::{
    maps::{GUARDED, PASSES, count},
    tuple,
};

#[sock_ops]
pub fn lark_probe_sock_ops(ctx: SockOpsContext) -> u32 {
    match tuple::op(&ctx) {
        tuple::TCP_CONNECT => connecting(&ctx),
        tuple::STATE if tuple::closes(&ctx) => closing(&ctx),
        _ => {}
    }
    tuple::DONE
}

/// The two ends are in different namespaces, so none of them is part of the key.
#[inline(always)]
fn key(ctx: &SockOpsContext) -> Tuple {
    Tuple { netns: 0, ..tuple::dialled(ctx) }
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let key = key(ctx);
    let guard = DestinationKey { address_be: key.destination.words_be, port: 0, padding: 0 };
    // Whatever else the kubelet dials is none of ours.
    // SAFETY: only whether there is an entry is asked.
    if unsafe { GUARDED.get(&guard) }.is_none() {
        return;
    }
    let pass = Pass { cookie: tuple::cookie(ctx), kind: Pass::PROBE, padding: 0 };
    if PASSES.insert(&key, &pass, 0).is_err() {
        count(Counter::PassesFull);
        return;
    }
    tuple::ask_for_states(ctx);
}

#[inline(always)]
fn closing(ctx: &SockOpsContext) {
    let key = key(ctx);
    // SAFETY: read under RCU; a changed one fails the cookie's comparison.
    let Some(pass) = (unsafe { PASSES.get(&key) }) else { return };
    if pass.cookie == tuple::cookie(ctx) {
        let _ = PASSES.remove(&key);
    }
}
