//! `connect()` of an IPv4 socket (cgroup/connect4, Linux 4.17).

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{connect, sock_addr};

#[cgroup_sock_addr(connect4)]
pub fn lark_connect4(ctx: SockAddrContext) -> i32 {
    match connect::hook(&ctx, sock_addr::address4(&ctx), sock_addr::bound4) {
        Ok((address, port)) => {
            sock_addr::set_address4(&ctx, &address);
            sock_addr::set_port(&ctx, port);
            connect::PROCEED
        }
        Err(verdict) => verdict,
    }
}
