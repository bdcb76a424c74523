//! Flow control (RFC 9113, section 5.2): what may be sent, what may arrive, and when it is credited
//! back.

use crate::explain::Violation;

use super::error::ConnectionError;
use super::settings::MAX_WINDOW;

/// What we may send.
#[derive(Debug, Clone, Copy)]
pub(super) struct SendWindow(i64);

impl SendWindow {
    pub(super) fn new(window: u32) -> Self {
        Self(window.into())
    }

    pub(super) fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    pub(super) fn spend(&mut self, bytes: usize) {
        self.0 -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }

    /// Adds an increment of a WINDOW_UPDATE or the change of the initial window, which may be
    /// negative and leave the window negative (section 6.9.2).
    pub(super) fn add(&mut self, change: i64) -> Result<(), ConnectionError> {
        self.0 = self.0.saturating_add(change);
        if self.0 > MAX_WINDOW {
            Err(ConnectionError::flow(Violation::WindowOverflow, "a window above 2^31-1"))
        } else {
            Ok(())
        }
    }
}

/// What the peer may send to us on one stream. The window starts small and doubles while the reader
/// keeps up with a sender who needs more, so that a reader that was slow from its beginning never holds more than
/// the window it began with. One that was fast and stops holds what its window had become, at most the `max` given to
/// [`Self::consumed`]: what was credited cannot be taken back.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceiveWindow {
    /// What the peer may still send.
    open: i64,
    /// The size of the window at present.
    size: i64,
    /// Taken by the reader and not yet credited.
    credit: i64,
}

impl ReceiveWindow {
    pub(super) fn new(size: u32) -> Self {
        Self { open: size.into(), size: size.into(), credit: 0 }
    }

    /// Debits what arrived.
    pub(super) fn arrived(&mut self, bytes: usize) -> Result<(), ConnectionError> {
        self.open -= i64::try_from(bytes).unwrap_or(i64::MAX);
        if self.open < 0 {
            Err(ConnectionError::flow(Violation::WindowExceeded, "DATA beyond the stream's window"))
        } else {
            Ok(())
        }
    }

    /// Takes note of what the reader took; the increment to announce, if it is time.
    pub(super) fn consumed(&mut self, bytes: usize, max: u32) -> Option<u32> {
        self.credit += i64::try_from(bytes).unwrap_or(0);
        if self.credit < self.size / 4 {
            return None;
        }
        let waiting = self.size - self.open - self.credit;
        let drained = waiting <= self.size / 4;
        let wanted = self.open < self.size / 2;
        if drained && wanted && self.size < i64::from(max) {
            let grown = (self.size * 2).min(max.into());
            self.credit += grown - self.size;
            self.size = grown;
        }
        let increment = std::mem::take(&mut self.credit);
        self.open += increment;
        u32::try_from(increment).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::ReceiveWindow;

    const MAX: u32 = 4 * 1024 * 1024;

    #[test]
    fn a_reader_that_drains_gets_a_larger_window() {
        let mut window = ReceiveWindow::new(256 * 1024);
        for _ in 0..100 {
            let open = usize::try_from(window.open).unwrap();
            window.arrived(open).unwrap();
            window.consumed(open, MAX);
        }
        assert_eq!(window.size, i64::from(MAX));
    }

    #[test]
    fn a_slow_reader_keeps_the_window_it_began_with() {
        let mut window = ReceiveWindow::new(256 * 1024);
        window.arrived(256 * 1024).unwrap();
        for _ in 0..1000 {
            if let Some(more) = window.consumed(1024, MAX) {
                window.arrived(usize::try_from(more).unwrap()).unwrap();
            }
        }
        assert_eq!(window.size, 256 * 1024);
    }
}
