//! `getpeername()` and the address of `accept()` on an IPv6 socket (cgroup/getpeername6, Linux 5.8).

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{name, sock_addr};

#[cgroup_sock_addr(getpeername6)]
pub fn lark_getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = name::of(&ctx) {
        sock_addr::set_address6(&ctx, &peer.address);
        sock_addr::set_port(&ctx, peer.port);
    }
    name::PROCEED
}
