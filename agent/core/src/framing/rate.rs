//! How often a peer may do what costs us more than it costs him (CVE-2023-44487 and its kin).

use std::time::Duration;

/// Events in the current second; time is an argument.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Rate {
    second: u64,
    count: u32,
}

impl Rate {
    /// Counts one event; true while there were at most `most` in this second.
    pub(super) fn allows(&mut self, now: Duration, most: u32) -> bool {
        if self.second != now.as_secs() {
            *self = Self { second: now.as_secs(), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= most
    }
}

/// PINGs, SETTINGS and PRIORITY frames a second.
pub(super) const CONTROL_A_SECOND: u32 = 200;
/// DATA frames without payload and without END_STREAM a second.
pub(super) const EMPTY_A_SECOND: u32 = 200;
/// Streams a second that the peer resets before we answered: each cost a decision and a dial.
pub(super) const RESETS_A_SECOND: u32 = 10_000;
/// WINDOW_UPDATEs a second; 4 MiB credited by quarters stays far below at 100 Gbit/s.
pub(super) const UPDATES_A_SECOND: u32 = 500_000;
