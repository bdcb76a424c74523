//! How much of a tunnel may wait for a peer that takes nothing, or little.
//!
//! A tunnel that its peer keeps waiting is counted to the peer's node. While that node has its share, each of its
//! tunnels keeps a record's worth, in no more memory than that takes; and what has twice its share loses
//! the tunnels that are kept waiting.

use lark_core::framing::{FRAME_HEADER, MAX_OUTPUT};

use super::{Engine, Part, TunnelError};
use crate::record::FRAGMENT;

/// Plaintext that may wait as records for the node's socket.
pub(super) const USUAL: usize = 512 * 1024;
/// The same while the peer's node has its share.
const LITTLE: usize = FRAGMENT - FRAME_HEADER;
/// Answers that may wait then, to a peer that asks and does not read.
const LITTLE_OUTPUT: usize = 32 * 1024;

impl Engine {
    /// Looks, before a turn, how much may wait.
    pub(super) fn look_at_room(&mut self) {
        let limit = if self.leaving.has_room_for(USUAL) { USUAL } else { LITTLE };
        if limit == self.send_limit {
            return;
        }
        self.send_limit = limit;
        let output = match &self.part {
            Part::Accepting(_) if limit < USUAL => LITTLE_OUTPUT,
            // Whom and how often this end dials is for it to say.
            _ => MAX_OUTPUT,
        };
        self.h2.bound_output(output);
    }

    /// Counts what waits after a turn.
    ///
    /// # Errors
    /// When too much waits for the peer's node.
    pub(super) fn count_waiting(&mut self) -> Result<(), TunnelError> {
        self.leaving.reach(self.records.unsent() + self.h2.output().len());
        if self.send_limit < USUAL {
            self.records.pack();
            if self.leaving.is_far_over() {
                return Err(TunnelError::Crowded);
            }
        }
        Ok(())
    }
}
