//! The dialling end, with the worker's pool of tunnels. Which tunnel a stream takes is decided by
//! [`lark_core::pool`]; here it is done.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use lark_core::explain::{Cause, Tunnel as Lack};
use lark_core::policy::Denial;
use lark_core::pool::{Facts, Limits, Pool, PoolKey, Want};
use lark_core::quota::Origin;
use lark_core::reason::Reason;
use lark_identity::SvidStore;
use lark_identity::verify::validity;
use lark_sys::socket::{bound_queues, set_congestion, set_nodelay};
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::cipher;
use crate::ended::{Ended, Refusal};
use crate::engine::{Engine, Open, Shared, Terms, TunnelError};
use crate::fate::{self, News, Outcome};
use crate::handshake::{self, HandshakeError};
use crate::proof::Proof;
use crate::record::Records;
use crate::settings::{Observer, Side, TunnelSettings};
use crate::stream::Carried;
use crate::tls;

/// Tunnels tried before a stream gives up.
const ATTEMPTS: usize = 4;

/// How often it is looked for tunnels to open ahead of need.
const AHEAD_EVERY: Duration = Duration::from_secs(1);
/// Most of them at a time, so that streams that wait for theirs are not held up.
const AHEAD_AT_ONCE: usize = 8;

/// Longer than anybody waits for a turn.
const LONG: Duration = Duration::from_secs(3600);

/// Most nodes that are remembered as silent.
const SILENT_MAX: usize = 16 * 1024;

/// How far a connection is on its way.
#[derive(Debug)]
pub enum Carrying {
    /// There is a tunnel that takes it, which was there before it or not. Said again if that one was lost at that
    /// moment.
    Tunnel {
        /// Whether it was there before.
        was_there: bool,
    },
    /// The other end has answered that it is open; said at most once. By then both identities are proved, the
    /// destination's being the key's. With the policy whose dry run would have denied it, if the other end named
    /// one.
    Opened(Option<Denial>),
}

/// A tunnel as the pool has it. While anybody has it, it stays open for streams.
struct Tunnel {
    commands: mpsc::UnboundedSender<Open>,
    shared: Rc<Shared>,
    proof: Rc<Proof>,
}

/// Why there is no tunnel: for those who waited for it, and in one word.
struct NoTunnel {
    refusal: Refusal,
    cause: Cause,
}

impl NoTunnel {
    fn new(reason: Reason, cause: impl Into<Cause>, detail: String) -> Self {
        Self { refusal: Refusal::new(reason, detail), cause: cause.into() }
    }
}

/// The outcome of a handshake under way, for all who wait for it.
type Opening = watch::Receiver<Option<Result<(), Refusal>>>;

struct Inner {
    svids: SvidStore,
    settings: TunnelSettings,
    observer: Rc<dyn Observer>,
    provider: Arc<CryptoProvider>,
    pool: RefCell<Pool<Rc<Tunnel>, Opening, Refusal>>,
    /// Paces handshakes: after a restart every stream wants one.
    dials: Semaphore,
    /// Nodes that did not answer the last dial, and until when they are being asked again: by one dial at a time, which
    /// takes no turn from those to other nodes. Many that are gone at once would take all of them.
    silent: RefCell<HashMap<SocketAddr, Instant>>,
    retries: Semaphore,
    /// The moment that the pool's times count from.
    began: Instant,
}

/// A worker's dialling end. Must be used where local tasks can be spawned.
#[derive(Clone)]
pub struct Dialer(Rc<Inner>);

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("tunnels", &self.tunnels()).finish_non_exhaustive()
    }
}

/// How far the other end of a dial has shown that it is there.
#[derive(Clone, Copy)]
enum Asked {
    No,
    Silent,
    Answered,
}

fn no_answer(key: &PoolKey, limit: Duration) -> NoTunnel {
    let detail = format!("the agent at {} did not complete a handshake within {limit:?}", key.node);
    NoTunnel::new(Reason::TunnelUnreachable, Lack::HandshakeTimeout, detail)
}

/// A connection to another agent.
async fn connect(node: SocketAddr, window: u32) -> std::io::Result<TcpStream> {
    let socket = if node.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    bound_queues(&socket, window)?;
    socket.connect(node).await
}

impl Dialer {
    /// A dialling end without tunnels.
    pub fn new(svids: SvidStore, settings: TunnelSettings, observer: Rc<dyn Observer>) -> Self {
        let limits = Limits {
            max_age: settings.max_age,
            tunnels: settings.tunnels_a_key,
            warm: settings.idle,
            ahead: settings.ahead,
        };
        let dials = Semaphore::new(settings.dials_max);
        let retries = Semaphore::new((settings.dials_max / 4).max(1));
        Self(Rc::new(Inner {
            svids,
            provider: cipher::provider(&settings.ciphers),
            settings,
            observer,
            pool: RefCell::new(Pool::new(limits)),
            dials,
            silent: RefCell::default(),
            retries,
            began: Instant::now(),
        }))
    }

    /// Tunnels of this worker that may take streams.
    pub fn tunnels(&self) -> usize {
        self.0.pool.borrow().tunnels()
    }

    /// Forgets all tunnels: each ends with its last stream. A stream that comes later opens another.
    pub fn drain(&self) {
        self.0.pool.borrow_mut().clear();
    }

    /// Opens tunnels ahead of need for ever: for pairs that were used lately and whose tunnel ended or is
    /// about to.
    pub async fn keep_warm(&self) {
        loop {
            tokio::time::sleep(AHEAD_EVERY).await;
            let keys = self.0.pool.borrow_mut().ahead(self.0.began.elapsed(), |tunnel| tunnel.facts());
            // An account whose last pod here is gone has no certificate, and needs no tunnel.
            // Nodes that do not answer are asked for streams alone.
            let can_be = keys.into_iter().filter(|key| {
                self.0.svids.valid(&key.source).is_some() && !self.0.silent.borrow().contains_key(&key.node)
            });
            for key in can_be.take(AHEAD_AT_ONCE) {
                tracing::debug!(node = %key.node, source = %key.source, destination = %key.destination,
                    "opening a tunnel ahead of need");
                self.begin(&key);
            }
        }
    }

    /// Carries a pod's connection to its destination and returns at its end. `told` hears how far it is.
    ///
    /// Whatever does not end in order has reset the pod's socket, and says why. Dropping the future
    /// before the connection is on a tunnel resets the pod's socket; later it only stops the reports,
    /// the connection goes on.
    pub async fn carry(&self, mut carried: Box<Carried>, mut told: impl FnMut(Carrying)) -> Ended {
        for _ in 0..ATTEMPTS {
            // Most find a tunnel. What waiting for one takes is in a box, or the task of each would have room for it.
            let (tunnel, was_there) = match self.want(&carried.wanted.key) {
                Want::Use(tunnel) => (tunnel, true),
                want => match Box::pin(self.tunnel(&carried.wanted.key, want)).await {
                    Ok(tunnel) => (tunnel, false),
                    Err(refusal) => return Ended::refused(refusal),
                },
            };
            let node = carried.wanted.key.node;
            let (teller, mut listener) = fate::channel();
            tunnel.shared.streams.set(tunnel.shared.streams.get() + 1);
            if let Err(mpsc::error::SendError(open)) = tunnel.commands.send(Open { carried, teller }) {
                carried = open.carried;
                self.forget(&carried.wanted.key, &tunnel.shared);
                continue;
            }
            told(Carrying::Tunnel { was_there });
            // The pool's own reference is what keeps the tunnel open.
            drop(tunnel);
            let mut established = false;
            carried = loop {
                match listener.next().await {
                    News::Opened(would_deny) => {
                        established = true;
                        told(Carrying::Opened(would_deny.map(|denial| *denial)));
                    }
                    News::Over(Outcome::Ended(ended)) => return ended,
                    News::Over(Outcome::NotTaken(back)) => break back,
                    News::Gone => {
                        let detail =
                            format!("the task of the tunnel to {node} ended by a fault of this agent");
                        return Ended::lost(established, Refusal::new(Reason::TunnelLost, detail));
                    }
                }
            };
        }
        let PoolKey { node, destination, .. } = &carried.wanted.key;
        let detail = format!("{ATTEMPTS} tunnels to {node} as {destination} took no more streams");
        Ended::refused(Refusal::new(Reason::TunnelLost, detail))
    }

    fn forget(&self, key: &PoolKey, shared: &Rc<Shared>) {
        self.0.pool.borrow_mut().closed(key, |tunnel| Rc::ptr_eq(&tunnel.shared, shared));
    }

    /// A tunnel that takes a stream, waited for: there is none at present, and `want` is what the pool says of that.
    async fn tunnel(
        &self,
        key: &PoolKey,
        mut want: Want<Rc<Tunnel>, Opening, Refusal>,
    ) -> Result<Rc<Tunnel>, Refusal> {
        // Others may fill each of a key's tunnels first. More than that are over as soon as they are open.
        let rounds = ATTEMPTS + self.0.settings.tunnels_a_key;
        for round in 0..=rounds {
            let mut opening = match want {
                Want::Use(tunnel) => return Ok(tunnel),
                Want::Failed(refusal) => return Err(refusal),
                Want::Full(count) => {
                    let detail = format!("{count} tunnels to {} as {} are full", key.node, key.destination);
                    return Err(Refusal::new(Reason::LimitReached, detail));
                }
                _ if round == rounds => break,
                Want::Wait(opening) => opening,
                Want::Open => self.begin(key),
            };
            let outcome = opening.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
            match outcome {
                Some(Ok(())) => {}
                Some(Err(refusal)) => return Err(refusal),
                None => return Err(Refusal::new(Reason::TunnelLost, "the handshake's task ended")),
            }
            want = self.want(key);
        }
        let PoolKey { node, destination, .. } = key;
        let detail =
            format!("{rounds} tunnels to {node} as {destination} took no stream when they were open");
        let refusal = Refusal::new(Reason::TunnelLost, detail);
        self.0.pool.borrow_mut().gave_up(key, self.0.began.elapsed(), refusal.clone());
        Err(refusal)
    }

    fn want(&self, key: &PoolKey) -> Want<Rc<Tunnel>, Opening, Refusal> {
        self.0.pool.borrow_mut().want(key, self.0.began.elapsed(), |tunnel| tunnel.facts())
    }

    /// Begins a handshake in a task of its own: whoever asked first may go, others still wait.
    fn begin(&self, key: &PoolKey) -> Opening {
        let (done, opening) = watch::channel(None);
        self.0.pool.borrow_mut().opening(key.clone(), self.0.began.elapsed(), opening.clone());
        tokio::task::spawn_local(self.clone().open(key.clone(), done));
        opening
    }

    async fn open(self, key: PoolKey, done: watch::Sender<Option<Result<(), Refusal>>>) {
        let Some((result, began)) = self.dial(&key).await else {
            // Nothing was tried, so nothing failed: it is neither counted nor remembered.
            self.0.pool.borrow_mut().not_tried(&key);
            let detail =
                format!("the agent at {} did not answer a moment ago; it is asked again soon", key.node);
            let _ = done.send(Some(Err(Refusal::new(Reason::TunnelUnreachable, detail))));
            return;
        };
        let outcome = result.as_ref().map(|_| ()).map_err(|no| no.cause);
        self.0.observer.handshake(Side::Client, outcome, began.elapsed());
        let now = self.0.began.elapsed();
        let mut pool = self.0.pool.borrow_mut();
        let told = match result {
            Ok(tunnel) => {
                let (closed, shared) = (tunnel.commands.is_closed(), tunnel.shared.clone());
                pool.opened(&key, now, Rc::new(tunnel));
                if closed {
                    // It ended before it was known here, so nobody else takes it out.
                    pool.closed(&key, |tunnel| Rc::ptr_eq(&tunnel.shared, &shared));
                }
                Ok(())
            }
            Err(NoTunnel { refusal, cause }) => {
                tracing::warn!(node = %key.node, source = %key.source, destination = %key.destination,
                    reason = %refusal.reason, cause = cause.label(), detail = refusal.detail, "no tunnel");
                match refusal.reason {
                    // The first connection after the certificate came must not hear that it is missing.
                    Reason::SourceSvidMissing => pool.not_tried(&key),
                    _ => pool.failed(&key, now, refusal.clone()),
                }
                Err(refusal)
            }
        };
        drop(pool);
        let _ = done.send(Some(told));
    }

    /// A handshake when it is its turn, and when it began; nothing if the node is silent and is not asked again now.
    async fn dial(&self, key: &PoolKey) -> Option<(Result<Tunnel, NoTunnel>, Instant)> {
        let inner = &self.0;
        let (limit, node) = (inner.settings.handshake_timeout, key.node);
        let is_silent = || inner.silent.borrow().get(&node).copied();
        let mark = |until| {
            inner.silent.borrow_mut().insert(node, until);
        };
        let mut turn = None;
        if is_silent().is_none() {
            turn = inner.dials.acquire().await.ok();
        }
        // Looked at again: it may have become so meanwhile, and others wait behind this one.
        let silent = is_silent();
        if let Some(until) = silent {
            drop(turn);
            if Instant::now() < until {
                return None;
            }
            // It alone waits for this node.
            mark(Instant::now() + LONG);
            turn = inner.retries.acquire().await.ok();
            mark(Instant::now() + limit);
        }
        let _turn = turn;
        let (began, asked) = (Instant::now(), Cell::new(Asked::No));
        let result = tokio::time::timeout(limit, self.handshake(key, &asked, silent.is_some())).await;
        let result = result.unwrap_or_else(|_| Err(no_answer(key, limit)));
        // What it did not answer is known to whoever asked it last, and that it is there to everybody.
        match (asked.get(), silent) {
            (Asked::Answered, _) => {
                inner.silent.borrow_mut().remove(&node);
            }
            (_, Some(_)) => mark(Instant::now()),
            (Asked::Silent, None) if inner.silent.borrow().len() < SILENT_MAX => {
                inner.silent.borrow_mut().entry(node).or_insert(Instant::now());
            }
            _ => {}
        }
        Some((result, began))
    }

    /// `asked` is set as the other end shows that it is there. One that was silent is not waited for as long.
    async fn handshake(
        &self,
        key: &PoolKey,
        asked: &Cell<Asked>,
        was_silent: bool,
    ) -> Result<Tunnel, NoTunnel> {
        let inner = &self.0;
        let own = inner.svids.valid(&key.source).ok_or_else(|| {
            NoTunnel::new(
                Reason::SourceSvidMissing,
                Lack::NoCertificate,
                format!("{} has no valid certificate on this node; see `lark certs`", key.source),
            )
        })?;
        let bundle = inner.svids.bundle();
        asked.set(Asked::Silent);
        let limit = inner.settings.handshake_timeout / if was_silent { 4 } else { 1 };
        let connected = tokio::time::timeout(limit, connect(key.node, inner.settings.window)).await;
        let socket = connected.map_err(|_| no_answer(key, limit))?.map_err(|e| {
            if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) {
                asked.set(Asked::Answered);
            }
            let detail = format!("the agent at {} cannot be reached: {}", key.node, crate::told(&e));
            NoTunnel::new(Reason::TunnelUnreachable, Lack::ConnectionFailed, detail)
        })?;
        set_nodelay(&socket);
        if let Some(congestion) = &inner.settings.congestion {
            set_congestion(&socket, congestion);
        }
        let failed = |error: HandshakeError| explain(key, &error);
        let config = tls::client(&inner.provider, &own, &inner.svids, &key.destination)
            .map_err(|e| failed(e.into()))?;
        let name = ServerName::try_from(crate::name::server_name(&key.destination)).map_err(|e| {
            NoTunnel::new(Reason::TunnelHandshake, Lack::UnknownName, format!("{}: {e}", key.destination))
        })?;
        let tls = UnbufferedClientConnection::new(Arc::new(config), name).map_err(|e| failed(e.into()))?;
        let finished = handshake::complete(&socket, tls, Vec::new()).await;
        asked.set(Asked::Answered);
        let finished = finished.map_err(failed)?;
        let (_, peer_expires, _) =
            validity(&finished.leaf).map_err(|why| failed(HandshakeError::Certificate(why)))?;
        let proof = Rc::new(Proof::new(inner.svids.clone(), own.not_after.min(peer_expires), bundle));
        let records = Records::new(socket, finished, inner.settings.ktls).map_err(|e| failed(e.into()))?;
        let (commands, shared) = self.start(key, records, proof.clone()).await?;
        Ok(Tunnel { commands, shared, proof })
    }

    /// Starts the tunnel's task and waits until the other end has accepted us. Only its SETTINGS show
    /// that: in TLS 1.3 the client's handshake is over before the server has looked at its certificate.
    async fn start(
        &self,
        key: &PoolKey,
        records: Records,
        proof: Rc<Proof>,
    ) -> Result<(mpsc::UnboundedSender<Open>, Rc<Shared>), NoTunnel> {
        let inner = &self.0;
        let shared = Rc::<Shared>::default();
        shared.streams_max.set(usize::MAX);
        let (commands, receiver) = mpsc::unbounded_channel();
        let (settled, open) = oneshot::channel();
        let name = format!("the tunnel to {} as {}", key.node, key.destination);
        let (holding, origin) = (&inner.settings.held, Origin::Node(key.node.ip()));
        let (held, leaving) = (holding.of(origin), holding.leaving(origin));
        let terms = Terms { settings: inner.settings.clone(), proof, held, leaving };
        let proof = terms.proof.clone();
        let engine = Engine::client(name, records, receiver, shared.clone(), settled, terms);
        let (pool, key_of_task, shared_of_task) = (Rc::downgrade(&self.0), key.clone(), shared.clone());
        let (failure, failed) = oneshot::channel();
        tokio::task::spawn_local(async move {
            let result = tokio::task::unconstrained(engine.run()).await;
            let cause = result.as_ref().err().map(TunnelError::cause);
            closed(&pool, &key_of_task, &shared_of_task, cause);
            if let Err(error) = result {
                tracing::debug!(node = %key_of_task.node, destination = %key_of_task.destination, cause = error.cause().label(), %error, "tunnel lost");
                let _ = failure.send(error);
            }
        });
        if open.await.is_ok() {
            inner.observer.opened(Side::Client);
            match shared.over.get() {
                // Its task ended before this one heard that it was open, and so did not tell.
                Some(cause) => inner.observer.closed(Side::Client, cause),
                None => shared.opened.set(true),
            }
            return Ok((commands, shared));
        }
        Err(match failed.await {
            Ok(TunnelError::Record(error)) => explain(key, &error.into()),
            Ok(error) => {
                NoTunnel::new(error.reason(), error.cause(), format!("the agent at {}: {error}", key.node))
            }
            // It ended by itself, at once, since a root or a certificate went away during the handshake. That is no
            // failure: as with any tunnel that is over, whoever waits has another opened, by what counts now.
            Err(_) if !proof.holds() => {
                tracing::debug!(node = %key.node, source = %key.source, destination = %key.destination,
                    "what the handshake proved counts no more; another follows");
                return Ok((commands, shared));
            }
            Err(_) => explain(key, &HandshakeError::Closed),
        })
    }
}

/// A tunnel's task is over.
fn closed(dialer: &Weak<Inner>, key: &PoolKey, shared: &Rc<Shared>, cause: Option<Cause>) {
    let Some(inner) = dialer.upgrade() else { return };
    shared.over.set(Some(cause));
    if shared.opened.get() {
        inner.observer.closed(Side::Client, cause);
    }
    Dialer(inner).forget(key, shared);
}

impl Tunnel {
    fn facts(&self) -> Facts {
        Facts {
            expires_in: self.proof.expires_in(),
            root_accepted: self.proof.root_accepted(),
            streams: self.shared.streams.get(),
            streams_max: self.shared.streams_max.get(),
            going_away: self.shared.going_away.get() || self.commands.is_closed(),
        }
    }
}

/// A failed handshake as a person needs it: which node, which identities, which check.
fn explain(key: &PoolKey, error: &HandshakeError) -> NoTunnel {
    let PoolKey { source, destination, node } = key;
    let cause = error.cause();
    let word = cause.label();
    let detail = format!("handshake of {source} with the agent at {node} for {destination}: {word}: {error}");
    NoTunnel::new(error.reason(), cause, detail)
}
