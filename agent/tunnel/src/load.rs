//! What the accepting end of a worker has on its hands, and its limits.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use crate::ready::ReadyList;

/// Counts of one worker.
#[derive(Debug, Default)]
pub(crate) struct Load {
    handshakes: Cell<usize>,
    deliveries: Cell<usize>,
    tunnels: Cell<usize>,
    draining: Cell<bool>,
    /// To wake the tunnels when it is time to drain.
    lists: RefCell<Vec<Weak<ReadyList>>>,
}

/// Something counted, until it is dropped.
pub(crate) struct Permit {
    load: Rc<Load>,
    count: fn(&Load) -> &Cell<usize>,
}

impl Permit {
    fn new(load: &Rc<Load>, count: fn(&Load) -> &Cell<usize>, most: usize) -> Option<Self> {
        let cell = count(load);
        if cell.get() >= most {
            return None;
        }
        cell.set(cell.get() + 1);
        Some(Self { load: load.clone(), count })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let cell = (self.count)(&self.load);
        cell.set(cell.get() - 1);
    }
}

impl Load {
    /// A handshake begins; nothing if `most` are under way.
    pub(crate) fn handshake(self: &Rc<Self>, most: usize) -> Option<Permit> {
        Permit::new(self, |load| &load.handshakes, most)
    }

    /// A delivery begins; nothing if `most` are under way.
    pub(crate) fn delivery(self: &Rc<Self>, most: usize) -> Option<Permit> {
        Permit::new(self, |load| &load.deliveries, most)
    }

    /// A tunnel opens.
    pub(crate) fn tunnel(self: &Rc<Self>, ready: &Arc<ReadyList>) -> Option<Permit> {
        let mut lists = self.lists.borrow_mut();
        // Grows with the tunnels only, since those that closed are cleared away as others open.
        if lists.len() > 2 * self.tunnels.get() + 16 {
            lists.retain(|list| list.strong_count() > 0);
        }
        lists.push(Arc::downgrade(ready));
        Permit::new(self, |load| &load.tunnels, usize::MAX)
    }

    pub(crate) fn tunnels(&self) -> usize {
        self.tunnels.get()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for list in self.lists.borrow().iter().filter_map(Weak::upgrade) {
            list.wake();
        }
    }
}
