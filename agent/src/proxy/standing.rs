//! Connections that stand: judged anew when discovery changes, and reset if policies do not allow them
//! any more. A worker has its own table, so no lock is on the way of a connection.
//!
//! A connection is ended by its socket at the pod, named by both its ends: that serves tunnels of either
//! side and local connections alike, and costs nothing until it is needed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use lark_core::policy::Passage;
use lark_core::snapshot::{PolicyChange, Snapshot};
use lark_sys::connections::destroy;
use tokio::sync::watch;

use crate::capture::Pod;

/// Connections judged between two looks at the worker's other work.
const BATCH: usize = 256;

/// A worker's open connections.
#[derive(Clone, Default)]
pub struct Standing(Rc<RefCell<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Open>,
}

struct Open {
    passage: Passage,
    pod: Arc<Pod>,
    local: SocketAddr,
    remote: SocketAddr,
    denied: Option<String>,
}

/// One connection's place in the table; left when dropped.
pub(super) struct Held {
    table: Rc<RefCell<Table>>,
    number: u64,
}

impl Held {
    /// Why policies ended it, if they did.
    pub(super) fn denied(&self) -> Option<String> {
        self.table.borrow().open.get(&self.number).and_then(|open| open.denied.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.table.borrow_mut().open.remove(&self.number);
    }
}

impl Standing {
    /// A connection stands, by the agent's socket from `local` to `remote` in the namespace of `pod`.
    pub(super) fn hold(
        &self,
        passage: Passage,
        pod: Arc<Pod>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Held {
        let mut table = self.0.borrow_mut();
        let number = table.next;
        table.next += 1;
        table.open.insert(number, Open { passage, pod, local, remote, denied: None });
        Held { table: self.0.clone(), number }
    }

    /// Judges all of them at each change of discovery, for ever.
    pub async fn follow(self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        while snapshots.changed().await.is_ok() {
            let snapshot = snapshots.borrow_and_update().clone();
            if snapshot.mesh.policy_change == PolicyChange::Keep {
                continue;
            }
            let numbers: Vec<u64> = self.0.borrow().open.keys().copied().collect();
            for batch in numbers.chunks(BATCH) {
                batch.iter().for_each(|number| self.judge(*number, &snapshot));
                tokio::task::yield_now().await;
            }
        }
    }

    fn judge(&self, number: u64, snapshot: &Snapshot) {
        let mut table = self.0.borrow_mut();
        let Some(open) = table.open.get_mut(&number) else { return };
        if !open.passage.is_known(snapshot) {
            return;
        }
        let Some(why) = open.passage.judge(snapshot).denied else { return };
        let pod = &open.pod.name;
        match open.pod.netns.within(|| destroy(open.local, open.remote)) {
            Ok(Ok(found)) => {
                tracing::warn!(pod, to = %open.passage.address, why, found, "policy changed: an open connection is ended");
                open.denied = Some(why);
            }
            Ok(Err(error)) => {
                tracing::error!(pod, to = %open.passage.address, why, %error, "policy changed, and an open connection cannot be ended");
            }
            Err(error) => {
                tracing::error!(pod, to = %open.passage.address, why, %error, "policy changed, and an open connection cannot be ended");
            }
        }
    }
}
