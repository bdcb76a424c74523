//! The accepting end.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lark_core::explain::{Cause, Tunnel};
use lark_core::framing::ConnectRequest;
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::policy::Denial;
use lark_core::quota::{Full, Origin};
use lark_core::reason::Reason;
use lark_core::spread::Pair;
use lark_identity::SvidStore;
use lark_identity::svid::Svid;
use lark_identity::verify::{spiffe_id, validity};
use lark_sys::socket::{set_congestion, set_nodelay};
use rustls::AlertDescription;
use rustls::crypto::CryptoProvider;
use rustls::server::{Acceptor as HelloReader, ServerConnectionData, UnbufferedServerConnection};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cipher;
use crate::ended::{Ended, Refusal};
use crate::engine::{Accepting, Engine, Terms, TunnelError};
use crate::handshake::{self, Finished, HandshakeError};
pub(crate) use crate::load::Load;
use crate::load::Permit;
use crate::pod::PodSocket;
use crate::proof::Proof;
use crate::record::{RecordError, Records};
use crate::settings::{Observer, Side, TunnelSettings};
use crate::tls;
use crate::traffic::Traffic;

/// Says which identities this node accepts tunnels for, and from where.
pub trait LocalIdentities {
    /// The identity whose [`crate::name::server_name`] this is, if a captured workload of this node has it.
    fn identity(&self, server_name: &str) -> Option<SpiffeId>;
    /// Whether discovery knows a node of that address, which comes in its canonical form. The others may
    /// try, since discovery may lag, but they share little.
    fn is_node(&self, address: IpAddr) -> bool;
}

/// What a stream asks for and what its tunnel proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// Proved by the dialling agent.
    pub client: SpiffeId,
    /// Proved by this agent.
    pub server: SpiffeId,
    /// Where the tunnel comes from.
    pub peer: SocketAddr,
    /// The request.
    pub request: ConnectRequest,
}

/// A connection to the application.
#[must_use]
pub struct Delivery {
    /// Its socket.
    pub pod: PodSocket,
    /// Where its bytes are counted, and what is told of them.
    pub traffic: Traffic,
    /// The policy that would have denied it if it were no dry run; the peer is told.
    pub would_deny: Option<Denial>,
    /// Is called once at its end.
    pub on_end: Box<dyn FnOnce(Ended)>,
}

/// Decides about a stream and dials the application.
pub trait Deliver {
    /// The delivery, or why there is none: the peer is told the reason and the policy, not the detail. The
    /// future runs beside others of the same tunnel, and may be dropped at any time.
    fn deliver(&self, inbound: Inbound) -> Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>>;
}

/// Why an accepted connection became no tunnel, or how the tunnel ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The handshake failed.
    #[error("the handshake with {peer} failed: {why}")]
    Handshake {
        /// The other end.
        peer: SocketAddr,
        /// Which check, what was expected and found.
        #[source]
        why: HandshakeError,
    },
    /// It took too long.
    #[error("the handshake with {peer} took longer than {limit:?}")]
    TimedOut {
        /// The other end.
        peer: SocketAddr,
        /// The limit.
        limit: Duration,
    },
    /// The worker has as many as it takes.
    #[error("{peer} was closed, because of the {what} that are open: {full}")]
    TooMany {
        /// The other end.
        peer: SocketAddr,
        /// `tunnels` or `handshakes`.
        what: &'static str,
        /// Which limit.
        full: Full,
    },
    /// The tunnel was lost.
    #[error("the tunnel from {peer} as {client} was lost: {why}")]
    Lost {
        /// The other end.
        peer: SocketAddr,
        /// Whom it proved.
        client: SpiffeId,
        /// Why.
        #[source]
        why: TunnelError,
    },
}

impl ServeError {
    /// The label in metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Handshake { why, .. } => why.reason(),
            Self::TimedOut { .. } => Reason::TunnelHandshake,
            Self::TooMany { .. } => Reason::LimitReached,
            Self::Lost { why, .. } => why.reason(),
        }
    }
}

impl ServeError {
    /// What it was, in one word that `lark explain` knows.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Handshake { why, .. } => why.cause(),
            Self::TimedOut { .. } => Tunnel::HandshakeTimeout.into(),
            Self::TooMany { .. } => Tunnel::TooMany.into(),
            Self::Lost { why, .. } => why.cause(),
        }
    }
}

struct Inner {
    svids: SvidStore,
    domain: TrustDomain,
    local: Rc<dyn LocalIdentities>,
    settings: TunnelSettings,
    observer: Rc<dyn Observer>,
    provider: Arc<CryptoProvider>,
    load: Rc<Load>,
}

/// A worker's accepting end. Must be used where local tasks can be spawned.
#[derive(Clone)]
pub struct Acceptor(Rc<Inner>);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("load", &self.0.load).finish_non_exhaustive()
    }
}

/// A connection whose handshake is done, on its way to the worker that carries the tunnel.
#[must_use]
pub struct Proved {
    socket: std::net::TcpStream,
    peer: SocketAddr,
    origin: Origin,
    client: SpiffeId,
    server: SpiffeId,
    proof: Proof,
    finished: Finished<ServerConnectionData>,
    took: Duration,
}

impl Proved {
    /// What it has in common with others that carry the same pair's traffic.
    pub fn pair(&self) -> Pair {
        let node = self.peer.ip().to_canonical();
        Pair { node, client: self.client.clone(), server: self.server.clone() }
    }
}

impl std::fmt::Debug for Proved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proved").field("pair", &self.pair()).finish_non_exhaustive()
    }
}

/// What a handshake has proved.
struct Shown {
    client: SpiffeId,
    server: SpiffeId,
    proof: Proof,
    finished: Finished<ServerConnectionData>,
}

impl Acceptor {
    /// An accepting end for the identities that `local` names and `svids` has certificates for. Takes
    /// any identity of `domain`.
    pub fn new(
        svids: SvidStore,
        domain: TrustDomain,
        local: Rc<dyn LocalIdentities>,
        settings: TunnelSettings,
        observer: Rc<dyn Observer>,
    ) -> Self {
        let provider = cipher::provider(&settings.ciphers);
        let load = Rc::new(Load::new(&settings));
        Self(Rc::new(Inner { svids, domain, local, settings, observer, provider, load }))
    }

    /// Takes no more streams on any tunnel: each peer is told by GOAWAY, streams that are open may
    /// finish, and a tunnel without any is closed.
    pub fn drain(&self) {
        self.0.load.drain();
    }

    /// Tunnels that are open or being opened.
    pub fn tunnels(&self) -> usize {
        self.0.load.tunnels()
    }

    /// Serves one accepted connection until its end, all of it on this worker: [`Self::accept`], then
    /// [`Self::carry`].
    ///
    /// # Errors
    /// Theirs.
    pub async fn serve(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        deliver: Rc<dyn Deliver>,
    ) -> Result<(), ServeError> {
        let proved = self.accept(socket, peer).await?;
        self.carry(proved, deliver).await
    }

    /// Makes the handshake of one accepted connection. What comes of it may be carried by any worker.
    ///
    /// # Errors
    /// When it becomes no tunnel.
    pub async fn accept(&self, socket: TcpStream, peer: SocketAddr) -> Result<Proved, ServeError> {
        let inner = &self.0;
        set_nodelay(&socket);
        if let Some(congestion) = &inner.settings.congestion {
            set_congestion(&socket, congestion);
        }
        let address = peer.ip().to_canonical();
        let origin = if inner.local.is_node(address) { Origin::Node(address) } else { Origin::Elsewhere };
        let began = Instant::now();
        let admitted = self.admit(&socket, peer, origin).await;
        let result = admitted.and_then(|Shown { client, server, proof, finished }| {
            let socket = socket.into_std().map_err(|why| ServeError::Handshake { peer, why: why.into() })?;
            let took = began.elapsed();
            Ok(Proved { socket, peer, origin, client, server, proof, finished, took })
        });
        // One that succeeded is told of when it is a tunnel.
        result
            .inspect_err(|error| inner.observer.handshake(Side::Server, Err(error.cause()), began.elapsed()))
    }

    /// Carries a tunnel until its end. Dropping the future closes it and resets its streams' sockets.
    ///
    /// # Errors
    /// When this worker has as many tunnels as it takes, or the tunnel was lost; its streams were told.
    pub async fn carry(&self, proved: Proved, deliver: Rc<dyn Deliver>) -> Result<(), ServeError> {
        let inner = &self.0;
        let Proved { socket, peer, origin, client, server, proof, finished, took } = proved;
        let taken = self.tunnel(peer, origin).and_then(|permit| {
            let records = TcpStream::from_std(socket)
                .map_err(HandshakeError::from)
                .and_then(|socket| Ok(Records::new(socket, finished, inner.settings.ktls)?))
                .map_err(|why| ServeError::Handshake { peer, why })?;
            Ok((permit, records))
        });
        let outcome = taken.as_ref().map(|_| ()).map_err(ServeError::cause);
        inner.observer.handshake(Side::Server, outcome, took);
        let (_permit, records) = taken?;
        let (held, leaving) = inner.load.accounts(origin);
        let terms = Terms { settings: inner.settings.clone(), proof: Rc::new(proof), held, leaving };
        let accepting = Accepting {
            deliver,
            client: client.clone(),
            server,
            peer,
            origin,
            load: inner.load.clone(),
            observer: inner.observer.clone(),
        };
        let engine = Engine::server(records, accepting, terms);
        inner.load.watch(engine.ready());
        inner.observer.opened(Side::Server);
        let mut closed = Closed { observer: &inner.observer, cause: None };
        let result = tokio::task::unconstrained(engine.run()).await;
        closed.cause = result.as_ref().err().map(TunnelError::cause);
        drop(closed);
        match result {
            Ok(()) | Err(TunnelError::Record(RecordError::Closed)) => Ok(()),
            Err(why) => Err(ServeError::Lost { peer, client, why }),
        }
    }

    fn tunnel(&self, peer: SocketAddr, origin: Origin) -> Result<Permit, ServeError> {
        let too_many = |full| ServeError::TooMany { peer, what: "tunnels", full };
        self.0.load.tunnel(origin).map_err(too_many)
    }

    async fn admit(&self, socket: &TcpStream, peer: SocketAddr, origin: Origin) -> Result<Shown, ServeError> {
        let too_many = |full| ServeError::TooMany { peer, what: "handshakes", full };
        let _handshake = self.0.load.handshake(origin).map_err(too_many)?;
        // For as long as the handshake takes; whoever carries the tunnel counts it anew.
        let _tunnel = self.tunnel(peer, origin)?;
        let limit = self.0.settings.handshake_timeout;
        tokio::time::timeout(limit, self.handshake(socket))
            .await
            .map_err(|_| ServeError::TimedOut { peer, limit })?
            .map_err(|why| ServeError::Handshake { peer, why })
    }

    async fn handshake(&self, socket: &TcpStream) -> Result<Shown, HandshakeError> {
        let inner = &self.0;
        let (name, received) = read_hello(socket).await?;
        let own = match self.own(&name).await {
            Ok(own) => own,
            Err(error) => {
                let known = matches!(error, HandshakeError::NoCertificate { .. });
                let alert =
                    if known { AlertDescription::InternalError } else { AlertDescription::UnrecognisedName };
                handshake::alert(socket, alert);
                return Err(error);
            }
        };
        let bundle = inner.svids.bundle();
        let config = tls::server(&inner.provider, &own, &inner.svids, inner.domain.clone())?;
        let tls = UnbufferedServerConnection::new(Arc::new(config))?;
        let finished = handshake::complete(socket, tls, received).await?;
        let client = spiffe_id(&finished.leaf).map_err(HandshakeError::Certificate)?;
        let (_, not_after, _) = validity(&finished.leaf).map_err(HandshakeError::Certificate)?;
        let proof = Proof::new(inner.svids.clone(), not_after.min(own.not_after), bundle);
        Ok(Shown { client, server: own.id.clone(), proof, finished })
    }

    /// The certificate that a server name stands for. A workload may be on its way here: discovery and
    /// the CA get a moment.
    async fn own(&self, name: &str) -> Result<Arc<Svid>, HandshakeError> {
        let deadline = Instant::now() + self.0.settings.identity_wait;
        loop {
            let identity = self.0.local.identity(name);
            if let Some(svid) = identity.as_ref().and_then(|id| self.0.svids.valid(id)) {
                return Ok(svid);
            }
            // Without a name there is nothing to wait for.
            if Instant::now() >= deadline || name.is_empty() {
                return Err(match identity {
                    Some(identity) => HandshakeError::NoCertificate { identity },
                    None => HandshakeError::UnknownName { name: name.to_owned() },
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Tells the observer that a tunnel closed, also when its future is dropped.
struct Closed<'a> {
    observer: &'a Rc<dyn Observer>,
    cause: Option<Cause>,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.observer.closed(Side::Server, self.cause);
    }
}

/// The server name of a ClientHello, and all that was received of the handshake.
async fn read_hello(socket: &TcpStream) -> Result<(String, Vec<u8>), HandshakeError> {
    let mut reader = HelloReader::default();
    let mut received = Vec::new();
    loop {
        let before = received.len();
        handshake::read(socket, &mut received).await?;
        let mut new = received.get(before..).unwrap_or_default();
        while !new.is_empty() {
            reader.read_tls(&mut new)?;
            match reader.accept() {
                Ok(Some(hello)) => {
                    let name = hello.client_hello().server_name().map(str::to_owned);
                    return Ok((name.unwrap_or_default(), received));
                }
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut out = Vec::new();
                    // The alert that tells the peer why. Best effort.
                    if alert.write_all(&mut out).is_ok() {
                        let _ = socket.try_write(&out);
                    }
                    return Err(error.into());
                }
            }
        }
    }
}
