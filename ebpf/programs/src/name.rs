//! What the four name hooks have in common.

use aya_ebpf::{helpers::bpf_sk_storage_get, programs::SockAddrContext};
use lark_abi::PeerName;

use crate::{
    maps::{SK_PEER, raw},
    sock_addr,
};

/// Name hooks may only let the call go on (kernel/bpf/verifier.c, `check_return_code`).
pub const PROCEED: i32 = 1;

/// What the socket remembers, if it is one of ours.
#[inline(always)]
pub fn of(ctx: &SockAddrContext) -> Option<&'static PeerName> {
    // SAFETY: the socket is the context's; a null value without the create flag only looks up.
    let found =
        unsafe { bpf_sk_storage_get(raw(&SK_PEER), sock_addr::socket(ctx).cast(), core::ptr::null_mut(), 0) }
            .cast::<PeerName>();
    // SAFETY: the helper returns null or a value that lives as long as the socket.
    unsafe { found.as_ref() }
}
