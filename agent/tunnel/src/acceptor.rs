//! The accepting end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lark_core::explain::Tunnel;
use lark_core::framing::ConnectRequest;
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::observe::ByteCounters;
use lark_core::reason::Reason;
use lark_identity::SvidStore;
use lark_identity::svid::Svid;
use lark_identity::verify::{spiffe_id, validity};
use lark_sys::socket::{set_congestion, set_nodelay};
use rustls::crypto::CryptoProvider;
use rustls::server::{Accepted, Acceptor as HelloReader};
use rustls::{AlertDescription, Connection};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::ended::{Ended, Refusal};
use crate::engine::{Accepting, Engine, TunnelError};
use crate::handshake::{self, HandshakeError};
pub(crate) use crate::load::Load;
use crate::proof::Proof;
use crate::record::{RecordError, Records, Socket};
use crate::settings::{Observer, Side, TunnelSettings};
use crate::tls;

/// Says which identities this node accepts tunnels for.
pub trait LocalIdentities {
    /// The identity whose [`crate::name::server_name`] this is, if a captured workload of this node has it.
    fn identity(&self, server_name: &str) -> Option<SpiffeId>;
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
    pub pod: TcpStream,
    /// Where its bytes are counted.
    pub counters: Arc<ByteCounters>,
    /// Is called once at its end.
    pub on_end: Box<dyn FnOnce(Ended)>,
}

/// Decides about a stream and dials the application.
pub trait Deliver {
    /// The delivery, or why there is none: the peer is told the reason, not the detail. The future
    /// runs beside others of the same tunnel, and may be dropped at any time.
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
    #[error("{peer} was closed before its handshake: this worker has {limit} {what} already")]
    TooMany {
        /// The other end.
        peer: SocketAddr,
        /// `tunnels` or `handshakes`.
        what: &'static str,
        /// The limit.
        limit: usize,
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
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Handshake { why, .. } => why.cause(),
            Self::TimedOut { .. } => Tunnel::HandshakeTimeout.label(),
            Self::TooMany { .. } => Tunnel::TooMany.label(),
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

/// A worker's accepting end. Must be used within a `LocalSet`.
#[derive(Clone)]
pub struct Acceptor(Rc<Inner>);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("load", &self.0.load).finish_non_exhaustive()
    }
}

struct Proved {
    client: SpiffeId,
    server: SpiffeId,
    proof: Proof,
    tls: Connection,
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
        let provider = tls::provider();
        Self(Rc::new(Inner { svids, domain, local, settings, observer, provider, load: Rc::default() }))
    }

    /// Takes no more streams on any tunnel: each peer is told by GOAWAY, streams that are open may
    /// finish, and a tunnel without any is closed.
    pub fn drain(&self) {
        self.0.load.drain();
    }

    /// Tunnels that are open.
    pub fn tunnels(&self) -> usize {
        self.0.load.tunnels()
    }

    /// Serves one accepted connection until its end. Dropping the future closes the tunnel and resets
    /// its streams' sockets.
    ///
    /// # Errors
    /// When it became no tunnel, or the tunnel was lost; its streams were told.
    pub async fn serve(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        deliver: Rc<dyn Deliver>,
    ) -> Result<(), ServeError> {
        let inner = &self.0;
        set_nodelay(&socket);
        if let Some(congestion) = &inner.settings.congestion {
            set_congestion(&socket, congestion);
        }
        let began = Instant::now();
        let result = self.admit(&socket, peer).await;
        let outcome = result.as_ref().map(|_| ()).map_err(ServeError::reason);
        inner.observer.handshake(Side::Server, outcome, began.elapsed());
        let proved = result?;
        let client = proved.client.clone();
        let accepting = Accepting {
            deliver,
            client: proved.client,
            server: proved.server,
            peer,
            proof: proved.proof,
            load: inner.load.clone(),
        };
        let engine = Engine::server(Records::new(socket, proved.tls), accepting, inner.settings.clone());
        let _counted = inner.load.tunnel(engine.ready());
        inner.observer.tunnel(Side::Server, true);
        let closed = Closed(&inner.observer);
        let result = tokio::task::unconstrained(engine.run()).await;
        drop(closed);
        match result {
            Ok(()) | Err(TunnelError::Record(RecordError::Closed)) => Ok(()),
            Err(why) => Err(ServeError::Lost { peer, client, why }),
        }
    }

    async fn admit(&self, socket: &TcpStream, peer: SocketAddr) -> Result<Proved, ServeError> {
        let settings = &self.0.settings;
        let too_many = |what, limit| ServeError::TooMany { peer, what, limit };
        if self.0.load.tunnels() >= settings.tunnels_max {
            return Err(too_many("tunnels", settings.tunnels_max));
        }
        let _permit = self
            .0
            .load
            .handshake(settings.handshakes_max)
            .ok_or_else(|| too_many("handshakes", settings.handshakes_max))?;
        let limit = settings.handshake_timeout;
        tokio::time::timeout(limit, self.handshake(socket))
            .await
            .map_err(|_| ServeError::TimedOut { peer, limit })?
            .map_err(|why| ServeError::Handshake { peer, why })
    }

    async fn handshake(&self, socket: &TcpStream) -> Result<Proved, HandshakeError> {
        let inner = &self.0;
        let hello = read_hello(socket).await?;
        let name = hello.client_hello().server_name().map(str::to_owned).unwrap_or_default();
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
        let mut tls = match hello.into_connection(Arc::new(config)) {
            Ok(tls) => Connection::from(tls),
            Err((error, mut alert)) => {
                let _ = alert.write(&mut Socket(socket));
                return Err(error.into());
            }
        };
        handshake::complete(socket, &mut tls).await?;
        let missing = rustls::Error::NoCertificatesPresented;
        let leaf = tls.peer_certificates().and_then(|chain| chain.first()).ok_or(missing)?;
        let client = spiffe_id(leaf).map_err(HandshakeError::Certificate)?;
        let (_, not_after, _) = validity(leaf).map_err(HandshakeError::Certificate)?;
        let proof = Proof::new(inner.svids.clone(), not_after.min(own.not_after), bundle);
        Ok(Proved { client, server: own.id.clone(), proof, tls })
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
struct Closed<'a>(&'a Rc<dyn Observer>);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.tunnel(Side::Server, false);
    }
}

async fn read_hello(socket: &TcpStream) -> Result<Accepted, HandshakeError> {
    let mut reader = HelloReader::default();
    loop {
        socket.readable().await?;
        match reader.read_tls(&mut Socket(socket)) {
            Ok(0) => return Err(HandshakeError::Closed),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e.into()),
        }
        match reader.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let _ = alert.write(&mut Socket(socket));
                return Err(error.into());
            }
        }
    }
}
