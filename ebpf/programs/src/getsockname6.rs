//! `getsockname()` on an IPv6 socket (cgroup/getsockname6, Linux 5.8): a redirected socket lives on
//! loopback, but the application asked from the pod's own address. The port stays.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{name, sock_addr};

#[cgroup_sock_addr(getsockname6)]
pub fn lark_getsockname6(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = name::of(&ctx)
        && !peer.own.is_unspecified()
    {
        sock_addr::set_address6(&ctx, &peer.own);
    }
    name::PROCEED
}
