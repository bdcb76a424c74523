//! `getsockname()` on an IPv4 socket (cgroup/getsockname4, Linux 5.8): a redirected socket lives on
//! loopback, but the application asked from the pod's own address. The port stays.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{name, sock_addr};

#[cgroup_sock_addr(getsockname4)]
pub fn lark_getsockname4(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = name::of(&ctx)
        && !peer.own.is_unspecified()
    {
        sock_addr::set_address4(&ctx, &peer.own);
    }
    name::PROCEED
}
