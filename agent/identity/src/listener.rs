//! The CA's TLS listener: its certificate is issued by the CA itself and renewed while it serves, and
//! whoever connects and says nothing is let go. It asks for no client certificate, since nodes prove
//! themselves by their tokens.

mod limited;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use lark_core::constants::SVID_LIFE;
use lark_core::identity::schedule::renew_at;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use crate::authority::Authority;
use crate::ca::{Ca, CaError};
use crate::refusals::Refusals;
use lark_core::explain::CaRefusal;
pub use limited::Limited;
use limited::room;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once; more wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// Wait after an accept that failed, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the age of the certificate is looked at: the clock may be set at any time.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why the CA cannot serve TLS.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// No certificate could be made.
    #[error("the controller's own certificate cannot be made: {0}")]
    Make(#[from] CaError),
    /// There is no key to make one with.
    #[error("the controller has the key of none of its roots, so it cannot prove itself to agents")]
    NoKey,
    /// rustls does not take it.
    #[error("the controller's own certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// Who vouches for the CA's own listener; it may change.
pub trait Vouches: Send + Sync + 'static {
    /// The CA that vouches now.
    fn vouching(&self) -> Option<Arc<Ca>>;
}

impl Vouches for Authority {
    fn vouching(&self) -> Option<Arc<Ca>> {
        self.serving()
    }
}

/// One CA for ever, for tests and tools.
impl Vouches for Arc<Ca> {
    fn vouching(&self) -> Option<Arc<Ca>> {
        Some(self.clone())
    }
}

/// The certificate that the CA shows to agents.
pub struct ServingCertificate {
    by: Arc<dyn Vouches>,
    names: Vec<String>,
    current: ArcSwap<Current>,
}

struct Current {
    certified: Arc<CertifiedKey>,
    /// By whom it was made.
    by: Arc<Ca>,
    /// When the next one is made.
    until: SystemTime,
}

impl std::fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl ServingCertificate {
    /// Makes one for these host names and addresses.
    ///
    /// # Errors
    /// When a name is none, or the certificate cannot be made.
    pub fn new(by: Arc<dyn Vouches>, names: Vec<String>, now: SystemTime) -> Result<Arc<Self>, ServingError> {
        let ca = by.vouching().ok_or(ServingError::NoKey)?;
        let current = ArcSwap::from_pointee(make(ca, &names, now)?);
        Ok(Arc::new(Self { by, names, current }))
    }

    /// Makes a new one if half of the life is over, or another CA vouches now. What is served stays if
    /// that fails.
    ///
    /// # Errors
    /// As for the first.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, ServingError> {
        let ca = self.by.vouching().ok_or(ServingError::NoKey)?;
        let current = self.current.load();
        if now < current.until && Arc::ptr_eq(&current.by, &ca) {
            return Ok(false);
        }
        self.current.store(Arc::new(make(ca, &self.names, now)?));
        Ok(true)
    }

    /// Keeps it renewed, for ever. To be dropped at will.
    pub async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.renew_if_due(SystemTime::now()) {
                Ok(true) => tracing::info!("the controller's own certificate is renewed"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the controller's own certificate is not renewed"),
            }
        }
    }
}

fn make(ca: Arc<Ca>, names: &[String], now: SystemTime) -> Result<Current, ServingError> {
    let (chain, secret) = ca.serving(names, SVID_LIFE, now)?;
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(secret.as_slice()));
    let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&secret)?;
    // Half of the life, without jitter: nobody else does the same at that time.
    let until = renew_at(now, now + SVID_LIFE, u32::MAX / 2);
    Ok(Current { certified: Arc::new(CertifiedKey::new(chain, signing)), by: ca, until })
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().certified.clone())
    }
}

/// What is spoken inside the TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/2, for gRPC.
    Http2,
    /// HTTP/1.1, for questions of people.
    Http1,
}

/// Accepts and shakes hands from a task of the current runtime, until the stream is dropped.
///
/// # Errors
/// When rustls has no TLS 1.3.
pub fn accept(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    refusals: Refusals,
    speaks: Speaks,
) -> Result<ReceiverStream<io::Result<Limited>>, ServingError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = match speaks {
        Speaks::Http2 => vec![b"h2".to_vec()],
        Speaks::Http1 => vec![b"http/1.1".to_vec()],
    };
    // A resumed session would outlive the certificate that it was made under.
    config.send_tls13_tickets = 0;
    let (ready, streams) = mpsc::channel(16);
    tokio::spawn(run(listener, TlsAcceptor::from(Arc::new(config)), ready, refusals));
    Ok(ReceiverStream::new(streams))
}

async fn run(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<io::Result<Limited>>,
    refusals: Refusals,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let room = room();
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = ready.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let refuse = |reason: CaRefusal, error: String| {
            if let Some(left_out) = refusals.count(reason) {
                tracing::warn!(reason = reason.label(), %peer, error, left_out, "a client of the controller is refused");
            }
        };
        let Some(place) = room.take(peer.ip()) else {
            refuse(CaRefusal::ConnectionLimit, "too many connections are open".to_owned());
            continue;
        };
        let (acceptor, ready, refusals) = (acceptor.clone(), ready.clone(), refusals.clone());
        tokio::spawn(async move {
            let refuse = |error: String| {
                let reason = CaRefusal::Handshake;
                if let Some(left_out) = refusals.count(reason) {
                    tracing::warn!(reason = reason.label(), %peer, error, left_out, "no TLS with a client of the controller");
                }
            };
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                // No receiver: the service has stopped.
                Ok(Ok(stream)) => drop(ready.send(Ok(Limited::new(stream, place))).await),
                // An agent with another root file shows here as an alert.
                Ok(Err(error)) => refuse(error.to_string()),
                Err(_) => refuse("it did not finish its TLS handshake".to_owned()),
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lark_core::identity::TrustDomain;

    #[test]
    fn the_serving_certificate_is_renewed_at_half_life() {
        let now = SystemTime::now();
        let (ca, _) = Ca::create(&TrustDomain::new("cluster.local").unwrap(), now).unwrap();
        let ca = Arc::new(Arc::new(ca));
        let served = ServingCertificate::new(ca, vec!["localhost".to_owned()], now).unwrap();
        let leaf = || served.current.load().certified.cert[0].clone();
        let first = leaf();
        assert!(!served.renew_if_due(now + SVID_LIFE / 3).unwrap());
        assert_eq!(leaf(), first);
        assert!(served.renew_if_due(now + SVID_LIFE / 2 + Duration::from_secs(1)).unwrap());
        assert_ne!(leaf(), first);
    }
}
