//! `getpeername()` and the address of `accept()` on an IPv4 socket (cgroup/getpeername4, Linux 5.8).

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{name, sock_addr};

#[cgroup_sock_addr(getpeername4)]
pub fn lark_getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = name::of(&ctx) {
        sock_addr::set_address4(&ctx, &peer.address);
        sock_addr::set_port(&ctx, peer.port);
    }
    name::PROCEED
}
