//! Connections of captured pods in plaintext: with peers outside the mesh, with ones that are not captured, and what
//! was left alone while an agent was dead. Followed by what the pods' hooks tell, and counted as the kernel counts.
//! The agent carries nothing of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lark_abi::{FollowedEvent, FollowedSocket};
use lark_bpf::FollowedEvents;
use lark_bpf::socket_maps::socket_address;
use lark_core::explain::{Ending, Passthrough};
use lark_core::observe::Secured;
use lark_core::snapshot::{Snapshot, Workload};
use lark_core::view::Party;
use tokio::sync::watch;

use super::follow::{Follower, by_pod, counts, ending, follow};
use crate::capture::{Pod, Pods};
use crate::observe::{Connection, Direction, Observer, Opening};

/// Most that are followed while they are open; of more it is told as a whole when they end.
const OPEN_MAX: usize = 65_536;

/// Follows plaintext.
pub struct Plain {
    /// What discovery knows.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The captured pods of this node.
    pub pods: Arc<Pods>,
    /// Who is told.
    pub observer: Observer,
    /// True while another agent follows them.
    pub paused: watch::Receiver<bool>,
}

/// One that is open.
struct Open {
    connection: Connection,
    /// Whose socket is followed.
    pod: Arc<Pod>,
    /// Its ends as that socket has them, its own first.
    ends: (SocketAddr, SocketAddr),
    has_accepted: bool,
    /// The kernel had it no more when it was last looked: what tells may be on its way.
    is_missing: bool,
}

impl Open {
    /// What its own socket has sent is on its way to the destination only if it has dialled.
    fn reach(&self, sent: u64, received: u64, rtt_us: u32, retransmits: u32) {
        let counters = self.connection.counters();
        if self.has_accepted {
            counters.reach(received, sent);
        } else {
            counters.reach(sent, received);
        }
        counters.measure(rtt_us, retransmits);
    }
}

impl Plain {
    /// Follows them for as long as the agent runs.
    pub async fn run(self, events: FollowedEvents) {
        let paused = self.paused.clone();
        follow(Following { of: self, open: HashMap::new() }, events, paused).await;
    }

    /// One is open, of a pod that is captured here; nothing if it is none.
    fn open(&self, event: &FollowedEvent) -> Option<Open> {
        let has_accepted = event.seen & FollowedSocket::ACCEPTED != 0;
        let snapshot = self.snapshot.borrow().clone();
        // Pods of one namespace are not told apart by it; what such a pod has open is listed from the kernel.
        let is_alone = |pod: &Arc<Pod>| snapshot.workload(&pod.uid).is_some_and(|w| !w.host_network);
        // Who dialled is numbered by the agent of that time, which may have been another.
        let numbered = if has_accepted { None } else { self.pods.by_id(event.pod) };
        let pod = numbered.or_else(|| self.pods.by_acceptor(event.namespace).filter(is_alone))?;
        let workload = snapshot.workload(&pod.uid)?;
        let source = socket_address(event.source, event.source_port);
        let destination = socket_address(event.destination, event.port);
        let (ends, direction) = if has_accepted {
            ((destination, source), Direction::Inbound)
        } else {
            ((source, destination), Direction::Outbound)
        };
        let (me, peer) = (Party::of(workload).unproved(), Party::at(ends.1.ip(), &snapshot));
        let (from, to) = if has_accepted { (peer, me) } else { (me, peer) };
        let connection = self.observer.open(Opening {
            direction,
            source: from,
            destination: to,
            service: None,
            source_address: source,
            destination_address: destination,
            peer: None,
        });
        connection.note(why(snapshot.workload_by_address(ends.1.ip())).label());
        (connection.securer())(Secured::Plaintext);
        Some(Open { connection, pod, ends, has_accepted, is_missing: false })
    }
}

/// Why nobody carries a connection with that peer.
fn why(peer: Option<&Arc<Workload>>) -> Passthrough {
    match peer {
        None => Passthrough::OutsideMesh,
        Some(peer) if peer.capture.is_wanted() => Passthrough::NotTaken,
        Some(_) => Passthrough::NotCaptured,
    }
}

/// All that following them needs.
struct Following {
    of: Plain,
    /// By the cookie of the socket.
    open: HashMap<u64, Open>,
}

impl Follower for Following {
    const KIND: &'static str = "plaintext";

    fn hear(&mut self, event: &FollowedEvent) {
        match event.kind {
            FollowedEvent::OPENED if self.open.len() < OPEN_MAX => {
                if let Some(open) = self.of.open(event) {
                    self.open.insert(event.cookie, open);
                }
            }
            FollowedEvent::CLOSED => {
                // One whose beginning was not told is told as a whole.
                let open = self.open.remove(&event.cookie).or_else(|| self.of.open(event));
                if let Some(open) = open {
                    open.reach(event.sent, event.received, event.rtt_us, event.retransmits);
                    open.connection.ended(ending(event), None);
                }
            }
            _ => {}
        }
    }

    fn look(&mut self) {
        let mut over = Vec::new();
        for (pod, open) in by_pod(self.open.iter_mut().map(|(cookie, open)| {
            let pod = open.pod.clone();
            (pod, (*cookie, open))
        })) {
            // Its hooks are gone, and tell nothing any more.
            let is_released = self.of.pods.by_uid(&pod.uid).is_none();
            let found = counts(&pod);
            for (cookie, open) in open {
                match found.as_ref().map(|found| found.get(&open.ends)) {
                    Some(Some(found)) => {
                        open.is_missing = false;
                        open.reach(found.sent, found.received, found.rtt_us, found.retransmits);
                        if is_released {
                            over.push((cookie, Ending::Released));
                        }
                    }
                    // Its end was not told, so its last bytes are not known.
                    Some(None) if open.is_missing => over.push((cookie, Ending::Lost)),
                    Some(None) => open.is_missing = true,
                    None if is_released => over.push((cookie, Ending::Lost)),
                    None => {}
                }
            }
        }
        for (cookie, ending) in over {
            if let Some(open) = self.open.remove(&cookie) {
                open.connection.ended(ending, None);
            }
        }
    }

    fn leave(&mut self) {
        self.open.drain().for_each(|(_, open)| open.connection.leave());
    }
}
