//! `connect()` of an IPv6 socket, mapped IPv4 destinations included (cgroup/connect6, Linux 4.17).

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{connect, sock_addr};

#[cgroup_sock_addr(connect6)]
pub fn lark_connect6(ctx: SockAddrContext) -> i32 {
    match connect::hook(&ctx, sock_addr::address6(&ctx), sock_addr::bound6) {
        Ok((address, port)) => {
            sock_addr::set_address6(&ctx, &address);
            sock_addr::set_port(&ctx, port);
            connect::PROCEED
        }
        Err(verdict) => verdict,
    }
}
