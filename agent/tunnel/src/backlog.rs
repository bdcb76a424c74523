//! What arrived for a pod that does not take it now. The peer's window bounds it.

use std::io::IoSlice;

/// Room that is not worth giving back while bytes wait.
const FEW: usize = 16 * 1024;

/// Bytes in order, taken from the front. What was taken holds no more memory than what still waits, but for
/// [`FEW`] bytes: a reader that leaves a little is counted for little.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: Vec<u8>,
    taken: usize,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Appends what is left of `slices` after their first `skip` bytes.
    pub(crate) fn push_after(&mut self, slices: &[IoSlice<'_>], mut skip: usize) {
        for slice in slices {
            let rest = slice.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(slice.len());
            self.bytes.extend_from_slice(rest);
        }
    }

    /// What waits.
    pub(crate) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    /// That many bytes are gone. Memory goes back when nothing waits: an idle stream holds none.
    pub(crate) fn take(&mut self, count: usize) {
        self.taken += count;
        if self.is_empty() {
            *self = Self::default();
        } else if self.taken > self.bytes.len() / 2 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
            if self.bytes.capacity() / 2 > self.bytes.len().max(FEW) {
                self.bytes.shrink_to(self.bytes.len().max(FEW));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_and_leave_no_memory() {
        let mut backlog = Backlog::default();
        backlog.push_after(&[IoSlice::new(b"abc"), IoSlice::new(b"def"), IoSlice::new(b"")], 4);
        backlog.push_after(&[IoSlice::new(b"ghi")], 0);
        assert_eq!(backlog.waiting(), b"efghi");
        backlog.take(1);
        assert_eq!(backlog.waiting(), b"fghi");
        backlog.take(3);
        assert_eq!(backlog.waiting(), b"i");
        backlog.take(1);
        assert!(backlog.is_empty());
        assert_eq!(backlog.bytes.capacity(), 0);
    }

    #[test]
    fn what_is_left_of_much_holds_no_memory_for_much() {
        for left in [1, 20_000, 1 << 20] {
            let mut backlog = Backlog::default();
            backlog.push_after(&[IoSlice::new(&vec![7; 4 << 20])], 0);
            backlog.take((4 << 20) - left);
            assert_eq!(backlog.waiting(), vec![7; left]);
            assert!(backlog.bytes.capacity() <= 2 * left.max(FEW), "{left}: {}", backlog.bytes.capacity());
        }
    }
}
