//! Connections that stand: judged anew when discovery changes, and reset if policies do not allow them
//! any more. A worker has its own table, so no lock is on the way of a connection.
//!
//! A connection is ended by its socket at the pod, named by both its ends: that serves tunnels of either
//! side and local connections alike, and costs nothing until it is needed.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;
use lark_core::policy::Passage;
use lark_core::snapshot::{PolicyChange, Snapshot};
use lark_sys::connections::destroy;
use slab::Slab;
use tokio::sync::watch;

use crate::capture::Pod;
use crate::observe::Observer;

/// Connections judged between two looks at the worker's other work.
const BATCH: usize = 256;
/// After this a connection that could not be ended is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A worker's open connections.
#[derive(Clone)]
pub struct Standing(Rc<RefCell<Table>>);

struct Table {
    /// By number. One that is free goes to the next connection; a [`Held`] keeps its own.
    open: Slab<Open>,
    /// Those that are not allowed any more and could not be ended yet.
    lingering: HashSet<usize>,
    observer: Observer,
}

struct Open {
    passage: Passage,
    pod: Arc<Pod>,
    local: SocketAddr,
    remote: SocketAddr,
    fate: Fate,
    /// How often it could not be ended.
    failures: u32,
}

enum Fate {
    /// Nobody denies it.
    Stands,
    /// It is denied, for this reason, and could not be ended.
    Lingers(String),
    /// Policies ended it, for this reason.
    Ended(String),
}

/// One connection's place in the table; left when dropped.
pub(super) struct Held {
    table: Rc<RefCell<Table>>,
    number: usize,
}

impl Held {
    /// Why policies ended it, if they did.
    pub(super) fn denied(&self) -> Option<String> {
        match &self.table.borrow().open.get(self.number)?.fate {
            Fate::Ended(why) => Some(why.clone()),
            Fate::Stands | Fate::Lingers(_) => None,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.table.borrow_mut();
        table.open.try_remove(self.number);
        table.settle(self.number);
    }
}

impl Table {
    /// Nothing has to be done about a connection any more.
    fn settle(&mut self, number: usize) {
        if self.lingering.remove(&number) {
            self.observer.denied_open(-1);
        }
    }

    /// A connection goes on that may not.
    fn linger(&mut self, number: usize) {
        if self.lingering.insert(number) {
            self.observer.denied_open(1);
        }
    }
}

impl Standing {
    /// An empty table.
    pub fn new(observer: Observer) -> Self {
        let table = Table { open: Slab::new(), lingering: HashSet::new(), observer };
        Self(Rc::new(RefCell::new(table)))
    }

    /// A connection stands, by the socket from `local` to `remote` in the namespace of `pod`, which is the agent's
    /// unless the connection is direct.
    pub(super) fn hold(
        &self,
        passage: Passage,
        pod: Arc<Pod>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Held {
        let open = Open { passage, pod, local, remote, fate: Fate::Stands, failures: 0 };
        let number = self.0.borrow_mut().open.insert(open);
        Held { table: self.0.clone(), number }
    }

    /// Judges one now: it was allowed by what was so before.
    pub(super) fn look(&self, held: &Held, snapshot: &Snapshot) {
        self.judge(held.number, snapshot);
    }

    /// Judges all of them at each change of discovery, and those that could not be ended every second, for
    /// ever.
    pub async fn follow(self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let lingers = !self.0.borrow().lingering.is_empty();
            let changed = tokio::select! {
                changed = snapshots.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = tokio::time::sleep(AGAIN), if lingers => false,
            };
            let numbers: Vec<usize> = {
                let table = self.0.borrow();
                if changed {
                    table.open.iter().map(|(number, _)| number).collect()
                } else {
                    table.lingering.iter().copied().collect()
                }
            };
            for batch in numbers.chunks(BATCH) {
                // The newest: a number may by now be that of a connection which the last one would not have allowed.
                // Not marked as seen: the others, and those of batches before, are judged by it after this.
                let snapshot = snapshots.borrow().clone();
                batch.iter().for_each(|number| self.judge(*number, &snapshot));
                tokio::task::yield_now().await;
            }
        }
    }

    fn judge(&self, number: usize, snapshot: &Snapshot) {
        let mut table = self.0.borrow_mut();
        let table = &mut *table;
        let Some(open) = table.open.get_mut(number) else { return };
        let why = match &open.fate {
            Fate::Ended(_) => return,
            _ if snapshot.mesh.policy_change == PolicyChange::Keep => None,
            // Nothing is known of a workload that is gone: what was found before holds.
            Fate::Stands if !open.passage.is_known(snapshot) => None,
            Fate::Lingers(why) if !open.passage.is_known(snapshot) => Some(why.clone()),
            _ => open.passage.judge(snapshot).denied.map(|denied| denied.why),
        };
        let Some(why) = why else {
            open.fate = Fate::Stands;
            return table.settle(number);
        };
        let (pod, to) = (&open.pod.name, open.passage.address);
        let failed = match open.pod.netns.within(|| destroy(open.local, open.remote)) {
            Ok(Ok(true)) => {
                tracing::warn!(pod, %to, why, "policy changed: an open connection is ended");
                open.fate = Fate::Ended(why);
                return table.settle(number);
            }
            // It may have ended by itself a moment ago; if not, the next look says so.
            Ok(Ok(false)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        open.failures = open.failures.saturating_add(1);
        let (tell, error) = match failed {
            Some(error) => (open.failures == 1, error),
            None => (open.failures == 2, "its socket is not found".to_owned()),
        };
        // Once for each; the metric says how many there are.
        if tell {
            tracing::error!(pod, %to, why, error, "policy changed, and an open connection cannot be ended; it is tried every second");
        }
        open.fate = Fate::Lingers(why);
        table.linger(number);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream};

    use lark_core::capture::Wanted;
    use lark_core::identity::{SpiffeId, TrustDomain};
    use lark_core::policy::{At, NetworkPolicy, Policies, Selector};
    use lark_core::snapshot::{AgentDown, MeshSettings, Node, SameNode, Workload};
    use lark_sys::{cgroup, netns::NetNs};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    use super::*;

    fn workload(name: &str, address: [u8; 4]) -> Workload {
        let domain = TrustDomain::new("cluster.local").unwrap();
        Workload {
            uid: format!("shop/{name}").into(),
            namespace: "shop".into(),
            name: name.into(),
            account: name.into(),
            identity: SpiffeId::new(&domain, "shop", name).unwrap(),
            labels: Arc::new([("app".to_owned(), name.to_owned())].into()),
            addresses: [address.into()].into(),
            contested: Box::default(),
            node: "one".into(),
            owner: None,
            host_network: false,
            ports: Box::default(),
            place: None,
            foreign_policies: Box::default(),
            mode: lark_core::mode::Mode::default(),
            capture: Wanted::ByNamespace,
        }
    }

    /// Two pods of one node, and those of them to which nobody may connect.
    fn snapshot(denied: &[&str]) -> Arc<Snapshot> {
        let mesh = MeshSettings {
            trust_domain: TrustDomain::new("cluster.local").unwrap(),
            same_node: SameNode::default(),
            agent_down: AgentDown::default(),
            policy_change: PolicyChange::End,
            cluster_ranges: vec![],
        };
        let node = Node {
            name: "one".into(),
            addresses: vec![[192, 168, 0, 1].into()],
            tunnel_port: 15_008,
            zone: None,
        };
        let workloads = vec![workload("web", [10, 0, 0, 1]), workload("db", [10, 0, 0, 2])];
        let closed = |name: &&str| NetworkPolicy {
            namespace: "shop".into(),
            name: format!("closed-{name}").into(),
            pods: Selector { labels: [("app".to_owned(), (*name).to_owned())].into(), ..Selector::default() },
            ingress: Some(vec![]),
            egress: None,
        };
        let network = denied.iter().map(closed).collect();
        let built = Snapshot::build(1, mesh, vec![node], workloads, vec![]).unwrap();
        Arc::new(built.with_policies(Policies { network, ..Policies::default() }))
    }

    /// Takes a capability of this thread away, or gives it back.
    fn may_reset(may: bool) {
        let mut sets = capabilities(None).unwrap();
        sets.effective.set(CapabilitySet::NET_ADMIN, may);
        set_capabilities(None, sets).unwrap();
    }

    fn metric(observer: &Observer) -> String {
        let text = observer.metrics(&Vec::new()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("lark_policy_denied_open "));
        line.unwrap().to_owned()
    }

    /// A connection of a pod, from `name` at `port` to the other one, held by the socket `agent_end`.
    fn hold(standing: &Standing, known: &Snapshot, to: &str, agent_end: &TcpStream) -> Held {
        let from = if to == "db" { "web" } else { "db" };
        let named = |name| known.workload_named("shop", name).unwrap();
        let address = named(to).addresses[0];
        let own = named(from).addresses[0];
        let passage =
            Passage::new(named(from), own, Some(named(to)), SocketAddr::new(address, 80), At::Destination);
        let netns = NetNs::current().unwrap();
        let pod = Pod::new(
            "shop.db".into(),
            1,
            "shop/db".to_owned(),
            netns,
            cgroup::own().unwrap(),
            Box::default(),
        );
        let ends = (agent_end.local_addr().unwrap(), agent_end.peer_addr().unwrap());
        standing.hold(passage, Arc::new(pod), ends.0, ends.1)
    }

    /// The pod's end of a connection, and the agent's.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pod_end = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        pod_end.set_nonblocking(true).unwrap();
        (pod_end, listener.accept().unwrap().0)
    }

    fn read(pod_end: &mut TcpStream) -> ErrorKind {
        pod_end.read(&mut [0]).unwrap_err().kind()
    }

    async fn turns() {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_cannot_be_ended_is_counted_and_tried_until_it_is() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let (mut pod_end, agent_end) = pair();
                let (snapshots, watched) = watch::channel(snapshot(&[]));
                let observer = Observer::new().unwrap();
                let standing = Standing::new(observer.clone());
                let held = hold(&standing, &snapshot(&[]), "db", &agent_end);
                tokio::task::spawn_local(standing.follow(watched));

                may_reset(false);
                snapshots.send_replace(snapshot(&["web", "db"]));
                tokio::time::sleep(AGAIN * 5).await;
                assert_eq!((held.denied(), metric(&observer).as_str()), (None, "1"));
                assert_eq!(read(&mut pod_end), ErrorKind::WouldBlock);

                // No change of discovery is needed for another try.
                may_reset(true);
                tokio::time::sleep(AGAIN * 2).await;
                assert!(held.denied().unwrap().contains("NetworkPolicy shop/closed-db"));
                assert_eq!(metric(&observer), "0");
                assert_eq!(read(&mut pod_end), ErrorKind::ConnectionReset);
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_at_the_moment_of_another_try_is_a_change_for_all() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let (_pod_end, agent_end) = pair();
                let (_other_end, other) = pair();
                let (snapshots, watched) = watch::channel(snapshot(&[]));
                let observer = Observer::new().unwrap();
                let standing = Standing::new(observer.clone());
                let held = ["db", "web"].map(|to| {
                    let socket = if to == "db" { &agent_end } else { &other };
                    hold(&standing, &snapshot(&[]), to, socket)
                });
                tokio::task::spawn_local(standing.follow(watched));
                may_reset(false);
                // Which of the two it looks at first is chance.
                for _ in 0..32 {
                    for (denied, count) in [(&["db"][..], "1"), (&["db", "web"], "2")] {
                        // Both wait for this moment, and this comes first.
                        tokio::time::sleep(AGAIN).await;
                        snapshots.send_replace(snapshot(denied));
                        turns().await;
                        assert_eq!(metric(&observer), count);
                    }
                }
                drop(held);
                may_reset(true);
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_that_is_given_again_is_judged_by_what_its_connection_was_allowed_by() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let (_many, many) = pair();
                let (mut pod_end, agent_end) = pair();
                let (snapshots, watched) = watch::channel(snapshot(&[]));
                let observer = Observer::new().unwrap();
                let standing = Standing::new(observer.clone());
                let known = snapshot(&[]);
                let mut held: Vec<Held> =
                    (0..BATCH + 1).map(|_| hold(&standing, &known, "db", &many)).collect();
                tokio::task::spawn_local(standing.clone().follow(watched));
                turns().await;

                snapshots.send_replace(snapshot(&["web"]));
                // It has judged a batch; the number of the next is another's by then.
                tokio::task::yield_now().await;
                let number = held.pop().map(|held| held.number);
                snapshots.send_replace(snapshot(&[]));
                let again = hold(&standing, &known, "web", &agent_end);
                assert_eq!(Some(again.number), number);
                turns().await;
                assert_eq!((again.denied(), metric(&observer).as_str()), (None, "0"));
                assert_eq!(read(&mut pod_end), ErrorKind::WouldBlock);
            })
            .await;
    }
}
