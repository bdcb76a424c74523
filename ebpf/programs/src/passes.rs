//! Connections that somebody vouches for, from before their SYN until their socket closes, so that the
//! four-tuple is that socket's own for as long.

use aya_ebpf::programs::SockOpsContext;
use lark_abi::{Address, Counter, DestinationKey, Pass, Tuple};

use crate::{
    maps::{GUARDED, PASSES, count},
    tuple,
};

/// The two ends are in different namespaces, so none of them is part of the key.
#[inline(always)]
pub fn key(ctx: &SockOpsContext) -> Tuple {
    Tuple { netns: 0, ..tuple::dialled(ctx) }
}

/// Records what is being dialled, until the socket closes.
#[inline(always)]
pub fn vouch(ctx: &SockOpsContext, key: &Tuple, kind: u32) {
    if record(ctx, key, kind, 0) {
        tuple::ask_for_states(ctx);
    }
}

/// Records it; false if there is no room.
#[inline(always)]
pub fn record(ctx: &SockOpsContext, key: &Tuple, kind: u32, acceptor: u32) -> bool {
    let pass = Pass { cookie: tuple::cookie(ctx), kind, acceptor };
    let is_full = PASSES.insert(key, &pass, 0).is_err();
    if is_full {
        count(Counter::PassesFull);
    }
    !is_full
}

/// Takes back what was recorded of a socket that closes, if anything was.
#[inline(always)]
pub fn forget(ctx: &SockOpsContext) {
    remove(ctx, &key(ctx));
}

/// The same, by its tuple.
#[inline(always)]
pub fn remove(ctx: &SockOpsContext, key: &Tuple) {
    // SAFETY: read under RCU; a changed one fails the cookie's comparison.
    let Some(pass) = (unsafe { PASSES.get(key) }) else { return };
    if pass.cookie == tuple::cookie(ctx) {
        let _ = PASSES.remove(key);
    }
}

/// Whether an address is a guarded pod's of this node.
#[inline(always)]
pub fn is_guarded(address: &Address) -> bool {
    let key = DestinationKey { address_be: address.words_be, port: 0, padding: 0 };
    // SAFETY: only whether there is an entry is asked.
    unsafe { GUARDED.get(&key) }.is_some()
}
