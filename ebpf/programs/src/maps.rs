//! The maps, declared in one place: key, value, why this size, and what happens when full.
//!
//! User space pins each under its name and re-uses it when the layout version is the same.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    macros::btf_map,
};
use lark_abi::{
    Config, Counter, DestinationKey, DestinationValue, DirectKey, DirectValue, Flow, FollowedEvent,
    FollowedSocket, Guard, Pass, PeerName, PodEntry, Refused, Tuple, WORKERS_MAX, counter, entry::RangeData,
};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// The pod's entry, per attachment (cgroup and hook). Bound to the cgroup by the kernel, so the
/// workload is known whatever task runs the hook. Zero until user space writes it, which means
/// inactive. Never full: the kernel makes one entry with each attachment.
///
/// The kernel calls this type deprecated in favour of one that looks at the *current task's*
/// cgroup, which is exactly what must not decide here.
#[expect(deprecated, reason = "the successor is keyed by the current task, not by the attachment")]
#[btf_map]
pub static POD: aya_ebpf::btf_maps::CgroupStorage<PodEntry> = aya_ebpf::btf_maps::CgroupStorage::new();

/// Mesh destinations by address and port (port 0: any). 262,144 holds 100,000 dual-stack workloads
/// and 10,000 Services of several ports; user space sets another size at load. When full, user
/// space holds pods first and then small Services, and says how many it left out.
#[btf_map]
pub static DESTINATIONS: HashMap<DestinationKey, DestinationValue, 262_144, NO_PREALLOC> = HashMap::new();

/// Redirected connects that the agent has not accepted yet, by tuple. Entries live for
/// microseconds, so 65,536 is a storm; when full the connection is reset by the agent, counted.
#[btf_map]
pub static FLOWS: HashMap<Tuple, Flow, 65_536, NO_PREALLOC> = HashMap::new();

/// Deliveries that the application's kernel side has not established yet, by tuple. Same life and
/// size; when full, the claim stays without a cookie, and user space resets the delivery.
#[btf_map]
pub static DELIVERIES: HashMap<Tuple, Flow, 65_536, NO_PREALLOC> = HashMap::new();

/// What a pod's socket tells its application about its peer. Freed with the socket.
#[btf_map]
pub static SK_PEER: SkStorage<PeerName> = SkStorage::new();

/// The flow that an accepted socket of the agent stands for; user space reads it by descriptor.
#[btf_map]
pub static SK_ACCEPTED: SkStorage<Flow> = SkStorage::new();

/// The source address that the agent claims for a delivery; user space writes it by descriptor
/// before it connects.
#[btf_map]
pub static SK_CLAIM: SkStorage<Flow> = SkStorage::new();

/// The cluster's own ranges of addresses: what a strict pod dials there is never left alone. 1,024 is more
/// than any cluster has; user space says which did not fit.
#[btf_map]
pub static RANGES: LpmTrie<RangeData, u32, 1024> = LpmTrie::new();

/// Addresses and ports of this node's pods that have the look-up hook. 65,536 are 250 dual-stack pods with a
/// hundred ports each; what does not fit is refused, and user space says so.
#[btf_map]
pub static GUARDED: HashMap<DestinationKey, Guard, 65_536, NO_PREALLOC> = HashMap::new();

/// Connections that may reach strict pods, or leave them.
pub type Passes = HashMap<Tuple, Pass, 65_536, NO_PREALLOC>;

/// Connections of the kubelet's that may reach strict pods, by tuple without a namespace. They live as long as the
/// socket that dials; 65,536 are more than a node's probes. When full, what is not recorded is refused.
#[btf_map]
pub static PASSES: Passes = Passes::new();

/// The same for what the agent dials from inside strict pods, for these, at whoever is not captured. A map of its
/// own: whoever dials in a pod must not be able to keep probes out. When full, what is not recorded is dropped as it
/// leaves the pod.
#[btf_map]
pub static AGENT_PASSES: Passes = Passes::new();

/// The same for what a verdict leaves to two pods; its own for the same cause. When full, what is not recorded is
/// cut off.
#[btf_map]
pub static DIRECT_PASSES: Passes = Passes::new();

/// When a refusal was last told, in nanoseconds, by everything but the source's port. The least recently
/// used go, so that a flood of addresses costs events and never memory.
#[btf_map]
pub static TOLD: LruHashMap<Refused, u64, 4096> = LruHashMap::new();

/// Refusals for user space, not pinned: each agent reads what its own programs write. 64 KiB are 1,300 of
/// them; when full they are counted and not told.
#[btf_map]
pub static EVENTS: RingBuf<Refused, 65_536> = RingBuf::new();

/// Verdicts about connections between pods of this node (`sameNode: direct`). 131,072 are 250 dual-stack pods
/// with each other; what does not fit goes through the agent, and user space says so.
#[btf_map]
pub static DIRECT: HashMap<DirectKey, DirectValue, 131_072, NO_PREALLOC> = HashMap::new();

/// The generation of verdicts that count (one); 0: none does. Raised before anything else when policies
/// change, so that no verdict of before is used after.
#[btf_map]
pub static GENERATION: Array<u32, 1> = Array::new();

/// What a socket remembers of a connection that no agent carries. Freed with the socket.
#[btf_map]
pub static SK_FOLLOWED: SkStorage<FollowedSocket> = SkStorage::new();

/// What becomes of direct connections, not pinned: each agent reads what its own programs write. 128 KiB are
/// 1,300; when full they are counted and not told, and user space looks for itself what is open.
#[btf_map]
pub static DIRECT_EVENTS: RingBuf<FollowedEvent, 131_072> = RingBuf::new();

/// The same of connections in plaintext, of which user space hears twenty times a second, and ten times as often
/// while there are many: 256 KiB are 2,700. When full they are counted and not told; what stays open is listed
/// nevertheless.
#[btf_map]
pub static PLAIN_EVENTS: RingBuf<FollowedEvent, 262_144> = RingBuf::new();

/// Settings (one).
#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();

/// The agent's last sign of life in nanoseconds of CLOCK_BOOTTIME (one).
#[btf_map]
pub static HEARTBEAT: Array<u64, 1> = Array::new();

/// Connections that pods have open with each worker, by its number; not pinned, so that each agent begins with none.
#[btf_map]
pub static LOAD: Array<i64, WORKERS_MAX> = Array::new();

/// A number of this agent's programs, other than that of the agent before (one). Not pinned either.
#[btf_map]
pub static EPOCH: Array<u16, 1> = Array::new();

/// Counters by [`Counter::index`], a copy per CPU so that counting costs no shared cache line.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { counter::SLOTS as usize }> = PerCpuArray::new();

/// Counts one event.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter.index()) {
        // SAFETY: the slot is this CPU's own and programs are not preempted by themselves here; a
        // lost increment under nesting would only undercount.
        unsafe { *slot += 1 };
    }
}

/// How many connections pods have open with a worker.
#[inline(always)]
pub fn load(worker: u32) -> i64 {
    // SAFETY: the value is aligned and in the map for good. Others change it at the same time, in one piece, as it is
    // read: the target has no atomic load, and volatile makes one instruction of it.
    LOAD.get_ptr(worker).map_or(0, |open| unsafe { core::ptr::read_volatile(open) })
}

/// By whose programs a connection is counted; never zero once an agent runs.
#[inline(always)]
pub fn epoch() -> u16 {
    EPOCH.get(0).copied().unwrap_or(0)
}

/// Adds to that; false if there is no such worker.
#[inline(always)]
pub fn add_load(worker: u16, change: i64) -> bool {
    let Some(open) = LOAD.get_ptr_mut(worker.into()) else { return false };
    // The target has no compare and exchange, so the language gives it no `fetch_add`; it does have this one.
    // SAFETY: as above.
    unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(open, change) };
    true
}

/// The map as the helpers want it: the loader puts the map's descriptor where its address stands.
#[inline(always)]
pub fn raw<T>(map: &SkStorage<T>) -> *mut core::ffi::c_void {
    core::ptr::from_ref(map).cast_mut().cast()
}
