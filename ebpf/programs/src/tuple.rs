//! What the sock_ops programs have in common: the tuple of a connection, and publishing what one
//! end of a local connection tells the other.
//!
//! The way of an entry: the dialling end publishes it at TCP_CONNECT_CB, when the four-tuple is
//! complete; the accepting end moves it into its socket's storage at PASSIVE_ESTABLISHED, before
//! `accept()` can return the socket; if that never happens the dialling end takes it back when its
//! socket closes. Closing runs its callback before the port is free again (`tcp_set_state`,
//! net/ipv4/tcp.c), so an entry never meets the next user of a port; the cookie guards it once more.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock},
    btf_maps::{HashMap, SkStorage},
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_sk_storage_get},
    programs::SockOpsContext,
};
use aya_log_ebpf::warn;
use lark_abi::{Address, Counter, Flow, Tuple};

use crate::maps::{count, raw};

pub use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB as ACTIVE_ESTABLISHED,
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB as PASSIVE_ESTABLISHED, BPF_SOCK_OPS_RTO_CB as RTO,
    BPF_SOCK_OPS_RWND_INIT as RWND_INIT, BPF_SOCK_OPS_STATE_CB as STATE,
    BPF_SOCK_OPS_TCP_CONNECT_CB as TCP_CONNECT,
};

/// What sock_ops programs return; the value has no meaning for the callbacks used here.
pub const DONE: u32 = 1;
const AF_INET6: u32 = 10;
const TCP_CLOSE: u32 = 7;

/// Published entries.
pub type Entries = HashMap<Tuple, Flow, 65_536, { aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize }>;

macro_rules! read {
    ($place:expr) => {
        // SAFETY: the kernel hands a valid context for the whole run; volatile keeps the 32-bit
        // accesses apart, which is all that the verifier allows.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!($place)) }
    };
}

/// Both families are read before one is chosen: in branches, the compiler would merge the loads into
/// one of a computed offset, which the verifier refuses on a context.
macro_rules! address {
    ($ctx:ident, $v4:ident, $v6:ident) => {{
        let v4 = read!((*$ctx.ops).$v4);
        let words = [
            read!((*$ctx.ops).$v6[0]),
            read!((*$ctx.ops).$v6[1]),
            read!((*$ctx.ops).$v6[2]),
            read!((*$ctx.ops).$v6[3]),
        ];
        if read!((*$ctx.ops).family) == AF_INET6 { Address::v6(words) } else { Address::v4(v4) }
    }};
}

#[inline(always)]
fn local(ctx: &SockOpsContext) -> Address {
    address!(ctx, local_ip4, local_ip6)
}

#[inline(always)]
fn remote(ctx: &SockOpsContext) -> Address {
    address!(ctx, remote_ip4, remote_ip6)
}

#[inline(always)]
fn local_port(ctx: &SockOpsContext) -> u16 {
    // Host byte order, unlike the remote one (include/uapi/linux/bpf.h).
    read!((*ctx.ops).local_port) as u16
}

#[inline(always)]
fn remote_port(ctx: &SockOpsContext) -> u16 {
    u32::from_be(read!((*ctx.ops).remote_port)) as u16
}

#[inline(always)]
fn netns(ctx: &SockOpsContext) -> u64 {
    // SAFETY: a plain helper call on the program's own context (sock_ops since Linux 5.15).
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The tuple as this end dialled it.
#[inline(always)]
pub fn dialled(ctx: &SockOpsContext) -> Tuple {
    Tuple {
        netns: netns(ctx),
        source: local(ctx),
        destination: remote(ctx),
        source_port: local_port(ctx),
        destination_port: remote_port(ctx),
        padding: 0,
    }
}

/// The tuple as this end accepted it.
#[inline(always)]
pub fn accepted(ctx: &SockOpsContext) -> Tuple {
    Tuple {
        netns: netns(ctx),
        source: remote(ctx),
        destination: local(ctx),
        source_port: remote_port(ctx),
        destination_port: local_port(ctx),
        padding: 0,
    }
}

#[inline(always)]
pub fn op(ctx: &SockOpsContext) -> u32 {
    read!((*ctx.ops).op)
}

/// The socket, null when it is not a full one.
#[inline(always)]
pub fn socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    read!((*ctx.ops).__bindgen_anon_2.sk)
}

#[inline(always)]
pub fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: a plain helper call on the program's own context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Whether this state callback says that the socket closes.
#[inline(always)]
pub fn closes(ctx: &SockOpsContext) -> bool {
    states(ctx).1 == TCP_CLOSE
}

/// The state before and after this state callback (include/net/tcp_states.h).
#[inline(always)]
pub fn states(ctx: &SockOpsContext) -> (u32, u32) {
    (read!((*ctx.ops).__bindgen_anon_1.args[0]), read!((*ctx.ops).__bindgen_anon_1.args[1]))
}

/// Whether this is a listener that answers a SYN: what runs it then is a request and no socket yet.
#[inline(always)]
pub fn is_request(ctx: &SockOpsContext) -> bool {
    read!((*ctx.ops).is_fullsock) == 0
}

/// Bytes that the other end has acknowledged (RFC 4898, tcpEStatsAppHCThruOctetsAcked), the SYN and the end
/// among them.
#[inline(always)]
pub fn bytes_acked(ctx: &SockOpsContext) -> u64 {
    read!((*ctx.ops).bytes_acked)
}

/// Bytes that were received in order (tcpEStatsAppHCThruOctetsReceived), the other side's end among them.
#[inline(always)]
pub fn bytes_received(ctx: &SockOpsContext) -> u64 {
    read!((*ctx.ops).bytes_received)
}

/// Whether everything that was sent has been acknowledged.
#[inline(always)]
pub fn all_acked(ctx: &SockOpsContext) -> bool {
    read!((*ctx.ops).snd_una) == read!((*ctx.ops).snd_nxt)
}

/// The smoothed round-trip time in microseconds; the kernel keeps eight times that.
#[inline(always)]
pub fn rtt_us(ctx: &SockOpsContext) -> u32 {
    read!((*ctx.ops).srtt_us) >> 3
}

/// Segments that were sent again.
#[inline(always)]
pub fn retransmits(ctx: &SockOpsContext) -> u32 {
    read!((*ctx.ops).total_retrans)
}

/// The socket's storage in a map, if there is one.
#[inline(always)]
pub fn storage<T>(map: &SkStorage<T>, sk: *mut bpf_sock) -> Option<&'static mut T> {
    // SAFETY: `sk` was checked not to be null; without the create flag the helper only looks up and
    // returns null or a value that lives as long as the socket.
    unsafe { bpf_sk_storage_get(raw(map), sk.cast(), core::ptr::null_mut(), 0).cast::<T>().as_mut() }
}

/// Puts a value into the socket's storage; false if the kernel had no memory.
#[inline(always)]
pub fn store<T>(map: &SkStorage<T>, sk: *mut bpf_sock, value: &mut T) -> bool {
    // SAFETY: as above; the helper copies the value when it creates the storage.
    let stored = unsafe {
        bpf_sk_storage_get(
            raw(map),
            sk.cast(),
            core::ptr::from_mut(value).cast(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    };
    !stored.is_null()
}

/// Publishes what the accepting end is to know, and asks for the callback that takes it back; false if the
/// map is full.
#[inline(always)]
pub fn publish(ctx: &SockOpsContext, entries: &Entries, flow: &Flow, full: Counter) -> bool {
    if entries.insert(dialled(ctx), flow, 0).is_err() {
        count(full);
        // Rare: the map holds thousands of entries that live for microseconds each.
        warn!(ctx, "a map of connections under way is full: port {} is not told to its other end", flow.port);
        return false;
    }
    ask_for_states(ctx);
    true
}

/// Asks for the callback at each change of the socket's state.
#[inline(always)]
pub fn ask_for_states(ctx: &SockOpsContext) {
    // A refusal would only leave an entry behind when the peer never establishes; it cannot happen
    // on a full socket.
    let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
}

/// The same, and for the callback whenever what was sent is not acknowledged in time.
#[inline(always)]
pub fn ask_for_time_outs(ctx: &SockOpsContext) {
    // Refused, it would be ended by the kernel's own patience.
    let _ = ctx.set_cb_flags((BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG) as i32);
}

/// How often in a row before this callback of a time-out the same was sent again (Linux 4.16).
#[inline(always)]
pub fn time_outs(ctx: &SockOpsContext) -> u32 {
    states(ctx).0
}

/// Whether the kernel gives the connection up at this time-out.
#[inline(always)]
pub fn gives_up(ctx: &SockOpsContext) -> bool {
    read!((*ctx.ops).__bindgen_anon_1.args[2]) != 0
}

/// Whether the other end has said that it sends no more (include/net/tcp_states.h).
#[inline(always)]
pub fn other_end_closed(ctx: &SockOpsContext) -> bool {
    const CLOSE_WAIT: u32 = 8;
    const LAST_ACK: u32 = 9;
    matches!(read!((*ctx.ops).state), CLOSE_WAIT | LAST_ACK)
}

/// Takes back what was published if nobody has taken it.
#[inline(always)]
pub fn take_back(ctx: &SockOpsContext, entries: &Entries, key: &Tuple, abandoned: Counter) {
    // SAFETY: the entry is read under RCU; a changed one fails the cookie's comparison.
    let Some(entry) = (unsafe { entries.get(key) }) else { return };
    if entry.cookie == cookie(ctx) {
        let _ = entries.remove(key);
        count(abandoned);
    }
}
