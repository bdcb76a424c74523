//! Inbound: what a stream of a tunnel becomes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use lark_core::constants::DISCOVERY_WAIT;
use lark_core::deliver::{Admission, Claim, Refused, admit};
use lark_core::identity::SpiffeId;
use lark_core::observe::Secured;
use lark_core::reason::Reason;
use lark_core::snapshot::{Snapshot, Workload};
use lark_core::view::Party;
use lark_tunnel::{Deliver, Delivery, Ended, LocalIdentities, Refusal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::outbound::finish;
use crate::capture::Pods;
use crate::deliver::Dial;
use crate::observe::{Direction, Observer, Opening};

/// The server names that this node answers to: its captured workloads' identities.
#[derive(Debug, Clone, Default)]
pub struct Identities(Arc<ArcSwap<HashMap<String, SpiffeId>>>);

impl Identities {
    /// Replaces them all.
    pub fn set<'a>(&self, identities: impl IntoIterator<Item = &'a SpiffeId>) {
        let names =
            identities.into_iter().map(|id| (lark_tunnel::name::server_name(id), id.clone())).collect();
        self.0.store(Arc::new(names));
    }
}

/// What an accepting end asks about whoever dials.
#[derive(Debug, Clone)]
pub struct Known {
    identities: Identities,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Known {
    /// With this node's identities, and the nodes that discovery knows.
    pub fn new(identities: Identities, snapshot: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self { identities, snapshot }
    }
}

impl LocalIdentities for Known {
    fn identity(&self, server_name: &str) -> Option<SpiffeId> {
        self.identities.0.load().get(server_name).cloned()
    }

    fn is_node(&self, address: IpAddr) -> bool {
        let snapshot = self.snapshot.borrow();
        snapshot.nodes().any(|node| node.addresses.iter().any(|own| own.to_canonical() == address))
    }
}

/// A worker's inbound side.
pub struct Inbound(Rc<Inner>);

struct Inner {
    node: Arc<str>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    pods: Arc<Pods>,
    dial: Rc<Dial>,
    observer: Observer,
}

impl Inbound {
    /// With everything that it asks.
    pub fn new(
        node: Arc<str>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        pods: Arc<Pods>,
        dial: Rc<Dial>,
        observer: Observer,
    ) -> Self {
        Self(Rc::new(Inner { node, snapshot, pods, dial, observer }))
    }
}

impl Deliver for Inbound {
    fn deliver(
        &self,
        inbound: lark_tunnel::Inbound,
    ) -> Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>> {
        let inner = self.0.clone();
        Box::pin(async move { inner.deliver(inbound).await })
    }
}

impl Inner {
    async fn deliver(&self, inbound: lark_tunnel::Inbound) -> Result<Delivery, Refusal> {
        let request = &inbound.request;
        let (destination, source) = match self.admitted(&inbound).await {
            Ok(both) => both,
            Err(refused) => {
                let unknown = Party {
                    namespace: inbound.client.namespace().to_owned(),
                    name: request.source.ip().to_string(),
                    owner: inbound.client.account().to_owned(),
                    identity: inbound.client.to_string(),
                };
                let connection = self.observer.open(Opening {
                    direction: Direction::Inbound,
                    source: unknown,
                    destination: Party::outside(request.authority.ip()),
                    service: request.host.clone(),
                    source_address: request.source,
                    destination_address: request.authority,
                    peer: Some(inbound.peer),
                });
                let refusal = Refusal::new(refused.reason, refused.detail);
                finish(connection, &Ended::refused(refusal.clone()));
                return Err(refusal);
            }
        };
        let connection = self.observer.open(Opening {
            direction: Direction::Inbound,
            source: Party::of(&source),
            destination: Party::of(&destination),
            service: request.host.clone(),
            source_address: request.source,
            destination_address: request.authority,
            peer: Some(inbound.peer),
        });
        let dialled = match self.pods.by_uid(&destination.uid) {
            Some(pod) => {
                let dialled = self.dial.deliver(&pod, request.authority, request.source).await;
                dialled.map(|stream| (stream, pod.connection()))
            }
            None => Err(crate::deliver::DialError::HooksNotLive { pod: destination.full_name() }),
        };
        match dialled {
            Ok((pod, held)) => {
                (connection.securer())(Secured::Mtls);
                let counters = connection.counters();
                let on_end = Box::new(move |ended: Ended| {
                    finish(connection, &ended);
                    drop(held);
                });
                Ok(Delivery { pod, counters, on_end })
            }
            Err(error) => {
                let refusal = Refusal::new(error.reason(), error.to_string());
                finish(connection, &Ended::refused(refusal.clone()));
                Err(refusal)
            }
        }
    }

    /// Both workloads, once discovery agrees with what is claimed; it gets a moment to catch up.
    async fn admitted(
        &self,
        inbound: &lark_tunnel::Inbound,
    ) -> Result<(Arc<Workload>, Arc<Workload>), Refused> {
        let mut snapshots = self.snapshot.clone();
        let deadline = Instant::now() + DISCOVERY_WAIT;
        let claim = Claim {
            client: &inbound.client,
            server: &inbound.server,
            peer: inbound.peer.ip(),
            authority: inbound.request.authority,
            source: inbound.request.source,
        };
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let waiting = match admit(&snapshot, &self.node, &claim) {
                Admission::Deliver { destination, source } => {
                    if self.pods.by_uid(&destination.uid).is_some() {
                        return Ok((destination, source));
                    }
                    // Wanted, and perhaps being captured at this moment.
                    let detail =
                        format!("{} is not captured yet; `lark check` says why", destination.full_name());
                    Refused { reason: Reason::HooksNotLive, detail }
                }
                Admission::Refuse(refused) => return Err(refused),
                Admission::Wait(refused) => refused,
            };
            let step = deadline.min(Instant::now() + std::time::Duration::from_millis(20));
            match tokio::time::timeout_at(step, snapshots.changed()).await {
                Ok(Err(_)) => return Err(waiting),
                _ if Instant::now() >= deadline => return Err(waiting),
                _ => {}
            }
        }
    }
}
