//! Outbound: what a pod's redirected connect becomes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use lark_bpf::Accepted;
use lark_bpf::socket_maps::socket_address;
use lark_core::constants::DISCOVERY_WAIT;
use lark_core::explain::Ending;
use lark_core::framing::ConnectRequest;
use lark_core::observe::{Secured, Stage};
use lark_core::policy::Passage;
use lark_core::reason::Reason;
use lark_core::route::{Decision, Route, decide};
use lark_core::snapshot::{Service, Snapshot, Workload};
use lark_core::view::Party;
use lark_tunnel::{
    Carried, Carrying, Dialer, End, Ended, Holding, PodShare, PodSocket, PoolKey, Refusal, Traffic, join,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::LOOK;
use super::clients::Clients;
use super::standing::{Held, Standing};
use crate::capture::{ConnectionOf, Pod, Pods};
use crate::deliver::{Dial, DialError};
use crate::observe::{Connection, Direction, Observer, Opening};

/// A worker's outbound side.
pub struct Outbound {
    /// This node.
    pub node: Arc<str>,
    /// What discovery knows.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The captured pods of this node.
    pub pods: Arc<Pods>,
    /// Reads what an accepted socket stands for.
    pub accepted: Accepted,
    /// The tunnels.
    pub dialer: Dialer,
    /// The way to applications of this node.
    pub dial: Rc<Dial>,
    /// The open connections, of both sides.
    pub standing: Standing,
    /// Who is told.
    pub observer: Observer,
    /// Connections of this worker to each endpoint.
    pub load: Rc<RefCell<HashMap<IpAddr, u32>>>,
    /// Who has to stay with an endpoint.
    pub clients: Arc<Clients>,
    /// What joined connections may hold.
    pub held: Holding,
}

/// Counts a connection to an endpoint while it lives.
struct Load {
    counts: Rc<RefCell<HashMap<IpAddr, u32>>>,
    address: IpAddr,
}

impl Load {
    fn add(counts: &Rc<RefCell<HashMap<IpAddr, u32>>>, address: IpAddr) -> Self {
        *counts.borrow_mut().entry(address).or_insert(0) += 1;
        Self { counts: counts.clone(), address }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut counts = self.counts.borrow_mut();
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// What carries a connection's bytes.
enum Means {
    /// A tunnel.
    Tunnel(Box<Carried>),
    /// The agent, from one socket to another.
    Join(Pin<Box<dyn Future<Output = Ended>>>),
}

/// A connection on its way, with what is held until its end.
struct Going {
    by: Means,
    connection: Connection,
    held: Option<Held>,
    _counted: ConnectionOf,
    _loaded: Option<Load>,
}

impl Outbound {
    /// Carries one accepted connection of `pod` until its end.
    ///
    /// To find out where it goes takes several times the memory that waiting for its end does, so it has a box of its
    /// own, and the task of a connection that is open is small.
    pub fn serve(
        self: Rc<Self>,
        pod: Arc<Pod>,
        socket: PodSocket,
        from: SocketAddr,
    ) -> impl Future<Output = ()> {
        let beginning = Box::pin(self.clone().begin(pod, socket, from));
        async move {
            let Some(Going { by, connection, held, _counted, _loaded }) = beginning.await else { return };
            let ended = match by {
                Means::Tunnel(carried) => self.dialer.carry(carried, |news| tell(&connection, news)).await,
                Means::Join(join) => join.await,
            };
            finish(connection, &ended, held);
        }
    }

    /// Sends a connection on its way, if it is allowed one.
    async fn begin(self: Rc<Self>, pod: Arc<Pod>, socket: PodSocket, from: SocketAddr) -> Option<Going> {
        let began = std::time::Instant::now();
        let flow = match self.accepted.flow(socket.as_ref()) {
            Ok(Some(flow)) if flow.pod_id == pod.id => flow,
            other => {
                let detail = match other {
                    Ok(Some(_)) => "the flow is another pod's".to_owned(),
                    Ok(None) => "no connect hook announced it".to_owned(),
                    Err(error) => error.to_string(),
                };
                if let Some(left_out) = self.observer.line() {
                    tracing::warn!(pod = pod.name, %from, detail, reason = %Reason::NoOriginalDestination, left_out, "connection to a listener reset");
                }
                self.observer.refused_early(Direction::Outbound, Reason::NoOriginalDestination);
                // Dropped, the socket is reset.
                return None;
            }
        };
        let destination = socket_address(flow.address, flow.port);
        let dice = u64::from(flow.source_port) << 32 ^ flow.cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let counted = pod.connection();
        let Some((snapshot, source, decision)) = self.decided(&pod, destination, dice).await else {
            // Released a moment ago: the connect was taken before.
            self.observer.refused_early(Direction::Outbound, Reason::SourceUnknown);
            return None;
        };
        if let (Some(service), Some(endpoint)) = (&decision.service, decision.endpoint)
            && service.traffic.affinity.is_some()
        {
            self.clients.note(&pod.uid, service, endpoint.ip());
        }
        let loaded = decision.endpoint.map(|e| Load::add(&self.load, e.ip()));
        // The port is the pod's own choice or the kernel's; the address is the pod's, not loopback.
        let source_address = SocketAddr::new(own_address(&source, destination.ip()), from.port());
        let opening = opening(&snapshot, &source, source_address, destination, &decision);
        let connection = self.observer.open_since(began, opening);
        if !matches!(decision.route, Route::Deny { .. }) {
            connection.reached(Stage::Known);
        }
        let passage = Passage::of(&snapshot, &source, source_address.ip(), &decision.route);
        if let Some(passage) = &passage {
            let verdict = passage.judge(&snapshot);
            connection.would_deny(&verdict.dry_run);
            if let Some(denied) = verdict.denied {
                drop(socket);
                let refusal = Refusal::by_policy(denied.why, denied.by);
                finish(connection, &Ended::refused(refusal), None);
                return None;
            }
            connection.reached(Stage::Allowed);
        }
        let local = socket.as_ref().local_addr().ok();
        let held = passage.zip(local).map(|(p, local)| self.standing.hold(p, pod.clone(), local, from));
        match self.take(&pod, &source, socket, source_address, destination, decision, &connection).await {
            Ok(by) => Some(Going { by, connection, held, _counted: counted, _loaded: loaded }),
            Err(refusal) => {
                finish(connection, &Ended::refused(refusal), held);
                None
            }
        }
    }

    /// The way of a connection, and what it was decided from; nothing if its pod is not known any more. What
    /// discovery lacks gets a moment to turn up, and a pod of this node that is being captured to be so.
    async fn decided(
        &self,
        pod: &Pod,
        destination: SocketAddr,
        dice: u64,
    ) -> Option<(Arc<Snapshot>, Arc<Workload>, Decision)> {
        let load = |address: IpAddr| self.load.borrow().get(&address).copied().unwrap_or(0);
        let decide = |snapshot: Arc<Snapshot>| {
            let source = snapshot.workload(&pod.uid).cloned()?;
            let before = |service: &Service, away| self.clients.before(&pod.uid, service, away);
            let decision = decide(&snapshot, &self.node, destination, before, load, dice);
            let decision = decision.kept_by(&snapshot, &source);
            Some((snapshot, source, decision))
        };
        let mut decided = decide(self.snapshot.borrow().clone())?;
        if self.is_early(&decided.2) {
            let mut snapshots = self.snapshot.clone();
            let deadline = Instant::now() + DISCOVERY_WAIT;
            loop {
                decided = decide(snapshots.borrow_and_update().clone())?;
                if !self.is_early(&decided.2) || Instant::now() >= deadline {
                    break;
                }
                // Capture is told by nobody.
                let is_local = matches!(decided.2.route, Route::Local { .. });
                let step = if is_local { deadline.min(Instant::now() + LOOK) } else { deadline };
                if let Ok(Err(_)) = tokio::time::timeout_at(step, snapshots.changed()).await {
                    break;
                }
            }
        }
        Some(decided)
    }

    /// Whether a moment later it may be decided otherwise, or be possible.
    fn is_early(&self, decision: &Decision) -> bool {
        match &decision.route {
            Route::Deny { reason } => *reason == Reason::DestinationUnknown,
            Route::Local { destination, .. } => self.pods.by_uid(&destination.uid).is_none(),
            Route::Tunnel { .. } | Route::Passthrough { .. } => false,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one connection, each used once")]
    async fn take(
        &self,
        pod: &Arc<Pod>,
        source: &Arc<Workload>,
        socket: PodSocket,
        source_address: SocketAddr,
        asked: SocketAddr,
        decision: Decision,
        connection: &Connection,
    ) -> Result<Means, Refusal> {
        let service = decision.service.as_ref().map(|s| s.full_name());
        match decision.route {
            Route::Tunnel { destination, address, node } => {
                let key = PoolKey {
                    source: source.identity.clone(),
                    destination: destination.identity.clone(),
                    node,
                };
                let request = ConnectRequest {
                    authority: address,
                    source: source_address,
                    host: service.map(|s| s.replace('/', ".")),
                };
                // Before a byte of the answer is looked at: what is told of it says what secures it.
                let securer = connection.securer();
                let traffic = traffic(connection).opens(move || securer(Secured::Mtls));
                Ok(Means::Tunnel(Box::new(Carried::new(key, request, socket, traffic))))
            }
            Route::Local { destination, address } => {
                let result = match self.pods.by_uid(&destination.uid) {
                    Some(target) => {
                        // A pod that calls itself is told its own address, like any other caller.
                        let dialled = self.dial.deliver(&target, address, source_address).await;
                        dialled.map(|stream| (PodSocket::prepared(stream), Some(target.connection())))
                    }
                    None => Err(DialError::HooksNotLive { pod: destination.full_name() }),
                };
                joined(connection, socket, result, Secured::SameNode, self.held.of_pod(pod.id))
            }
            Route::Passthrough { address, reason } => {
                connection.note(reason.label());
                let result = self.dial.pass_through(pod, address).await;
                let result = result.map(|stream| (PodSocket::outside(stream), None));
                joined(connection, socket, result, Secured::Plaintext, self.held.of_pod(pod.id))
            }
            Route::Deny { reason } => {
                drop(socket);
                Err(Refusal::new(reason, format!("{asked}: {}", reason.advice())))
            }
        }
    }
}

/// How far a connection in a tunnel is.
fn tell(connection: &Connection, news: Carrying) {
    match news {
        Carrying::Tunnel { was_there } => connection.has_tunnel(was_there),
        Carrying::Opened(would_deny) => {
            // The destination's policies are asked there; it says so here too.
            let told = would_deny.map(|policy| {
                format!("{}: {}, as the other agent says", policy.stage.label(), policy.because())
            });
            connection.would_deny(told.as_slice());
        }
    }
}

/// A connection from one socket to another, once that is there.
fn joined(
    connection: &Connection,
    socket: PodSocket,
    dialled: Result<(PodSocket, Option<ConnectionOf>), DialError>,
    secured: Secured,
    share: PodShare,
) -> Result<Means, Refusal> {
    match dialled {
        Ok((stream, counted)) => {
            (connection.securer())(secured);
            let traffic = traffic(connection);
            Ok(Means::Join(Box::pin(async move {
                let _counted = counted;
                join(socket, stream, traffic, share).await
            })))
        }
        Err(error) => {
            drop(socket);
            Err(Refusal::new(error.reason(), error.to_string()))
        }
    }
}

/// The source's address of the destination's family.
fn own_address(source: &Workload, destination: IpAddr) -> IpAddr {
    let of_family =
        source.addresses.iter().map(|a| a.to_canonical()).find(|a| a.is_ipv4() == destination.is_ipv4());
    of_family.unwrap_or(if destination.is_ipv4() {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    })
}

fn opening(
    snapshot: &Snapshot,
    source: &Workload,
    source_address: SocketAddr,
    asked: SocketAddr,
    decision: &Decision,
) -> Opening {
    let (direction, destination, peer) = match &decision.route {
        Route::Tunnel { destination, node, .. } => (Direction::Outbound, Party::of(destination), Some(*node)),
        Route::Local { destination, .. } => (Direction::Local, Party::of(destination), None),
        Route::Passthrough { address, .. } => (Direction::Outbound, Party::at(address.ip(), snapshot), None),
        Route::Deny { .. } => (Direction::Outbound, Party::at(asked.ip(), snapshot), None),
    };
    Opening {
        direction,
        source: Party::of(source),
        destination,
        service: decision.service.as_ref().map(|s| s.full_name()),
        source_address,
        destination_address: decision.endpoint.unwrap_or(asked),
        peer,
    }
}

/// Where a connection's bytes are counted, and who hears of its requests.
pub(super) fn traffic(connection: &Connection) -> Traffic {
    let counters = connection.counters();
    let traffic = match connection.requests() {
        Some(requests) => Traffic::recognised(counters, requests),
        None => counters.into(),
    };
    let (stages, began) = connection.stages();
    traffic.timed(stages, began)
}

/// Tells the observer how it ended; `held` knows whether policies did it.
pub(super) fn finish(connection: Connection, ended: &Ended, held: Option<Held>) {
    if let Some(why) = held.and_then(|held| held.denied()) {
        return connection.ended(Ending::Denied, Some((Reason::PolicyDenied, &why)));
    }
    let by_policy = ended.refusal.as_ref().is_some_and(|refusal| refusal.reason == Reason::PolicyDenied);
    let how = match (ended.established, ended.how) {
        (false, End::Lost) => Ending::Refused,
        (true, End::Lost) if by_policy => Ending::Denied,
        (_, how) => how.ending(),
    };
    // A connection that was open and then lost was not denied, unless a policy did it.
    let refusal = ended.refusal.as_ref().filter(|_| !ended.established || by_policy);
    if let (true, Some(refusal)) = (ended.established && !by_policy, &ended.refusal) {
        tracing::warn!(reason = %refusal.reason, detail = refusal.detail, "connection lost");
    }
    connection.ended(how, refusal.map(|r| (r.reason, r.detail.as_str())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes<F, B>(
        _serve: impl Fn(Rc<Outbound>, Arc<Pod>, PodSocket, SocketAddr) -> F,
        _begin: impl Fn(Rc<Outbound>, Arc<Pod>, PodSocket, SocketAddr) -> B,
    ) -> (usize, usize) {
        (size_of::<F>(), size_of::<B>())
    }

    #[test]
    fn an_open_connection_holds_what_it_waits_with_and_not_what_it_began_with() {
        let (task, beginning) = sizes(Outbound::serve, Outbound::begin);
        assert!(task <= 288 && task * 3 < beginning, "{task} and {beginning} bytes");
    }
}
