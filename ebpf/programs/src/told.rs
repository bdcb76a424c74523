//! Telling user space what was refused.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use lark_abi::{Counter, Refused};

use crate::maps::{EVENTS, TOLD, count};

/// The same refusal is told once in this time.
const EVERY_NS: u64 = 1_000_000_000;

/// Tells user space, unless the same was told a moment ago.
#[inline(always)]
pub fn tell(refused: &Refused) {
    // From whichever port, it is the same.
    let key = Refused { source_port: 0, ..*refused };
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: read under RCU and copied; a race tells one event twice.
    let last = unsafe { TOLD.get(&key) }.copied();
    if last.is_some_and(|last| now.saturating_sub(last) < EVERY_NS) {
        return;
    }
    // Without room in it the event is told again, which the ring buffer bounds.
    let _ = TOLD.insert(&key, &now, 0);
    if EVENTS.output(*refused, 0).is_err() {
        count(Counter::EventsLost);
    }
}
