//! sock_ops on the kubelet's cgroup: records what it dials at guarded pods, so that their look-up hook knows
//! a probe by the socket that dials it and never by an address. An entry lives from before the SYN until the
//! socket closes, so its four-tuple is this socket's own for as long.

use crate::{passes, tuple};
use aya_ebpf::{macros::sock_ops, programs::SockOpsContext};

#[sock_ops]
pub fn lark_probe_sock_ops(ctx: SockOpsContext) -> u32 {
    match tuple::op(&ctx) {
        tuple::TCP_CONNECT => connecting(&ctx),
        tuple::STATE if tuple::closes(&ctx) => passes::forget_probe(&ctx),
        _ => {}
    }
    tuple::DONE
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let key = passes::key(ctx);
    // Whatever else the kubelet dials is none of ours.
    if passes::is_guarded(&key.destination) {
        passes::vouch_probe(ctx, &key);
    }
}
