//! Connections that the kernel left to two pods of this node (`sameNode: direct`): followed by what their hooks
//! tell, counted as the kernel counts, and ended when policies do not allow them any more. The agent carries
//! nothing of them.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use lark_abi::{FollowedEvent, FollowedSocket};
use lark_bpf::socket_maps::socket_address;
use lark_bpf::{FollowedEvents, Kernel, OpenDirect};
use lark_core::explain::Ending;
use lark_core::observe::Secured;
use lark_core::policy::{At, Passage};
use lark_core::reason::Reason;
use lark_core::snapshot::Snapshot;
use lark_core::view::Party;
use lark_sys::connections::destroy_on_loopback;
use tokio::sync::watch;

use super::follow::{Follower, by_pod, counts, ending, follow};
use super::standing::{Held, Standing};
use crate::capture::{ConnectionOf, Doubted, Pod, Pods};
use crate::observe::{Connection, Direction, Observer, Opening};

/// Follows direct connections.
pub struct Direct {
    /// What discovery knows.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The captured pods of this node.
    pub pods: Arc<Pods>,
    /// Where open connections are recorded.
    pub kernel: Arc<Mutex<Kernel>>,
    /// Who is told.
    pub observer: Observer,
    /// Who did not accept what was left to them.
    pub doubted: Doubted,
    /// True while another agent follows them.
    pub paused: watch::Receiver<bool>,
}

/// One that is open.
struct Open {
    connection: Connection,
    /// Nothing if discovery does not know both ends.
    held: Option<Held>,
    ends: (SocketAddr, SocketAddr),
    source: Option<Arc<Pod>>,
    _counted: Vec<ConnectionOf>,
}

/// The two ends of one, as far as they are known.
struct Ends {
    source: Option<Arc<Pod>>,
    destination: Option<Arc<Pod>>,
    from: SocketAddr,
    to: SocketAddr,
}

impl Ends {
    /// Policies can be asked about no others: after a start pods are captured one by one, and until both are, it is
    /// looked for again.
    fn are_known(&self) -> bool {
        self.source.is_some() && self.destination.is_some()
    }
}

/// All that are open, by the cookie of the socket that dialled.
#[derive(Default)]
struct Table {
    open: HashMap<u64, Open>,
    /// Open by one account and not by the other, when it was last looked: what tells may be on its way.
    odd: HashSet<u64>,
}

impl Direct {
    /// Follows them for as long as the agent runs. Needs a runtime that takes local tasks.
    pub async fn run(self, events: FollowedEvents) {
        let standing = Standing::new(self.observer.clone());
        tokio::task::spawn_local(standing.clone().follow(self.snapshot.clone()));
        let paused = self.paused.clone();
        follow(Following { of: self, standing, table: Table::default() }, events, paused).await;
    }

    fn hear(&self, table: &mut Table, standing: &Standing, event: &FollowedEvent) {
        let ends = Ends {
            source: self.pods.by_id(event.pod),
            destination: self.pods.by_acceptor(event.namespace),
            from: socket_address(event.source, event.source_port),
            to: socket_address(event.destination, event.port),
        };
        match event.kind {
            FollowedEvent::OPENED if ends.are_known() => {
                let open = self.open(standing, ends);
                table.open.insert(event.cookie, open);
            }
            FollowedEvent::CLOSED => {
                // One whose beginning was not told is told as a whole.
                let open = table.open.remove(&event.cookie).unwrap_or_else(|| self.open(standing, ends));
                open.connection.counters().reach(event.sent, event.received);
                open.connection.counters().measure(event.rtt_us, event.retransmits);
                open.end(ending(event));
            }
            FollowedEvent::UNCONFIRMED => {
                let is_recorded = event.seen & FollowedSocket::UNRECORDED == 0;
                self.cut_off(is_recorded.then_some(event.namespace), &ends);
            }
            _ => {}
        }
    }

    /// One is open.
    fn open(&self, standing: &Standing, ends: Ends) -> Open {
        let snapshot = self.snapshot.borrow().clone();
        let workload = |pod: &Option<Arc<Pod>>| snapshot.workload(&pod.as_ref()?.uid).cloned();
        let (source, destination) = (workload(&ends.source), workload(&ends.destination));
        let connection = self.observer.open(opening(&snapshot, &ends));
        (connection.securer())(Secured::Direct);
        // Ended at the acceptor, so that the pod that dialled sees a reset as it does elsewhere.
        let held =
            source.zip(destination).zip(ends.destination.clone()).map(|((source, destination), pod)| {
                let passage = Passage::new(&source, ends.from.ip(), Some(&destination), ends.to, At::Both);
                let held = standing.hold(passage, pod, ends.to, ends.from);
                standing.look(&held, &snapshot);
                held
            });
        let counted = [&ends.source, &ends.destination].into_iter().flatten().map(Pod::connection).collect();
        Open { connection, held, ends: (ends.from, ends.to), source: ends.source, _counted: counted }
    }

    /// Another than the one that was meant has answered, or there was no room to tell (`doubted` is nothing then).
    /// Nothing of the connection leaves its pod; here it ends.
    fn cut_off(&self, doubted: Option<u32>, ends: &Ends) {
        if let Some(acceptor) = doubted {
            self.doubted.add(acceptor);
        }
        let snapshot = self.snapshot.borrow().clone();
        let destroyed =
            ends.source.as_ref().map(|pod| pod.netns.within(|| destroy_on_loopback(ends.from, ends.to)));
        let detail = match destroyed {
            Some(Ok(Ok(_))) => "it was cut off before a byte and ended".to_owned(),
            Some(Ok(Err(error))) => format!("it was cut off before a byte, but could not be ended: {error}"),
            Some(Err(error)) => format!("it was cut off before a byte, but could not be ended: {error}"),
            None => "it was cut off before a byte; its pod is gone".to_owned(),
        };
        let connection = self.observer.open(opening(&snapshot, ends));
        connection.ended(Ending::Refused, Some((Reason::DirectUnconfirmed, &detail)));
    }

    /// Counts what is open, and compares it with what the kernel has.
    fn look(&self, table: &mut Table, standing: &Standing) {
        if table.open.is_empty() && !self.may_be_direct() {
            return;
        }
        let recorded: HashMap<u64, OpenDirect> = {
            let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
            kernel.guards().direct().into_iter().map(|open| (open.cookie, open)).collect()
        };
        let missing = table.open.keys().filter(|cookie| !recorded.contains_key(*cookie));
        let unknown = recorded.keys().filter(|cookie| !table.open.contains_key(*cookie));
        let odd: HashSet<u64> = missing.chain(unknown).copied().collect();
        for cookie in odd.intersection(&table.odd) {
            if let Some(open) = table.open.remove(cookie) {
                // Its end was not told, so its last bytes are not known.
                open.end(Ending::Lost);
            } else if let Some(found) = recorded.get(cookie) {
                let ends = self.ends_of(found);
                if ends.are_known() {
                    table.open.insert(*cookie, self.open(standing, ends));
                }
            }
        }
        table.odd = odd;
        self.count(table);
    }

    /// Whether the kernel may have something to tell that it has not told: connections from before this agent.
    fn may_be_direct(&self) -> bool {
        let snapshot = self.snapshot.borrow();
        snapshot.mesh.same_node == lark_core::snapshot::SameNode::Direct
    }

    fn ends_of(&self, found: &OpenDirect) -> Ends {
        let snapshot = self.snapshot.borrow();
        // The socket that dials is recorded for as long as it is open, so its address is its pod's still.
        let source = snapshot.workload_by_address(found.source.ip());
        Ends {
            source: source.and_then(|workload| self.pods.by_uid(&workload.uid)),
            destination: self.pods.by_acceptor(found.acceptor),
            from: found.source,
            to: found.destination,
        }
    }

    /// Bytes so far, as the sockets that dialled have counted them.
    fn count(&self, table: &Table) {
        let open = table.open.values().filter_map(|open| Some((open.source.clone()?, open)));
        for (pod, open) in by_pod(open) {
            let Some(found) = counts(&pod) else { continue };
            for open in open {
                if let Some(found) = found.get(&open.ends) {
                    let counters = open.connection.counters();
                    counters.reach(found.sent, found.received);
                    counters.measure(found.rtt_us, found.retransmits);
                }
            }
        }
    }
}

/// All that following them needs.
struct Following {
    of: Direct,
    standing: Standing,
    table: Table,
}

impl Follower for Following {
    const KIND: &'static str = "direct";

    fn hear(&mut self, event: &FollowedEvent) {
        self.of.hear(&mut self.table, &self.standing, event);
    }

    fn look(&mut self) {
        self.of.look(&mut self.table, &self.standing);
    }

    fn leave(&mut self) {
        self.table.open.drain().for_each(|(_, open)| open.connection.leave());
    }
}

impl Open {
    fn end(self, ending: Ending) {
        match self.held.and_then(|held| held.denied()) {
            Some(why) => self.connection.ended(Ending::Denied, Some((Reason::PolicyDenied, &why))),
            None => self.connection.ended(ending, None),
        }
    }
}

fn opening(snapshot: &Snapshot, ends: &Ends) -> Opening {
    // Both ends are known by their hooks, and not by their addresses.
    let party = |pod: &Option<Arc<Pod>>, address: SocketAddr| {
        let workload = pod.as_ref().and_then(|pod| snapshot.workload(&pod.uid));
        workload.map_or_else(|| Party::at(address.ip(), snapshot), |workload| Party::of(workload))
    };
    Opening {
        direction: Direction::Local,
        source: party(&ends.source, ends.from),
        destination: party(&ends.destination, ends.to),
        service: None,
        source_address: ends.from,
        destination_address: ends.to,
        peer: None,
    }
}
