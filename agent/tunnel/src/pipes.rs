//! The pipes of a worker, through which bytes go that need not come into this process's memory.

use std::cell::{Cell, RefCell};

use lark_sys::splice::Pipe;

/// Bytes that a pipe has place for.
pub(crate) const HOLDS: usize = 256 * 1024;
/// Pipes of a worker at once: each has two descriptors, and memory while an application does not take.
const MOST: usize = 16;
/// Empty ones that are kept.
const KEPT: usize = 4;

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

/// An empty pipe. Nothing when the system gives none: then bytes are read and written.
pub(crate) fn lend() -> Option<Lent> {
    let pipe = EMPTY.with_borrow_mut(Vec::pop).or_else(|| Pipe::new(HOLDS).ok())?;
    LENT.set(LENT.get() + 1);
    Some(Lent { pipe, counted: Counted })
}

/// The same for who may have it while others run, until an application takes what is in it. Nothing when [`MOST`] are
/// in use, so that whoever wants one for a moment is not left without.
pub(crate) fn lend_for_long() -> Option<Lent> {
    (LENT.get() < MOST).then(lend).flatten()
}

impl Lent {
    /// Keeps it for the next who asks, if it is empty.
    pub(crate) fn give_back(self) {
        let Self { pipe, counted } = self;
        drop(counted);
        EMPTY.with_borrow_mut(|empty| {
            if pipe.holds() == 0 && empty.len() < KEPT {
                empty.push(pipe);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_had_for_long_leave_some_for_a_moment() {
        for _ in 0..2 {
            let long: Vec<_> = std::iter::from_fn(lend_for_long).collect();
            assert_eq!(long.len(), MOST);
            assert!(lend().is_some());
        }
        std::iter::from_fn(lend_for_long).collect::<Vec<_>>().into_iter().for_each(Lent::give_back);
        assert_eq!(EMPTY.with_borrow(Vec::len), KEPT);
        assert_eq!(LENT.get(), 0);
    }
}
