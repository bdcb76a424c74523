//! Inbound: what a stream of a tunnel becomes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use lark_core::constants::DISCOVERY_WAIT;
use lark_core::deliver::{Admission, Claim, Refused, admit};
use lark_core::identity::SpiffeId;
use lark_core::observe::{Secured, Stage};
use lark_core::policy::{At, Passage, Verdict};
use lark_core::reason::Reason;
use lark_core::snapshot::{Snapshot, Workload};
use lark_core::view::Party;
use lark_tunnel::{Deliver, Delivery, Ended, LocalIdentities, PodSocket, Refusal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::LOOK;
use super::outbound::{finish, traffic};
use super::standing::Standing;
use crate::capture::{Pod, Pods};
use crate::deliver::{Dial, DialError};
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
        !self.snapshot.borrow().nodes_by_address(address).is_empty()
    }
}

/// A worker's inbound side.
pub struct Inbound(Rc<Inner>);

struct Inner {
    node: Arc<str>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    pods: Arc<Pods>,
    dial: Rc<Dial>,
    standing: Standing,
    observer: Observer,
}

impl Inbound {
    /// With everything that it asks.
    pub fn new(
        node: Arc<str>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        pods: Arc<Pods>,
        dial: Rc<Dial>,
        standing: Standing,
        observer: Observer,
    ) -> Self {
        Self(Rc::new(Inner { node, snapshot, pods, dial, standing, observer }))
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
        let began = std::time::Instant::now();
        let request = &inbound.request;
        let (destination, source) = match self.admitted(&inbound).await {
            Ok(both) => both,
            Err(refused) => {
                let unknown = Party {
                    namespace: inbound.client.namespace().into(),
                    name: request.source.ip().to_string().into(),
                    owner: inbound.client.account().into(),
                    identity: inbound.client.text(),
                };
                let connection = self.observer.open_since(
                    began,
                    Opening {
                        direction: Direction::Inbound,
                        source: unknown,
                        destination: Party::outside(request.authority.ip()),
                        service: request.host.clone(),
                        source_address: request.source,
                        destination_address: request.authority,
                        peer: Some(inbound.peer),
                    },
                );
                let refusal = Refusal::new(refused.reason, refused.detail);
                finish(connection, &Ended::refused(refusal.clone()), None);
                return Err(refusal);
            }
        };
        let connection = self.observer.open_since(
            began,
            Opening {
                direction: Direction::Inbound,
                source: Party::of(&source),
                destination: Party::of(&destination),
                service: request.host.clone(),
                source_address: request.source,
                destination_address: request.authority,
                peer: Some(inbound.peer),
            },
        );
        connection.reached(Stage::Known);
        let passage = Passage::new(
            &source,
            request.source.ip(),
            Some(&destination),
            request.authority,
            At::Destination,
        );
        let verdict = self.judge(&passage);
        connection.would_deny(&verdict.dry_run);
        let dialled = match verdict.denied {
            Some(denied) => Err(Refusal::by_policy(denied.why, denied.by)),
            None => {
                connection.reached(Stage::Allowed);
                self.dial(&destination, request.authority, request.source).await
            }
        };
        // Policies may have changed while the application was dialled.
        let dialled = dialled.and_then(|dialled| match self.judge(&passage).denied {
            // Dropped, the application's socket is reset.
            Some(denied) => Err(Refusal::by_policy(denied.why, denied.by)),
            None => Ok(dialled),
        });
        match dialled {
            Ok((pod, stream)) => {
                (connection.securer())(Secured::Mtls);
                let traffic = traffic(&connection);
                let counted = pod.connection();
                let local = stream.as_ref().local_addr().ok();
                let held = local.map(|local| self.standing.hold(passage, pod, local, request.authority));
                let on_end = Box::new(move |ended: Ended| {
                    finish(connection, &ended, held);
                    drop(counted);
                });
                Ok(Delivery { pod: stream, traffic, would_deny: verdict.would_deny, on_end })
            }
            Err(refusal) => {
                finish(connection, &Ended::refused(refusal.clone()), None);
                Err(refusal)
            }
        }
    }

    fn judge(&self, passage: &Passage) -> Verdict {
        passage.judge(&self.snapshot.borrow())
    }

    /// A connection to the destination's application.
    async fn dial(
        &self,
        destination: &Workload,
        authority: SocketAddr,
        source: SocketAddr,
    ) -> Result<(Arc<Pod>, PodSocket), Refusal> {
        let refused = |error: DialError| Refusal::new(error.reason(), error.to_string());
        let gone = || refused(DialError::HooksNotLive { pod: destination.full_name() });
        let pod = self.pods.by_uid(&destination.uid).ok_or_else(gone)?;
        let stream = self.dial.deliver(&pod, authority, source).await.map_err(refused)?;
        Ok((pod, PodSocket::prepared(stream)))
    }

    /// Both workloads, once discovery agrees with what is claimed; it gets a moment to catch up.
    async fn admitted(
        &self,
        inbound: &lark_tunnel::Inbound,
    ) -> Result<(Arc<Workload>, Arc<Workload>), Refused> {
        // Only whoever waits follows discovery: to say so is a line that all workers share.
        let mut followed = None::<watch::Receiver<Arc<Snapshot>>>;
        let deadline = Instant::now() + DISCOVERY_WAIT;
        let claim = Claim {
            client: &inbound.client,
            server: &inbound.server,
            peer: inbound.peer.ip(),
            authority: inbound.request.authority,
            source: inbound.request.source,
        };
        loop {
            let admission = match &mut followed {
                None => admit(&self.snapshot.borrow(), &self.node, &claim),
                Some(followed) => admit(&followed.borrow_and_update(), &self.node, &claim),
            };
            let waiting = match admission {
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
            let step = deadline.min(Instant::now() + LOOK);
            // What changed since this end looked is news to it at once: nothing was marked as seen.
            let followed = followed.get_or_insert_with(|| self.snapshot.clone());
            match tokio::time::timeout_at(step, followed.changed()).await {
                Ok(Err(_)) => return Err(waiting),
                _ if Instant::now() >= deadline => return Err(waiting),
                _ => {}
            }
        }
    }
}
