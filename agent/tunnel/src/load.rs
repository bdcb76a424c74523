//! What the accepting end of a worker has on its hands, and its limits.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use lark_core::quota::{Full, Origin, Quota};

use crate::held::{Held, Holding};
use crate::ready::ReadyList;
use crate::settings::TunnelSettings;

/// Counts of one worker.
#[derive(Debug)]
pub(crate) struct Load {
    handshakes: RefCell<Quota>,
    deliveries: RefCell<Quota>,
    tunnels: RefCell<Quota>,
    held: Holding,
    draining: Cell<bool>,
    /// To wake the tunnels when it is time to drain.
    lists: RefCell<Vec<Weak<ReadyList>>>,
}

/// Something counted, until it is dropped.
pub(crate) struct Permit {
    load: Rc<Load>,
    quota: fn(&Load) -> &RefCell<Quota>,
    origin: Origin,
}

impl Permit {
    fn new(load: &Rc<Load>, quota: fn(&Load) -> &RefCell<Quota>, origin: Origin) -> Result<Self, Full> {
        quota(load).borrow_mut().take(origin, 1)?;
        Ok(Self { load: load.clone(), quota, origin })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.quota)(&self.load).borrow_mut().give(self.origin, 1);
    }
}

impl Load {
    pub(crate) fn new(settings: &TunnelSettings) -> Self {
        let quota = |most| RefCell::new(Quota::new(most));
        Self {
            handshakes: quota(settings.handshakes_max),
            deliveries: quota(settings.deliveries_max),
            tunnels: quota(settings.tunnels_max),
            held: settings.held.clone(),
            draining: Cell::new(false),
            lists: RefCell::default(),
        }
    }

    /// A handshake begins.
    pub(crate) fn handshake(self: &Rc<Self>, origin: Origin) -> Result<Permit, Full> {
        Permit::new(self, |load| &load.handshakes, origin)
    }

    /// A delivery begins.
    pub(crate) fn delivery(self: &Rc<Self>, origin: Origin) -> Result<Permit, Full> {
        Permit::new(self, |load| &load.deliveries, origin)
    }

    /// A tunnel opens.
    pub(crate) fn tunnel(self: &Rc<Self>, origin: Origin) -> Result<Permit, Full> {
        Permit::new(self, |load| &load.tunnels, origin)
    }

    /// The accounts of a tunnel from there: what waits for applications, and for its other end.
    pub(crate) fn accounts(&self, origin: Origin) -> (Held, Held) {
        (self.held.of(origin), self.held.leaving(origin))
    }

    /// Has a tunnel woken when it is time to drain.
    pub(crate) fn watch(&self, ready: &Arc<ReadyList>) {
        let mut lists = self.lists.borrow_mut();
        // Grows with the tunnels only, since those that closed are cleared away as others open.
        if lists.len() > 2 * self.tunnels() + 16 {
            lists.retain(|list| list.strong_count() > 0);
        }
        lists.push(Arc::downgrade(ready));
    }

    pub(crate) fn tunnels(&self) -> usize {
        self.tunnels.borrow().total()
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
