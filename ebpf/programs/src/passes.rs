//! Connections that somebody vouches for, from before their SYN until their socket closes, so that the
//! four-tuple is that socket's own for as long.

use aya_ebpf::programs::SockOpsContext;
use lark_abi::{Address, Counter, DestinationKey, Pass, Tuple};

use crate::{
    maps::{AGENT_PASSES, DIRECT_PASSES, GUARDED, PASSES, Passes, count},
    tuple,
};

/// The two ends are in different namespaces, so none of them is part of the key.
#[inline(always)]
pub fn key(ctx: &SockOpsContext) -> Tuple {
    Tuple { netns: 0, ..tuple::dialled(ctx) }
}

/// Records what the kubelet is dialling, until the socket closes.
#[inline(always)]
pub fn vouch_probe(ctx: &SockOpsContext, key: &Tuple) {
    vouch(&PASSES, ctx, key, Pass::PROBE);
}

/// Records what the agent is dialling, until the socket closes.
#[inline(always)]
pub fn vouch_agent(ctx: &SockOpsContext, key: &Tuple) {
    vouch(&AGENT_PASSES, ctx, key, Pass::AGENT);
}

#[inline(always)]
fn vouch(map: &Passes, ctx: &SockOpsContext, key: &Tuple, kind: u32) {
    let pass = Pass { cookie: tuple::cookie(ctx), kind, acceptor: 0 };
    if map.insert(key, &pass, 0).is_ok() {
        tuple::ask_for_states(ctx);
    } else {
        count(Counter::PassesFull);
    }
}

/// Records what a verdict leaves alone; false if there is no room.
#[inline(always)]
pub fn record_direct(ctx: &SockOpsContext, key: &Tuple, acceptor: u32) -> bool {
    let pass = Pass { cookie: tuple::cookie(ctx), kind: Pass::DIRECT, acceptor };
    let is_recorded = DIRECT_PASSES.insert(key, &pass, 0).is_ok();
    if !is_recorded {
        count(Counter::PassesFull);
    }
    is_recorded
}

/// Who vouches for a connection that leaves a pod, if anybody does.
#[inline(always)]
pub fn of_dialled(key: &Tuple) -> Option<Pass> {
    let dialled = read(&AGENT_PASSES, key);
    // An agent of before has what it dials among the probes, for as long as it drains.
    if dialled.kind != 0 { Some(dialled) } else { of(key) }
}

/// Who vouches for a connection that reaches a pod, if anybody does.
#[inline(always)]
pub fn of(key: &Tuple) -> Option<Pass> {
    let vouched = read(&PASSES, key);
    if vouched.kind != 0 {
        return Some(vouched);
    }
    let direct = read(&DIRECT_PASSES, key);
    if direct.kind != 0 { Some(direct) } else { None }
}

/// Whether a verdict left it to two pods.
#[inline(always)]
pub fn is_direct(key: &Tuple) -> bool {
    read(&DIRECT_PASSES, key).kind != 0
}

/// What is recorded; of kind 0 if nothing is. The fields are read where they are found, as in `direct.rs`.
#[inline(always)]
fn read(map: &Passes, key: &Tuple) -> Pass {
    let Some(found) = map.get_ptr(key) else { return Pass::default() };
    // SAFETY: the entry stays readable until the program ends (RCU).
    unsafe {
        Pass {
            cookie: core::ptr::read_volatile(core::ptr::addr_of!((*found).cookie)),
            kind: core::ptr::read_volatile(core::ptr::addr_of!((*found).kind)),
            acceptor: core::ptr::read_volatile(core::ptr::addr_of!((*found).acceptor)),
        }
    }
}

/// Takes back what was vouched for of a socket of the kubelet's that closes, if anything was.
#[inline(always)]
pub fn forget_probe(ctx: &SockOpsContext) {
    remove(&PASSES, ctx, &key(ctx));
}

/// Takes back what was vouched for of a socket of the agent's that closes, if anything was.
#[inline(always)]
pub fn forget_agent(ctx: &SockOpsContext) {
    remove(&AGENT_PASSES, ctx, &key(ctx));
}

/// Takes back what a verdict left alone.
#[inline(always)]
pub fn forget_direct(ctx: &SockOpsContext, key: &Tuple) {
    remove(&DIRECT_PASSES, ctx, key);
}

#[inline(always)]
fn remove(map: &Passes, ctx: &SockOpsContext, key: &Tuple) {
    // SAFETY: read under RCU; a changed one fails the cookie's comparison.
    let Some(pass) = (unsafe { map.get(key) }) else { return };
    if pass.cookie == tuple::cookie(ctx) {
        let _ = map.remove(key);
    }
}

/// Whether an address is a guarded pod's of this node.
#[inline(always)]
pub fn is_guarded(address: &Address) -> bool {
    let key = DestinationKey { address_be: address.words_be, port: 0, padding: 0 };
    // SAFETY: only whether there is an entry is asked.
    unsafe { GUARDED.get(&key) }.is_some()
}
