//! The dialling end, with the worker's pool of tunnels.
//!
//! Invariants:
//! - Streams share a tunnel only if source identity, destination identity and node agree.
//! - One handshake at a time for each such key; others wait for it and share its outcome.
//! - A tunnel that must take no more streams is dropped from the pool and ends when its last stream does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lark_core::framing::ConnectRequest;
use lark_core::observe::ByteCounters;
use lark_core::pool::{Choice, Facts, PoolKey, choose, pause};
use lark_core::reason::Reason;
use lark_identity::SvidStore;
use lark_identity::svid::TrustBundle;
use lark_identity::verify::{VerifyError, validity};
use lark_sys::socket::{reset_on_close, set_congestion, set_nodelay};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::ended::{Ended, Refusal};
use crate::engine::{Engine, Open, Outcome, Shared, TunnelError};
use crate::handshake;
use crate::record::{RecordError, Records};
use crate::settings::{Observer, Side, TunnelSettings};
use crate::tls;

/// Other tunnels tried before a stream gives up.
const ATTEMPTS: usize = 4;
/// Tunnels to one node for one pair of identities.
const TUNNELS_A_KEY: usize = 8;

struct Tunnel {
    commands: mpsc::UnboundedSender<Open>,
    shared: Rc<Shared>,
    opened: Instant,
    expires: SystemTime,
    bundle: Arc<TrustBundle>,
}

#[derive(Default)]
struct Slot {
    tunnels: Vec<Rc<Tunnel>>,
    /// The outcome of the handshake under way, for all who wait for it.
    opening: Option<watch::Receiver<Option<Result<(), Refusal>>>>,
    failures: u32,
    failed: Option<(Instant, Refusal)>,
}

struct Inner {
    svids: SvidStore,
    settings: TunnelSettings,
    observer: Rc<dyn Observer>,
    provider: Arc<CryptoProvider>,
    slots: RefCell<HashMap<PoolKey, Slot>>,
}

/// A worker's dialling end. Must be used within a `LocalSet`.
#[derive(Clone)]
pub struct Dialer(Rc<Inner>);

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("keys", &self.0.slots.borrow().len()).finish_non_exhaustive()
    }
}

impl Dialer {
    /// A dialling end without tunnels.
    pub fn new(svids: SvidStore, settings: TunnelSettings, observer: Rc<dyn Observer>) -> Self {
        Self(Rc::new(Inner {
            svids,
            settings,
            observer,
            provider: tls::provider(),
            slots: RefCell::default(),
        }))
    }

    /// Carries a pod's connection to its destination and returns at its end. `opened` is called once,
    /// when the other end has answered; by then both identities are proved.
    ///
    /// Whatever does not end in order has reset the pod's socket. Dropping the future does not stop
    /// the connection.
    pub async fn carry(
        &self,
        key: PoolKey,
        request: ConnectRequest,
        pod: TcpStream,
        counters: Arc<ByteCounters>,
        opened: impl FnOnce() + 'static,
    ) -> Ended {
        let mut parts = (request, pod, counters, Box::new(opened) as Box<dyn FnOnce()>);
        for _ in 0..ATTEMPTS {
            let tunnel = match self.tunnel(&key).await {
                Ok(tunnel) => tunnel,
                Err(refusal) => {
                    reset_on_close(&parts.1);
                    return Ended::refused(refusal);
                }
            };
            let (outcome, ended) = oneshot::channel();
            let (request, pod, counters, on_open) = parts;
            let open = Open { request, pod, counters, on_open, outcome };
            tunnel.shared.streams.set(tunnel.shared.streams.get() + 1);
            let sent = tunnel.commands.send(open);
            // The pool's own reference is what keeps the tunnel open.
            drop(tunnel);
            match sent {
                Err(mpsc::error::SendError(open)) => {
                    parts = (open.request, open.pod, open.counters, open.on_open);
                    self.retire_closed(&key);
                }
                Ok(()) => match ended.await {
                    Ok(Outcome::Ended(ended)) => return ended,
                    Ok(Outcome::NotOpened(back)) => parts = *back,
                    Err(_) => {
                        return Ended::refused(Refusal::new(Reason::TunnelLost, "the tunnel's task ended"));
                    }
                },
            }
        }
        reset_on_close(&parts.1);
        Ended::refused(Refusal::new(
            Reason::TunnelLost,
            format!("{ATTEMPTS} tunnels to {} took no more streams", key.node),
        ))
    }

    fn retire_closed(&self, key: &PoolKey) {
        if let Some(slot) = self.0.slots.borrow_mut().get_mut(key) {
            slot.tunnels.retain(|t| !t.commands.is_closed());
        }
    }

    /// A tunnel that takes a stream: one that is there, or a new one.
    async fn tunnel(&self, key: &PoolKey) -> Result<Rc<Tunnel>, Refusal> {
        loop {
            let mut waiting = {
                let mut slots = self.0.slots.borrow_mut();
                let slot = slots.entry(key.clone()).or_default();
                if let Some(tunnel) = self.usable(slot) {
                    return Ok(tunnel);
                }
                if slot.tunnels.len() >= TUNNELS_A_KEY {
                    return Err(Refusal::new(
                        Reason::LimitReached,
                        format!("{TUNNELS_A_KEY} tunnels to {} are full", key.node),
                    ));
                }
                if let Some((when, refusal)) = &slot.failed
                    && when.elapsed() < pause(slot.failures)
                {
                    return Err(refusal.clone());
                }
                match &slot.opening {
                    Some(opening) => opening.clone(),
                    None => {
                        let (done, opening) = watch::channel(None);
                        slot.opening = Some(opening.clone());
                        // A task of its own: whoever asked first may go, others still wait.
                        tokio::task::spawn_local(self.clone().open(key.clone(), done));
                        opening
                    }
                }
            };
            let outcome = waiting.wait_for(Option::is_some).await.ok().and_then(|o| o.clone());
            match outcome {
                Some(Ok(())) => {}
                Some(Err(refusal)) => return Err(refusal),
                None => return Err(Refusal::new(Reason::TunnelLost, "the handshake's task ended")),
            }
        }
    }

    fn usable(&self, slot: &mut Slot) -> Option<Rc<Tunnel>> {
        let now = self.0.svids.now();
        let bundle = self.0.svids.bundle();
        let max_age = self.0.settings.max_age;
        slot.tunnels.retain(|tunnel| choose(&facts(tunnel, now, &bundle), max_age) != Choice::Retire);
        slot.tunnels
            .iter()
            .find(|tunnel| choose(&facts(tunnel, now, &bundle), max_age) == Choice::Use)
            .cloned()
    }

    async fn open(self, key: PoolKey, done: watch::Sender<Option<Result<(), Refusal>>>) {
        let began = Instant::now();
        let limit = self.0.settings.handshake_timeout;
        let result = tokio::time::timeout(limit, self.handshake(&key)).await.unwrap_or_else(|_| {
            Err(Refusal::new(
                Reason::TunnelUnreachable,
                format!("the agent at {} did not complete a handshake within {limit:?}", key.node),
            ))
        });
        let outcome = result.as_ref().map(|_| ()).map_err(|r| r.reason);
        self.0.observer.handshake(Side::Client, outcome, began.elapsed());
        let mut slots = self.0.slots.borrow_mut();
        let slot = slots.entry(key.clone()).or_default();
        slot.opening = None;
        let told = match result {
            Ok(tunnel) => {
                slot.failures = 0;
                slot.failed = None;
                slot.tunnels.push(Rc::new(tunnel));
                Ok(())
            }
            Err(refusal) => {
                tracing::warn!(node = %key.node, source = %key.source, destination = %key.destination,
                    reason = %refusal.reason, detail = refusal.detail, "no tunnel");
                slot.failures = slot.failures.saturating_add(1);
                slot.failed = Some((Instant::now(), refusal.clone()));
                Err(refusal)
            }
        };
        drop(slots);
        let _ = done.send(Some(told));
    }

    async fn handshake(&self, key: &PoolKey) -> Result<Tunnel, Refusal> {
        let inner = &self.0;
        let own = inner.svids.valid(&key.source).ok_or_else(|| {
            Refusal::new(
                Reason::SourceSvidMissing,
                format!("{} has no valid certificate on this node; see `lark certs`", key.source),
            )
        })?;
        let bundle = inner.svids.bundle();
        let unreachable = |e: std::io::Error| {
            Refusal::new(
                Reason::TunnelUnreachable,
                format!("the agent at {} cannot be reached: {e}", key.node),
            )
        };
        let socket = TcpStream::connect(key.node).await.map_err(unreachable)?;
        set_nodelay(&socket);
        if let Some(congestion) = &inner.settings.congestion {
            set_congestion(&socket, congestion);
        }
        let failed = |e: RecordError| explain(key, &e);
        let config = tls::client(&inner.provider, &own, bundle.clone(), &key.destination)
            .map_err(|e| failed(e.into()))?;
        let name = ServerName::try_from(crate::name::server_name(&key.destination))
            .map_err(|_| Refusal::new(Reason::TunnelHandshake, "the identity makes no server name"))?;
        let mut tls =
            Connection::from(ClientConnection::new(Arc::new(config), name).map_err(|e| failed(e.into()))?);
        handshake::complete(&socket, &mut tls).await.map_err(failed)?;
        let peer_expires = tls
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|leaf| validity(leaf).ok())
            .map_or(own.not_after, |(_, not_after, _)| not_after);
        let shared = Rc::<Shared>::default();
        shared.streams_max.set(usize::MAX);
        let (commands, receiver) = mpsc::unbounded_channel();
        let (settled, open) = oneshot::channel();
        let records = Records::new(socket, tls);
        let engine = Engine::client(records, receiver, shared.clone(), settled, inner.settings.clone());
        let (observer, node) = (inner.observer.clone(), key.node);
        let (failure, failed) = oneshot::channel();
        tokio::task::spawn_local(async move {
            observer.tunnel(Side::Client, true);
            let result = engine.run().await;
            observer.tunnel(Side::Client, false);
            if let Err(error) = result {
                tracing::debug!(%node, %error, "tunnel lost");
                let _ = failure.send(error);
            }
        });
        // Only the peer's SETTINGS show that it accepted our certificate: in TLS 1.3 the client's
        // handshake is over before the server has looked at it.
        if open.await.is_err() {
            return Err(match failed.await {
                Ok(TunnelError::Record(error)) => explain(key, &error),
                Ok(error) => Refusal::new(error.reason(), format!("the agent at {}: {error}", key.node)),
                Err(_) => {
                    Refusal::new(Reason::TunnelLost, format!("the agent at {} closed the tunnel", key.node))
                }
            });
        }
        Ok(Tunnel {
            commands,
            shared,
            opened: Instant::now(),
            expires: own.not_after.min(peer_expires),
            bundle,
        })
    }

    /// Open tunnels of this worker.
    pub fn tunnels(&self) -> usize {
        self.0.slots.borrow().values().map(|slot| slot.tunnels.len()).sum()
    }
}

fn facts(tunnel: &Tunnel, now: SystemTime, bundle: &Arc<TrustBundle>) -> Facts {
    // The same roots or more: a bundle that lost a root closes all tunnels from before.
    let root_accepted = Arc::ptr_eq(&tunnel.bundle, bundle)
        || tunnel.bundle.certificates().iter().all(|root| bundle.certificates().contains(root));
    Facts {
        age: tunnel.opened.elapsed(),
        expires_in: tunnel.expires.duration_since(now).unwrap_or(Duration::ZERO),
        root_accepted,
        streams: tunnel.shared.streams.get(),
        streams_max: tunnel.shared.streams_max.get(),
        going_away: tunnel.shared.going_away.get() || tunnel.commands.is_closed(),
    }
}

/// A failed handshake as a person needs it.
fn explain(key: &PoolKey, error: &RecordError) -> Refusal {
    let at = key.node;
    match error {
        RecordError::Tls(error) => match tls::verify_error(error) {
            Some(mismatch @ VerifyError::Mismatch { .. }) => {
                Refusal::new(Reason::PeerIdentityMismatch, format!("at {at}: {mismatch}"))
            }
            Some(other) => Refusal::new(Reason::TunnelHandshake, format!("the agent at {at}: {other}")),
            None => Refusal::new(
                Reason::TunnelHandshake,
                format!("the agent at {at} as {}: {error}; its log says more", key.destination),
            ),
        },
        other => Refusal::new(
            Reason::TunnelHandshake,
            format!("the agent at {at} as {}: {other}", key.destination),
        ),
    }
}
