//! Bytes that wait for applications which do not read. Each stream's window bounds its own; here all of a
//! worker's are bounded, each peer's share of them too.

use std::cell::RefCell;
use std::rc::Rc;

use lark_core::quota::{Full, Origin, Quota};

/// What one tunnel holds for its streams' pods, of what its worker may hold.
#[derive(Debug)]
pub(crate) struct Held {
    quota: Rc<RefCell<Quota>>,
    origin: Origin,
    bytes: usize,
}

impl Held {
    pub(crate) fn new(quota: Rc<RefCell<Quota>>, origin: Origin) -> Self {
        Self { quota, origin, bytes: 0 }
    }

    /// That many more are to be held.
    pub(crate) fn hold(&mut self, bytes: usize) -> Result<(), Full> {
        self.quota.borrow_mut().take(self.origin, bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// That many are gone.
    pub(crate) fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if bytes > 0 {
            self.quota.borrow_mut().give(self.origin, bytes);
            self.bytes -= bytes;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release(self.bytes);
    }
}
