//! The pipes of a worker, through which bytes go that need not come into this process's memory.

use std::cell::{Cell, RefCell};

use lark_sys::splice::Pipe;

/// Bytes that a pipe has place for.
pub(crate) const HOLDS: usize = 256 * 1024;
/// Pipes of a worker at once: each has two descriptors, and memory while an application does not take.
const MOST: usize = 16;

thread_local! {
    static EMPTY: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    static LENT: Cell<usize> = const { Cell::new(0) };
}

/// A pipe for a while. One that is dropped, with what nobody lived to take, is closed.
pub(crate) struct Lent {
    pub(crate) pipe: Pipe,
    counted: Counted,
}

/// One of [`MOST`].
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        LENT.set(LENT.get().saturating_sub(1));
    }
}

/// An empty pipe. Nothing when all are in use or the system gives none: then bytes are read and written.
pub(crate) fn lend() -> Option<Lent> {
    if LENT.get() >= MOST {
        return None;
    }
    let pipe = EMPTY.with_borrow_mut(Vec::pop).or_else(|| Pipe::new(HOLDS).ok())?;
    LENT.set(LENT.get() + 1);
    Some(Lent { pipe, counted: Counted })
}

impl Lent {
    /// Keeps it for the next who asks, if it is empty.
    pub(crate) fn give_back(self) {
        let Self { pipe, counted } = self;
        drop(counted);
        if pipe.holds() == 0 {
            EMPTY.with_borrow_mut(|empty| empty.push(pipe));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_those_that_are_lost_are_replaced() {
        let lent: Vec<_> = std::iter::from_fn(lend).collect();
        assert_eq!(lent.len(), MOST);
        drop(lent);
        let again: Vec<_> = std::iter::from_fn(lend).collect();
        assert_eq!(again.len(), MOST);
        again.into_iter().for_each(Lent::give_back);
        assert_eq!(EMPTY.with_borrow(Vec::len), MOST);
        assert_eq!(std::iter::from_fn(lend).collect::<Vec<_>>().len(), MOST);
    }
}
