//! The CA's TLS listener: its certificate is issued by the CA itself and renewed while it serves, and
//! whoever connects and says nothing is let go. It asks for no client certificate, since nodes prove
//! themselves by their tokens.

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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::ca::{Ca, CaError};

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
    /// rustls does not take it.
    #[error("the controller's own certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// The certificate that the CA shows to agents.
pub struct ServingCertificate {
    ca: Arc<Ca>,
    names: Vec<String>,
    current: ArcSwap<Current>,
}

struct Current {
    certified: Arc<CertifiedKey>,
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
    pub fn new(ca: Arc<Ca>, names: Vec<String>, now: SystemTime) -> Result<Arc<Self>, ServingError> {
        let current = ArcSwap::from_pointee(make(&ca, &names, now)?);
        Ok(Arc::new(Self { ca, names, current }))
    }

    /// Makes a new one if half of the life is over. What is served stays if that fails.
    ///
    /// # Errors
    /// As for the first.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, ServingError> {
        if now < self.current.load().until {
            return Ok(false);
        }
        self.current.store(Arc::new(make(&self.ca, &self.names, now)?));
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

fn make(ca: &Ca, names: &[String], now: SystemTime) -> Result<Current, ServingError> {
    let (chain, secret) = ca.serving(names, SVID_LIFE, now)?;
    let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(secret.as_slice()));
    let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&secret)?;
    // Half of the life, without jitter: nobody else does the same at that time.
    let until = renew_at(now, now + SVID_LIFE, u32::MAX / 2);
    Ok(Current { certified: Arc::new(CertifiedKey::new(chain, signing)), until })
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().certified.clone())
    }
}

/// Accepts and shakes hands from a task of the current runtime, until the stream is dropped.
///
/// # Errors
/// When rustls has no TLS 1.3.
pub fn accept(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
) -> Result<ReceiverStream<io::Result<TlsStream<TcpStream>>>, ServingError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would outlive the certificate that it was made under.
    config.send_tls13_tickets = 0;
    let (ready, streams) = mpsc::channel(16);
    tokio::spawn(run(listener, TlsAcceptor::from(Arc::new(config)), ready));
    Ok(ReceiverStream::new(streams))
}

async fn run(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
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
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                // No receiver: the service has stopped.
                Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                // An agent with another root file shows here as an alert.
                Ok(Err(error)) => tracing::warn!(%peer, %error, "no TLS with a client of the CA API"),
                Err(_) => tracing::warn!(%peer, "a client of the CA API did not finish its TLS handshake"),
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
        let served = ServingCertificate::new(Arc::new(ca), vec!["localhost".to_owned()], now).unwrap();
        let leaf = || served.current.load().certified.cert[0].clone();
        let first = leaf();
        assert!(!served.renew_if_due(now + SVID_LIFE / 3).unwrap());
        assert_eq!(leaf(), first);
        assert!(served.renew_if_due(now + SVID_LIFE / 2 + Duration::from_secs(1)).unwrap());
        assert_ne!(leaf(), first);
    }
}
