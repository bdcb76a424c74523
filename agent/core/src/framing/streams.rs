//! The streams of a connection.

use hashbrown::HashMap;

use super::flow::{ReceiveWindow, SendWindow};

/// One stream, while either half is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub(super) send: SendWindow,
    pub(super) receive: ReceiveWindow,
    /// We sent END_STREAM.
    pub(super) sent_end: bool,
    /// The peer sent END_STREAM.
    pub(super) received_end: bool,
    /// The response went one way or the other.
    pub(super) answered: bool,
    /// The response is to go with what is said next.
    pub(super) owes_answer: bool,
    /// Somebody waits for window.
    pub(super) blocked: bool,
}

impl Stream {
    pub(super) fn new(send: u32, receive: u32) -> Self {
        Self {
            send: SendWindow::new(send),
            receive: ReceiveWindow::new(receive),
            sent_end: false,
            received_end: false,
            answered: false,
            owes_answer: false,
            blocked: false,
        }
    }

    pub(super) const fn is_done(&self) -> bool {
        self.sent_end && self.received_end
    }
}

/// All streams that are open, by number.
pub(super) type Streams = HashMap<u32, Stream>;
