//! Reading and writing `bpf_sock_addr`. All accesses are volatile 32-bit ones: the verifier refuses
//! wider loads of the context, which the compiler would otherwise merge.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    programs::SockAddrContext,
};
use lark_abi::Address;

macro_rules! read {
    ($place:expr) => {
        // SAFETY: the kernel hands a valid context for the whole run of the program.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!($place)) }
    };
}
macro_rules! write {
    ($place:expr, $value:expr) => {
        // SAFETY: as for reading; the field is one that this hook may write.
        unsafe { core::ptr::write_volatile(core::ptr::addr_of_mut!($place), $value) }
    };
}

pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_MPTCP: u32 = 262;
pub const SOCK_STREAM: u32 = 1;

#[inline(always)]
pub fn raw(ctx: &SockAddrContext) -> *mut bpf_sock_addr {
    ctx.sock_addr
}

#[inline(always)]
pub fn address4(ctx: &SockAddrContext) -> Address {
    Address::v4(read!((*raw(ctx)).user_ip4))
}

#[inline(always)]
pub fn address6(ctx: &SockAddrContext) -> Address {
    Address::v6([
        read!((*raw(ctx)).user_ip6[0]),
        read!((*raw(ctx)).user_ip6[1]),
        read!((*raw(ctx)).user_ip6[2]),
        read!((*raw(ctx)).user_ip6[3]),
    ])
}

#[inline(always)]
pub fn set_address4(ctx: &SockAddrContext, address: &Address) {
    write!((*raw(ctx)).user_ip4, address.word_v4_be());
}

#[inline(always)]
pub fn set_address6(ctx: &SockAddrContext, address: &Address) {
    write!((*raw(ctx)).user_ip6[0], address.words_be[0]);
    write!((*raw(ctx)).user_ip6[1], address.words_be[1]);
    write!((*raw(ctx)).user_ip6[2], address.words_be[2]);
    write!((*raw(ctx)).user_ip6[3], address.words_be[3]);
}

#[inline(always)]
pub fn port(ctx: &SockAddrContext) -> u16 {
    u16::from_be(read!((*raw(ctx)).user_port) as u16)
}

#[inline(always)]
pub fn set_port(ctx: &SockAddrContext, port: u16) {
    write!((*raw(ctx)).user_port, u32::from(port.to_be()));
}

/// Whether the socket is a TCP or MPTCP one; UDP and others run the connect hooks too.
#[inline(always)]
pub fn is_tcp(ctx: &SockAddrContext) -> bool {
    let protocol = read!((*raw(ctx)).protocol);
    read!((*raw(ctx)).type_) == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
}

/// The socket; never null in these hooks.
#[inline(always)]
pub fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    read!((*raw(ctx)).__bindgen_anon_1.sk)
}

/// Index of the device that the socket is bound to, 0 for none.
#[inline(always)]
pub fn device(sk: *mut bpf_sock) -> u32 {
    read!((*sk).bound_dev_if)
}

/// The IPv4 address that the socket is bound to.
#[inline(always)]
pub fn bound4(sk: *mut bpf_sock) -> Address {
    Address::v4(read!((*sk).src_ip4))
}

/// The IPv6 address that the socket is bound to.
#[inline(always)]
pub fn bound6(sk: *mut bpf_sock) -> Address {
    Address::v6([
        read!((*sk).src_ip6[0]),
        read!((*sk).src_ip6[1]),
        read!((*sk).src_ip6[2]),
        read!((*sk).src_ip6[3]),
    ])
}
