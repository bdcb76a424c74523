//! Lark's programs: one file per hook. Each reads its context, asks `lark-abi` for the verdict and
//! acts on it; the verdict is returned on every path.
//!
//! Names of functions differ from section names on purpose: the linker takes equal ones for
//! duplicates.

#![no_std]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "an atomic addition, see maps.rs")]
#![no_main]

/// The maps, declared in one place.
mod maps;

/// Reading and writing `bpf_sock_addr`.
mod sock_addr;

/// What connect4 and connect6 have in common.
mod connect;
mod connect4;
mod connect6;

mod getpeername4;
mod getpeername6;
mod getsockname4;
mod getsockname6;
/// What the four name hooks have in common.
mod name;

/// Connections that a verdict leaves to two pods of one node.
mod direct;
/// Connections that no agent carries.
mod follow;

mod agent_sock_ops;
mod pod_sock_ops;
/// Connections that somebody vouches for.
mod passes;
mod probe_sock_ops;
/// What the sock_ops programs have in common.
mod tuple;

mod leave;
mod lookup;
/// Telling user space what was refused.
mod told;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier accepts no program in which this could be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

/// The kernel hands GPL-only helpers (the socket storage ones) only to programs that say this.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
