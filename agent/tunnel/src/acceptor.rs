//! The accepting end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use lark_core::framing::ConnectRequest;
use lark_core::identity::{SpiffeId, TrustDomain};
use lark_core::observe::ByteCounters;
use lark_core::reason::Reason;
use lark_identity::SvidStore;
use lark_identity::svid::Svid;
use lark_identity::verify::{spiffe_id, validity};
use lark_sys::socket::{set_congestion, set_nodelay};
use rustls::Connection;
use rustls::crypto::CryptoProvider;
use rustls::server::{Accepted, Acceptor as HelloReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::ended::{Ended, Refusal};
use crate::engine::{Accepting, Engine, TunnelError};
use crate::handshake;
use crate::record::{RecordError, Records, Socket};
use crate::settings::{Observer, Side, TunnelSettings};
use crate::tls;

/// Says which identities this node accepts tunnels for.
pub trait LocalIdentities {
    /// The identity whose [`crate::name::server_name`] this is, if a captured workload of this node has it.
    fn identity(&self, server_name: &str) -> Option<SpiffeId>;
}

/// What a stream asks for and what its tunnel proved.
#[derive(Debug, Clone)]
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
    /// The delivery, or why there is none. May be dropped at any time.
    fn deliver(&self, inbound: Inbound) -> Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>>;
}

/// Why an accepted connection became no tunnel, or how the tunnel ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The handshake failed.
    #[error("handshake with {peer} failed: {what}")]
    Handshake {
        /// The other end.
        peer: SocketAddr,
        /// Which check, expected and found.
        what: String,
    },
    /// It took too long.
    #[error("handshake with {peer} took longer than {limit:?}")]
    TimedOut {
        /// The other end.
        peer: SocketAddr,
        /// The limit.
        limit: std::time::Duration,
    },
    /// The tunnel was lost.
    #[error("tunnel from {peer} lost: {what}")]
    Lost {
        /// The other end.
        peer: SocketAddr,
        /// Why.
        what: String,
    },
}

/// A worker's accepting end. Must be used within a `LocalSet`.
#[derive(Clone)]
pub struct Acceptor {
    svids: SvidStore,
    domain: TrustDomain,
    local: Rc<dyn LocalIdentities>,
    settings: TunnelSettings,
    observer: Rc<dyn Observer>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("domain", &self.domain).finish_non_exhaustive()
    }
}

struct Proved {
    client: SpiffeId,
    server: SpiffeId,
    expires: SystemTime,
    tls: Connection,
}

impl Acceptor {
    /// An accepting end for identities of `domain`.
    pub fn new(
        svids: SvidStore,
        domain: TrustDomain,
        local: Rc<dyn LocalIdentities>,
        settings: TunnelSettings,
        observer: Rc<dyn Observer>,
    ) -> Self {
        Self { svids, domain, local, settings, observer, provider: tls::provider() }
    }

    /// Serves one accepted connection until its end.
    ///
    /// # Errors
    /// When it became no tunnel, or the tunnel was lost; its streams were told.
    pub async fn serve(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        deliver: Rc<dyn Deliver>,
    ) -> Result<(), ServeError> {
        set_nodelay(&socket);
        if let Some(congestion) = &self.settings.congestion {
            set_congestion(&socket, congestion);
        }
        let began = Instant::now();
        let limit = self.settings.handshake_timeout;
        let result = tokio::time::timeout(limit, self.handshake(&socket, peer))
            .await
            .unwrap_or(Err(ServeError::TimedOut { peer, limit }));
        let outcome = result.as_ref().map(|_| ()).map_err(|_| Reason::TunnelHandshake);
        self.observer.handshake(Side::Server, outcome, began.elapsed());
        let proved = result?;
        let accepting = Accepting {
            deliver,
            client: proved.client,
            server: proved.server,
            peer,
            expires: proved.expires,
            svids: self.svids.clone(),
        };
        let engine = Engine::server(Records::new(socket, proved.tls), accepting, self.settings.clone());
        self.observer.tunnel(Side::Server, true);
        let result = engine.run().await;
        self.observer.tunnel(Side::Server, false);
        match result {
            Ok(()) | Err(TunnelError::Record(RecordError::Closed)) => Ok(()),
            Err(error) => Err(ServeError::Lost { peer, what: error.to_string() }),
        }
    }

    async fn handshake(&self, socket: &TcpStream, peer: SocketAddr) -> Result<Proved, ServeError> {
        let failed = |what: String| ServeError::Handshake { peer, what };
        let hello = read_hello(socket).await.map_err(|e| failed(e.to_string()))?;
        let name = hello.client_hello().server_name().map(str::to_owned).unwrap_or_default();
        let own = self.own(&name).await;
        let config = tls::server(&self.provider, own.as_deref(), self.svids.bundle(), self.domain.clone())
            .map_err(|e| failed(e.to_string()))?;
        let mut tls = match hello.into_connection(Arc::new(config)) {
            Ok(tls) => Connection::from(tls),
            Err((error, mut alert)) => {
                let _ = alert.write(&mut Socket(socket));
                return Err(failed(if own.is_none() { unknown(&name) } else { error.to_string() }));
            }
        };
        if let Err(error) = handshake::complete(socket, &mut tls).await {
            return Err(failed(match &error {
                _ if own.is_none() => unknown(&name),
                RecordError::Tls(tls) => {
                    tls::verify_error(tls).map_or_else(|| error.to_string(), ToString::to_string)
                }
                other => other.to_string(),
            }));
        }
        let own = own.ok_or_else(|| failed(unknown(&name)))?;
        let leaf = tls
            .peer_certificates()
            .and_then(|chain| chain.first())
            .ok_or_else(|| failed("the peer showed no certificate".to_owned()))?;
        let client = spiffe_id(leaf).map_err(|e| failed(e.to_string()))?;
        let (_, not_after, _) = validity(leaf).map_err(|e| failed(e.to_string()))?;
        Ok(Proved { client, server: own.id.clone(), expires: not_after.min(own.not_after), tls })
    }

    /// The certificate that a server name stands for. A workload may be on its way here: discovery and
    /// the CA get a moment.
    async fn own(&self, name: &str) -> Option<Arc<Svid>> {
        let deadline = Instant::now() + self.settings.identity_wait;
        loop {
            let found = self.local.identity(name).and_then(|id| self.svids.valid(&id));
            if found.is_some() || Instant::now() >= deadline {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

fn unknown(name: &str) -> String {
    format!("no captured workload of this node with a valid certificate has the server name {name:?}")
}

async fn read_hello(socket: &TcpStream) -> Result<Accepted, RecordError> {
    let mut reader = HelloReader::default();
    loop {
        socket.readable().await?;
        match reader.read_tls(&mut Socket(socket)) {
            Ok(0) => return Err(RecordError::Closed),
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
