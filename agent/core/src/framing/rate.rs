//! How often a peer may do what costs us more than it costs him (CVE-2023-44487 and its kin), a second.

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

/// PINGs, SETTINGS and PRIORITY frames.
pub(super) const CONTROL: u32 = 200;
/// DATA frames without payload and without END_STREAM.
pub(super) const EMPTY: u32 = 200;
/// Streams that the peer resets before we answered: each cost a decision and a dial. An agent does it when
/// its application gives up all its connections at once, of which a tunnel carries a thousand.
pub(super) const RESETS: u32 = 2_000;
/// Streams beyond our SETTINGS_MAX_CONCURRENT_STREAMS; an agent opens some before it has read these.
pub(super) const REFUSED: u32 = 2_000;
/// Requests that no agent makes.
pub(super) const BAD_REQUESTS: u32 = 100;
/// WINDOW_UPDATEs; 4 MiB credited by quarters stays far below at 100 Gbit/s, and so do peers that credit each
/// frame of 16 KiB twice at 10 Gbit/s.
pub(super) const UPDATES: u32 = 200_000;
/// WINDOW_UPDATEs of fewer bytes than [`TINY`]: each lets us send a frame of hardly anything. Readers credit a
/// half or a quarter of their window, or at least 4 KiB, at a time.
pub(super) const TINY_UPDATES: u32 = 10_000;
/// See [`TINY_UPDATES`].
pub(super) const TINY: i64 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_begins_anew() {
        let mut rate = Rate::default();
        let allowed =
            |rate: &mut Rate, second| (0..5).filter(|_| rate.allows(Duration::from_secs(second), 3)).count();
        assert_eq!([0, 0, 7, 8].map(|second| allowed(&mut rate, second)), [3, 0, 3, 3]);
    }
}
